"""Fixtures that several folders share: the real small model, and one small run of the whole line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from command_line import QUICKSTART, SMALL, Run, nexus, settings

# The first example pays for imports, and machines are shared: a time limit an example would fail at random.
hypothesis_settings.register_profile("house", deadline=None)
hypothesis_settings.load_profile("house")


@contextlib.contextmanager
def once(folder: Path, name: str) -> Iterator[Path]:
    """A folder that the first of several test processes fills while the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / name


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all test processes of this session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def small_model(shared_folder: Path) -> Path:
    """The folder of the real small model; skips where neither the cache nor the network has it."""
    with once(shared_folder, "model"):
        done = nexus("model", "pull", "smollm2-135m-instruct", "--json", cwd=shared_folder)
    if done.returncode != 0:
        pytest.skip(f"the small model cannot be had here: {done.stderr.strip()}")
    return Path(done.json["path"])


@pytest.fixture(scope="session")
def small_run(small_model: Path, shared_folder: Path) -> Run:
    """A small run of the quickstart, made once for all tests."""
    with once(shared_folder, "small-run") as root:
        result = root / "result.json"
        if not result.exists():
            root.mkdir(exist_ok=True)
            done = nexus("run", str(QUICKSTART), "--json", *settings(SMALL), cwd=root)
            assert done.returncode in (0, 3, 4), done.stderr
            result.write_text(done.stdout)
    return Run(root, json.loads(result.read_text()))
