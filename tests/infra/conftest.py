"""The plans that tests of infra/ share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from infrastructure_plans import plan
from terraform_here import copy_of_infra


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Name of a plan → its document, made once a process: tests that use it are of one xdist_group."""
    copy = copy_of_infra(tmp_path_factory.mktemp("plans"))
    return functools.cache(lambda name: plan(name, copy))
