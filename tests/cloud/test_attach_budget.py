"""`nexus jobs attach --budget-usd` on a job that runs already: the real command and clients, an emulated Glue."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

boto3 = pytest.importorskip("boto3", reason="needs the aws extra: pip install boto3")
pytest.importorskip("moto.server", reason="needs the dev extra: pip install 'moto[s3]' flask")

from nexus_llm.cli import console, jobs  # noqa: E402
from nexus_llm.cloud.emulator import running_emulator  # noqa: E402
from nexus_llm.cloud.emulator_patches import (  # noqa: E402
    Answer,
    Call,
    Memory,
    Moto,
    Patch,
    PatchedApplication,
    Wsgi,
    json_answer,
)
from nexus_llm.errors import BudgetError  # noqa: E402

DOMAIN = Path(__file__).parents[2] / "recipes/domain-8b-sagemaker.yaml"  # 10 x G.2X: 8.80 USD an hour
BEGAN_HOURS_AGO = 2


@dataclass
class LongGlue:
    """A Glue whose run began hours ago and goes on until it is stopped."""

    has_ended: bool = False
    stopped: list[str] = field(default_factory=list)

    def wrap(self, app: Wsgi) -> Wsgi:
        reason = "moto ends a run at once, and cannot stop one"
        return PatchedApplication(
            app,
            (
                Patch("glue", "GetJobRun", reason, (), self._describe),
                Patch("glue", "BatchStopJobRun", reason, (), self._stop),
            ),
        )

    def _describe(self, call: Call, memory: Memory, moto: Moto) -> Answer:
        told = moto(call).document["JobRun"]
        state = "STOPPED" if call.document["RunId"] in self.stopped else "SUCCEEDED" if self.has_ended else "RUNNING"
        began = told["StartedOn"] - 3600 * BEGAN_HOURS_AGO
        return json_answer({"JobRun": told | {"JobRunState": state, "StartedOn": began, "DPUSeconds": 72_000.0}})

    def _stop(self, call: Call, memory: Memory, moto: Moto) -> Answer:
        self.stopped += call.document["JobRunIds"]
        return json_answer({"SuccessfulSubmissions": [{"JobRunId": run} for run in call.document["JobRunIds"]]})


@pytest.fixture
def glue(monkeypatch: pytest.MonkeyPatch) -> Iterator[LongGlue]:
    long = LongGlue()
    with running_emulator(wrap=long.wrap) as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # the command takes signals over; pytest keeps its own
        yield long


def started() -> str:
    """The id of a job that somebody began elsewhere."""
    client = boto3.client("glue")
    client.create_job(Name="nexus-data", Role="r", Command={"Name": "glueetl"}, Tags={"project": "nexus-llm"})
    return str(client.start_job_run(JobName="nexus-data")["JobRunId"])


def attach(run: str, *words: str) -> Any:
    app = typer.Typer()
    jobs.register(app)
    return CliRunner().invoke(app, ["jobs", "attach", f"glue/nexus-data/{run}", "--recipe", str(DOMAIN), *words])


def test_a_running_job_that_has_used_up_the_budget_is_stopped_with_exit_code_5(glue: LongGlue) -> None:
    run = started()
    found = attach(run, "--budget-usd", "17.5")
    assert isinstance(found.exception, BudgetError)
    assert found.exception.exit_code == 5
    told = re.search(r"was asked to stop: at most ([\d.]+) of 17\.50 USD", found.exception.what)
    assert told
    assert float(told[1]) == pytest.approx(8.80 * BEGAN_HOURS_AGO, abs=0.5)
    assert glue.stopped == [run]
    assert boto3.client("glue").get_job_run(JobName="nexus-data", RunId=run)["JobRun"]["JobRunState"] == "STOPPED"


def test_a_job_that_ended_within_the_budget_is_left_alone_and_its_bill_is_told(
    glue: LongGlue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_INTERVAL_SECONDS", 0.0)
    glue.has_ended = True  # 20 DPU hours at 0.44 USD: half of what ten workers could have used by now
    found = attach(started(), "--budget-usd", "10", "--json")
    assert "at most 8.80 of 10.00 USD" in found.stderr
    assert json.loads(found.stdout)["state"] == "SUCCEEDED"
    assert glue.stopped == []
