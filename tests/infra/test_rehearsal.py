"""A whole rehearsal: real Terraform, Spark, training, gateway and engine. Minutes, so only where they are asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from terraform_here import binary

pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")

from nexus_llm.cli import run_command

pytestmark = [pytest.mark.xdist_group("emulated"), pytest.mark.timeout(3000)]
QUICKSTART = Path(__file__).parent.parent.parent / "recipes" / "quickstart.yaml"


@pytest.mark.skipif(not os.environ.get("NEXUS_PROOF"), reason="minutes: make rehearse lives it")
def test_a_recipe_lives_its_whole_life_on_the_emulated_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary()
    code = run_command(["aws", "rehearse", str(QUICKSTART), "--root", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["steps"] if one["verdict"] != "done"] == []
    assert all(one["times"] for one in told["faults"])
    steps = {one["name"]: one["facts"] for one in told["steps"]}
    assert steps["quotas"]["exit code"] == 6
    assert "exit code 75" in steps["train"]["SIGTERM"]
    assert steps["scale"]["answers lost"] == 0
    assert steps["deploy"]["answers lost"] == 0
    assert "nexus-small-5xx" in steps["rollback"]["alarms that went on, and off again"]
    assert steps["rollback"]["answers lost after it"] == 0
    assert steps["down"]["with something planted"].startswith("exit code 7")
    assert [len(one["left"]) for one in told["receipts"]] == [1, 0]
    assert (tmp_path / "runs" / "rehearsal" / "report.html").exists()
    assert code == 0
