"""Another model takes over while answers run: none is cut, new ones come from the new model, nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nexus_llm.errors import ServingError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.commands import engine_command
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.model_folder import read_model
from running_server import RunningServer, running_server


@pytest.fixture
def server(tiny_folder: Path) -> Iterator[RunningServer]:
    pytest.importorskip("xllamacpp", reason="the [llama] extra is not installed")
    recipe = ServeRecipe(engine="llama.cpp", kv_cache_gib=0.05)
    model = read_model(tiny_folder, name="tiny", engine="llama.cpp")
    limits = SupervisorLimits()
    command = engine_command(model, recipe)
    with running_server(model, command, recipe=recipe, limits=limits, drain_seconds=0) as running:
        yield running


def swap(server: RunningServer, folder: Path) -> None:
    background = server.background
    assert background.server is not None
    assert background.loop is not None
    asyncio.run_coroutine_threadsafe(background.server.swap(folder), background.loop).result(120)


def ask(server: RunningServer, **options: Any) -> Any:
    asked = {"model": "tiny", "prompt": "a", "temperature": 0, "extra_body": {"ignore_eos": True}, **options}
    return server.client().completions.create(**asked)


def test_open_streams_finish_and_new_requests_go_to_the_new_engine(
    server: RunningServer, tiny_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    (other / "manifest.json").write_text('{"id": "the-other-one"}')
    before = server.engine_pid
    first_chunks, counts = [], []

    def stream() -> None:
        news = ask(server, max_tokens=400, stream=True, stream_options={"include_usage": True})
        first_chunks.append(next(news))
        counts.append([chunk.usage.completion_tokens for chunk in news if chunk.usage][-1])

    threads = [threading.Thread(target=stream) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(first_chunks) < 8:
        time.sleep(0.01)
    swap(server, other)
    answer = ask(server, max_tokens=2)
    for thread in threads:
        thread.join(60)
    assert counts == [400] * 8
    assert answer.system_fingerprint == "the-other-one"
    assert server.engine_pid != before
    assert not psutil.pid_exists(before)


def test_a_folder_that_is_no_model_leaves_the_old_one_at_work(server: RunningServer, tmp_path: Path) -> None:
    before = server.engine_pid
    with pytest.raises(ServingError, match=r"config\.json"):
        swap(server, tmp_path)
    assert server.engine_pid == before
    assert ask(server, max_tokens=2).usage.completion_tokens == 2


def test_weights_that_do_not_load_leave_the_old_one_at_work(
    server: RunningServer, tiny_folder: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    weights = next(broken.glob("*.gguf"))
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ServingError, match="cannot start"):
        swap(server, broken)
    assert ask(server, max_tokens=2).usage.completion_tokens == 2


def test_the_new_engine_that_dies_is_started_again(server: RunningServer, tiny_folder: Path) -> None:
    swap(server, tiny_folder)
    before = server.engine_pid
    os.kill(before, 9)
    assert ask(server, max_tokens=2).usage.completion_tokens == 2
    assert server.engine_pid != before
