from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tiny_training import make_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that a second thread would only wait for the first."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder


@pytest.fixture(scope="session")
def load_decoder(tiny_model: Path) -> Callable[..., Any]:
    """Makes a float32 decoder of the tiny model, or of the model in another folder."""

    def load(folder: Path = tiny_model, *, dtype: Any = "float32", max_length: int = 32) -> Any:
        from nexus_llm.train.fused.decoder import Decoder
        from nexus_llm.train.model import load_model

        return Decoder(load_model(folder, dtype=dtype), max_length=max_length)

    return load
