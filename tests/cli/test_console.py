from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from command_line import nexus, nexus_here
from nexus_llm.cli.console import LineProgress, SignalInterrupt, Stopped, _amount, _duration


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["rnu"], 2, "rnu"),
        (["run"], 2, "RECIPE"),
        (["run", "no.yaml"], 2, "no.yaml cannot be read"),
        (["run", "no.yaml", "--bogus"], 2, "--bogus"),
        (["show", "ffff"], 1, "ffff is no artifact here"),
    ],
)
def test_every_error_is_two_lines_with_the_documented_exit_code(
    arguments: list[str], code: int, what: str, tmp_path: Path
) -> None:
    done = nexus_here(*arguments, cwd=tmp_path)
    assert done.returncode == code
    first, second = done.stderr.strip().splitlines()
    assert first.startswith("error: ")
    assert what in first
    assert second.startswith("  fix: ")
    assert done.stdout == ""


def test_with_json_an_error_is_one_document_on_stdout(tmp_path: Path) -> None:
    done = nexus("run", "no.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert "no.yaml" in done.json["error"]["what"]


def test_an_error_whose_reader_has_gone_keeps_its_exit_code_and_its_two_lines(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "nexus_llm.cli", "run", "no.yaml", "--json"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2


def test_help_names_every_verb_and_the_version_is_printed(tmp_path: Path) -> None:
    shown = nexus_here("--help", cwd=tmp_path).stdout
    for verb in ("run", "data", "train", "package", "evaluate", "serve", "chat", "bench", "show", "lineage", "diff"):
        assert f"  {verb} " in shown
    assert nexus_here("--version", cwd=tmp_path).stdout.strip()


def test_a_signal_stops_work_that_asks_at_a_safe_point_and_other_work_at_once() -> None:
    interrupt = SignalInterrupt()
    with pytest.raises(Stopped):
        interrupt._handle(signal.SIGINT, None)
    assert interrupt.requested() is None
    interrupt._handle(signal.SIGTERM, None)
    assert interrupt.requested() == "SIGTERM"
    with pytest.raises(Stopped):
        interrupt._handle(signal.SIGTERM, None)


def test_an_interrupted_command_says_that_it_continues() -> None:
    code = textwrap.dedent("""
        import sys, time
        from nexus_llm import cli
        from nexus_llm.cli.console import SignalInterrupt
        @cli.app.command("wait")
        def wait():
            SignalInterrupt().install()
            print("ready", flush=True)
            time.sleep(60)
        cli.main(["wait"])
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "the same command continues" in errors


def test_lines_tell_the_share_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.start("train", total=10, unit="step")
    progress._printed = progress._started = progress._started - 6
    progress.advance(5, "loss 2.5")
    progress.finish("10 steps")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "50 %" in shown.err
    assert "6 s left" in shown.err
    assert "loss 2.5" in shown.err


@pytest.mark.parametrize(
    ("value", "text"), [(None, "?"), (3, "3"), (2.54, "2.5"), (123456, "123 k"), (2_500_000, "2.5 M")]
)
def test_amounts_are_short(value: float | None, text: str) -> None:
    assert _amount(value) == text


def test_durations_are_read_aloud() -> None:
    assert _duration(59.6) == "1 min 00 s"
    assert _duration(12) == "12 s"
