"""The proof's own rules: what was not run does not hold, and a drill that lost something is not called equal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import proof_operate

    yield proof_operate
    for name in ("proof_operate", "proof_page", "claims"):
        sys.modules.pop(name, None)


def verdicts(scenario: Any) -> list[bool | None]:
    return [one["holds"] for one in scenario["claims"] if one["target"]]


def test_a_part_that_could_not_run_does_not_hold(proof: Any) -> None:
    assert verdicts(proof.restored({})) == [False]


@pytest.mark.parametrize(
    ("equal", "seconds", "not_run", "expected"),
    [
        (True, 12.0, [], [True, True, True]),
        (False, 12.0, [], [True, True, False]),
        (True, 301.0, [], [False, True, True]),
        (True, 12.0, ["PostgreSQL is not installed"], [True, False, True]),
    ],
)
def test_a_drill_holds_where_all_is_equal_in_time_and_all_was_tried(
    proof: Any, equal: bool, seconds: float, not_run: list[str], expected: list[bool]
) -> None:
    system = {
        "name": "keys", "by": "nexus restore", "rpo_seconds": 1.0, "rto_seconds": 2.0, "lost": 3,
        "compared": "6 tables", "equal": equal,
    }  # fmt: skip
    document = {
        "rto_seconds": seconds, "limit_seconds": 300.0, "backup_seconds": 1.0, "bytes": 5, "not_run": not_run,
        "systems": [system],
    }  # fmt: skip
    scenario = proof.restored(document)
    assert verdicts(scenario) == expected
    told = {"title": "t", "date": "d", "hardware": "h", "versions": {}, "note": "", "holds": False}
    assert "keys: equal (6 tables)" in proof.page(told | {"scenarios": [scenario]})


def test_claims_of_rollouts_stand_in_the_scenario_of_their_proof(proof: Any) -> None:
    told = [{"what": f"{name}: streams lost", "holds": True} for name in ("swap", "drill", "drill")]
    assert [len(one["claims"]) for one in proof.by_proof(told)] == [1, 2]
    assert proof.by_proof(told)[0]["claims"][0]["what"] == "streams lost"
    assert proof.by_proof([]) == []
