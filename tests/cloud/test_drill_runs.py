"""The drill against a process that behaves like training, and against ones that do not survive a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pretending_trainer
from nexus_llm.cloud.drill_runs import DrillResult, run_drill
from nexus_llm.cloud.processes import Child, descendants
from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.ports import Interrupt, Ports
from nexus_llm.train.drill import Kill, plan_kills

STEPS, SAVE_STEPS = 12, 3


def drill(tmp_path: Path, kills: tuple[Kill, ...], *, fault: str = "none", ports: Ports | None = None) -> DrillResult:
    roots = tmp_path / "undisturbed", tmp_path / "killed"
    for root in roots:
        root.mkdir()

    def command(root: Path) -> list[str]:
        return [sys.executable, pretending_trainer.__file__, str(root), str(STEPS), str(SAVE_STEPS), fault]

    return run_drill(kills, steps=STEPS, roots=roots, command=command, seed=1, ports=ports or Ports())


def test_a_run_that_survives_every_moment_and_a_changed_byte_is_equal(tmp_path: Path) -> None:
    kills = plan_kills(kills=6, steps=STEPS, save_steps=SAVE_STEPS, corrupt=True, seed=2)
    result = drill(tmp_path, kills)
    assert result.is_equal, result.agreements
    assert len(result.casualties) == 6
    assert {one.what for one in result.agreements} >= {"weights", "optimizer state", "order of the data"}
    corrupted = [one for one in result.casualties if one.corrupted]
    assert len(corrupted) == 1
    (aside,) = corrupted[0].set_aside
    assert aside == {"name": f"step-{corrupted[0].whole[-1]:08d}", "reason": "was altered"}
    assert corrupted[0].continued_from < corrupted[0].whole[-1]
    for one in result.casualties:
        if not one.corrupted:
            assert one.continued_from == max(one.whole, default=0)
            assert one.set_aside == ()


def test_the_writing_of_a_checkpoint_is_hit_in_the_middle(tmp_path: Path) -> None:
    kills = tuple(Kill("while a checkpoint is written", step, 0.3) for step in (3, 6, 12))
    result = drill(tmp_path, kills)
    assert all(one.half_written for one in result.casualties), result
    assert [one.hit for one in result.casualties][-1] == "after step 12, saving step 12"
    assert result.is_equal


def test_a_run_that_forgets_its_place_in_the_data_is_not_equal_and_the_step_is_named(tmp_path: Path) -> None:
    result = drill(tmp_path, (Kill("between steps", 7, 0.0),), fault="forgets where it was")
    assert not result.is_equal
    by_name = {one.what: one for one in result.agreements}
    assert by_name["order of the data"].note.startswith("step 7: rows_sha256")
    assert by_name["optimizer state"].note == "first different in the checkpoint after step 9"
    assert not by_name["weights"].equal


def test_a_run_that_cannot_go_on_is_an_error_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the checkpoint is of another recipe") as caught:
        drill(tmp_path, (Kill("between steps", 5, 0.0), Kill("between steps", 8, 0.0)), fault="refuses to resume")
    assert "exit code 1" in caught.value.what
    assert str(tmp_path / "killed" / "output.log") in caught.value.what


def test_who_stops_the_drill_stops_its_processes(tmp_path: Path) -> None:
    class Impatient(Interrupt):
        def requested(self) -> str | None:
            return "SIGINT"

    with pytest.raises(TryAgainError, match="SIGINT"):
        drill(tmp_path, (), ports=Ports(interrupt=Impatient()))
    assert descendants(os.getpid()) == [] or all(
        pretending_trainer.__file__ not in _command(one) for one in descendants(os.getpid())
    )


def test_a_kill_reaches_workers_in_sessions_of_their_own(tmp_path: Path) -> None:
    worker = "import time; time.sleep(600)"
    parent = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, '-c', {worker!r}], start_new_session=True);"
        "print(p.pid, flush=True); p.wait()"
    )
    child = Child([sys.executable, "-c", parent], log=tmp_path / "log")
    while not (tmp_path / "log").read_text().strip():
        assert child.exit_code is None
    pid = int((tmp_path / "log").read_text())
    child.kill()
    assert _command(pid) == ""


def _command(pid: int) -> str:
    """What a process runs; nothing where it is gone, or only waits to be fetched by its parent."""
    done = subprocess.run(["ps", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True)
    return "" if done.stdout.startswith("Z") else done.stdout
