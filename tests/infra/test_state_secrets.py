"""No plan of any stage would write a secret into its state or hand one on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from infrastructure_controls import told_secrets
from infrastructure_plans import plans

pytestmark = [pytest.mark.xdist_group("infrastructure_plans"), pytest.mark.timeout(1800)]


@pytest.mark.parametrize("name", sorted(plans()))
def test_neither_state_nor_outputs_hold_a_secret(planned: Callable[[str], dict[str, Any]], name: str) -> None:
    assert told_secrets(planned(name)) == []
    assert planned(name)["output_changes"]
