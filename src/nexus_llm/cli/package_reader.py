"""How the package stage asks our own engines and server: a `PackageReader` on top of `nexus_llm.serve`."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class OwnPackageReader:
    """Engines in this process, and a server with its engine beside it."""

    def why_not(self, engine: str) -> str | None:
        from nexus_llm.cli.serve import NEEDED_MODULES
        from nexus_llm.serve.engines.commands import ENGINE_MODULES

        needed = NEEDED_MODULES if engine == "server" else (ENGINE_MODULES[engine][0],)
        missing = [module for module in needed if importlib.util.find_spec(module) is None]
        return f"the Python module {missing[0]} is not installed" if missing else None

    def predictions(
        self, engine: str, weights: Path, rows: Sequence[Sequence[int]]
    ) -> Iterator[npt.NDArray[np.float32]]:
        from nexus_llm.serve.engines.predictions import predictions

        return predictions(engine, weights, rows)

    @contextlib.contextmanager
    def server(self, folder: Path, engine: str) -> Iterator[str]:
        from nexus_llm.recipe import ServeRecipe
        from nexus_llm.serve.background import background_server
        from nexus_llm.serve.server import prepare

        recipe = ServeRecipe.model_validate({"engine": engine, "kv_cache_gib": 1})
        model, command, _ = prepare(folder, name="package", recipe=recipe)
        with background_server(model, command, recipe=recipe) as running:
            yield running.url
