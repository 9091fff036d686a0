"""Fixtures that several folders share: the real small model, and one small run of the whole line."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from command_line import QUICKSTART, SMALL, Run, nexus, nexus_here, settings
from made_once import once

# The first example pays for imports, and machines are shared: a time limit an example would fail at random.
hypothesis_settings.register_profile("house", deadline=None)
hypothesis_settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first: a process that ends with one leaves the other idle."""
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("lifecycle", "xdist_group")))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file, or of all files that name one `xdist_group`, share a process.

    What a module or a group sets up is then made once. xdist 3.8 hands out single tests, and learns of a group from an
    ending of a test's id that pytest 9.2 no longer takes from it: there, no group was kept together.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class FilesAndGroups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return process_of(config.rootpath / nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # it would put files with few tests last: they are the long ones
    return FilesAndGroups(config, log)


@functools.cache
def process_of(file: Path) -> str:
    """The name that tests of one process share."""
    named = re.search(r'xdist_group\("(\w+)"\)', file.read_text(encoding="utf-8"))
    return named[1] if named else str(file)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all test processes of this session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def small_model(shared_folder: Path) -> Path:
    """The folder of the real small model; skips where neither the cache nor the network has it."""
    with once(shared_folder, "model"):
        done = nexus_here("model", "pull", "smollm2-135m-instruct", "--json", cwd=shared_folder)
    if done.returncode != 0:
        pytest.skip(f"the small model cannot be had here: {done.stderr.strip()}")
    return Path(done.json["path"])


@pytest.fixture(scope="session")
def empty_registry(shared_folder: Path) -> Path:
    """MLflow's own database without a run or a model: its tables take seconds to make."""
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from nexus_llm.cloud.registry import ModelRegistry
    from nexus_llm.cloud.trackers import DATABASE

    with once(shared_folder, "registry") as runs:
        if not runs.exists():
            ModelRegistry(None, runs=runs)
    return runs / DATABASE


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
