"""`nexus data sources` and `nexus data fetch` as a user types them; also killed and stopped half way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import nexus_llm.cli
from lying_server import LyingServer, Trick, lying_server

CONTENT = bytes(range(256)) * 8_000  # 2 MB
# The group stands alone here, so that the test does not depend on what else `nexus data` holds.
CHILD = """
import sys, typer, nexus_llm.cli
from nexus_llm.cli.data_sources import register
group, nexus_llm.cli.app = typer.Typer(), typer.Typer(pretty_exceptions_enable=False)
register(group)
nexus_llm.cli.app.add_typer(group, name="data")
nexus_llm.cli.main(sys.argv[1:])
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server() -> Iterator[LyingServer]:
    with lying_server() as one:
        yield one


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Command]:
    """Runs one command line in this process; gives (exit code, stdout, stderr)."""
    from nexus_llm.cli.data_sources import register

    group, app = typer.Typer(), typer.Typer(pretty_exceptions_enable=False)
    register(group)
    app.add_typer(group, name="data")
    monkeypatch.setattr(nexus_llm.cli, "app", app)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*words: str) -> tuple[int, str, str]:
        code = nexus_llm.cli.run_command(words)
        out, err = capsys.readouterr()
        return code, out, err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def child(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """The same command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *words],
        cwd=cwd,
        env={**os.environ, "NEXUS_CACHE": str(cwd / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], server: LyingServer) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        server.closing.wait(0.01)


def test_the_list_is_one_document(command: Command) -> None:
    code, out, err = command("data", "sources", "--json")
    sources = json.loads(out)["sources"]
    assert (code, err) == (0, "")
    assert len(sources) > 20
    assert all({"id", "licence", "status", "kind", "size_bytes", "tokens", "access"} <= set(one) for one in sources)
    only = json.loads(command("data", "sources", "--kind", "preference", "--json")[1])["sources"]
    assert {one["kind"] for one in only} == {"preference"}
    assert command("data", "sources", "--kind", "music")[0] == 2


def test_the_list_is_a_table_for_people(command: Command) -> None:
    _, out, _ = command("data", "sources")
    row = next(line for line in out.splitlines() if "redpajama-1t" in line)
    assert "reduced" in row
    assert "1,184 G" in row


def test_one_source_is_shown_in_full_with_its_recipe(command: Command) -> None:
    _, out, _ = command("data", "sources", "tulu-3-sft")
    assert "ODC-BY-1.0" in out
    assert "nexus data fetch tulu-3-sft --to data/tulu-3-sft" in out
    assert "path: data/tulu-3-sft" in out
    assert json.loads(command("data", "sources", "c4", "--json")[1])["recipe"].startswith("data:")
    assert command("data", "sources", "c44")[0] == 2


def test_what_is_gone_is_refused_in_two_lines(command: Command, tmp_path: Path) -> None:
    code, _, err = command("data", "fetch", "the-pile", "--to", str(tmp_path / "x"))
    assert code == 1
    assert err.startswith("error: The Pile is gone")
    assert err.splitlines()[-1].startswith("  fix: take another corpus: nexus data fetch common-pile")
    assert not (tmp_path / "x").exists()


def test_terms_are_not_accepted_by_silence(command: Command, server: LyingServer, tmp_path: Path) -> None:
    words = ("data", "fetch", "the-stack", "--max-documents", "3", "--to", str(tmp_path / "x"))
    code, _, err = command(*words)
    assert code == 2
    assert "needs that you accept" in err
    assert "--yes" in err


def test_a_plan_makes_nothing(command: Command, server: LyingServer, tmp_path: Path) -> None:
    urls = [server.add("/a", CONTENT), server.add("/b", CONTENT)]
    code, out, _ = command("data", "fetch", *urls, "--to", str(tmp_path / "x"), "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert (plan["bytes_left"], plan["unknown_sizes"]) == (2 * len(CONTENT), 0)
    assert plan["free_bytes"] > 0
    assert server.gets("/a") == []
    assert (
        "2 of 2 files to fetch: 4.1 MB" in command("data", "fetch", *urls, "--to", str(tmp_path / "x"), "--dry-run")[1]
    )


def test_files_come_and_are_skipped_the_second_time(command: Command, server: LyingServer, tmp_path: Path) -> None:
    words = ("data", "fetch", server.add("/a", CONTENT), "--to", str(tmp_path / "x"), "--json")
    first = json.loads(command(*words)[1])
    assert (first["bytes"], first["files"][0]["skipped"]) == (len(CONTENT), False)
    assert json.loads(command(*words)[1])["files"][0]["skipped"] is True
    code, out, _ = command(*words[:-1])
    assert (code, out) == (0, f"1 files (2.0 MB) in {tmp_path / 'x'}: 0 new, 1 were there\n")


def test_a_wrong_hash_is_an_error_of_two_lines(command: Command, server: LyingServer, tmp_path: Path) -> None:
    url = server.add("/a", CONTENT)
    code, out, err = command("data", "fetch", url, "--to", str(tmp_path), "--sha256", "0" * 64, "--json")
    assert code == 1
    assert json.loads(out)["error"]["type"] == "DataError"
    assert [line[:6] for line in err.splitlines()[-2:]] == ["error:", "  fix:"]


def test_a_file_goes_to_a_bucket(command: Command, server: LyingServer, tmp_path: Path) -> None:
    import fsspec

    code, out, err = command("data", "fetch", server.add("/a", CONTENT), "--to", "memory://here/x", "--json")
    assert code == 0, err
    assert json.loads(out)["to"] == "memory://here/x"
    assert fsspec.filesystem("memory").cat_file("/here/x/a") == CONTENT


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 75)])
def test_a_fetch_that_is_ended_half_way_is_continued(
    server: LyingServer, tmp_path: Path, number: int, expected: int
) -> None:
    urls = [server.add("/a", CONTENT), server.add("/b", CONTENT[::-1], tricks=[Trick(stall_after=1_500_000)])]
    words = ("data", "fetch", *urls, "--to", "x", "--json")
    part, finished = tmp_path / "x" / "b.part", tmp_path / "x" / "a"
    with child(*words, cwd=tmp_path) as first:
        wait_for(lambda: finished.exists() and part.exists() and part.stat().st_size > 1_000_000, first, server)
        first.send_signal(number)
        _, err = first.communicate(timeout=60)
    assert first.returncode == expected
    if expected == 75:
        assert "fix: the same command continues" in err
    with child(*words, cwd=tmp_path) as second:
        out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert (tmp_path / "x" / "b").read_bytes() == CONTENT[::-1]
    assert len(server.gets("/a")) == 1
    assert int(server.gets("/b")[-1]["range"].removeprefix("bytes=").rstrip("-")) > 1_000_000
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"a", "b", "fetch.json"}
    document: dict[str, Any] = json.loads(out)
    assert [one["name"] for one in document["files"]] == ["a", "b"]
