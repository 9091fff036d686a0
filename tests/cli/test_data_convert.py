from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from nexus_llm.cli import data_convert
from nexus_llm.errors import DataError, NexusError, UsageError

SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "id": "one"}
HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture(autouse=True)
def _own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_convert.SignalInterrupt, "install", lambda self: None)


def convert(*arguments: object) -> None:
    app = typer.Typer()
    data_convert.register(app)
    app.callback()(lambda: None)
    app(["convert", *map(str, arguments)], standalone_mode=False)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_written_in_the_new_layout_and_the_first_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(tmp_path / "a.jsonl", SHAREGPT, {**SHAREGPT, "id": "two"}), tmp_path / "new/b.jsonl"
    convert(source, "--to", "messages", "--out", out)
    assert rows_of(out) == [{"messages": HI, "id": "one"}, {"messages": HI, "id": "two"}]
    said = capsys.readouterr()
    assert "detected: sharegpt; the first row as messages:" in said.err
    assert '"content": "Hello"' in said.err
    assert said.out == f"2 rows (2 sharegpt) as messages → {out}\n"


def test_json_says_what_was_done_and_nothing_else_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preference = {"prompt": "Hi", "chosen": "Hello", "rejected": "x" * 500}
    source, out = write(tmp_path / "a.jsonl", preference, SHAREGPT, SHAREGPT), tmp_path / "b.jsonl"
    convert(source, "--to", "messages", "--out", out, "--limit", "2", "--json")
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "in": str(source), "out": str(out), "to": "messages", "found": {"preference": 1, "sharegpt": 1}, "written": 2,
        "rejected_answers_left_out": 1, "skipped": 0, "first_skipped": [], "example": {"messages": HI},
    }  # fmt: skip
    assert len(rows_of(out)) == 2


def test_a_preference_keeps_both_answers_as_preference(tmp_path: Path) -> None:
    source, out = (
        write(tmp_path / "a.jsonl", {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}),
        tmp_path / "b.jsonl",
    )
    convert(source, "--to", "preference", "--out", out)
    answer = [{"role": "assistant", "content": "No"}]
    assert rows_of(out) == [{"prompt": HI[:1], "chosen": HI[1:], "rejected": answer}]


def test_an_impossible_row_stops_it_with_its_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.jsonl", SHAREGPT, {"text": "running"}), tmp_path / "b.jsonl"
    out.write_text("old")
    with pytest.raises(DataError, match=r"a\.jsonl:2: running text has no turns") as error:
        convert(source, "--to", "alpaca", "--out", out)
    assert "--skip-broken" in error.value.fix
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_impossible_rows_are_left_out_on_demand_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.jsonl", SHAREGPT, {"text": "running"}, 3)
    convert(source, "--to", "alpaca", "--out", tmp_path / "b.jsonl", "--skip-broken")
    assert rows_of(tmp_path / "b.jsonl") == [{"instruction": "Hi", "input": "", "output": "Hello", "id": "one"}]
    said = capsys.readouterr()
    assert "2 left out" in said.out
    assert f"left out: {source}:2: running text" in said.err


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(write(tmp_path / "a.jsonl", SHAREGPT), "--to", "text", "--out", tmp_path / "b.jsonl", "--dry-run")
    assert not (tmp_path / "b.jsonl").exists()
    assert "nothing written (--dry-run)" in capsys.readouterr().out


def test_another_text_field_becomes_text(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"question": "Why?", "answer": "So."})
    convert(source, "--to", "text", "--out", tmp_path / "b.jsonl", "--text-field", "question")
    assert rows_of(tmp_path / "b.jsonl") == [{"text": "Why?", "answer": "So."}]


@pytest.mark.parametrize(
    ("source", "out", "kind", "complaint"),
    [
        ("none.jsonl", "b.jsonl", UsageError, "does not exist"),
        (".", "b.jsonl", UsageError, "is a folder"),
        ("a.png", "b.jsonl", UsageError, "nobody here reads"),
        ("a.jsonl", "b.json", UsageError, "one JSON object a line"),
        ("a.jsonl", "a.jsonl", UsageError, "the file that is read"),
        ("empty.jsonl", "b.jsonl", DataError, "no row that can be converted"),
    ],
)
def test_paths_that_cannot_work_are_refused(
    tmp_path: Path, source: str, out: str, kind: type[NexusError], complaint: str
) -> None:
    write(tmp_path / "a.jsonl", SHAREGPT)
    write(tmp_path / "a.png")
    write(tmp_path / "empty.jsonl")
    with pytest.raises(kind, match=complaint):
        convert(tmp_path / source, "--to", "messages", "--out", tmp_path / out)


SHARED = Path(__file__).parents[3] / "shared" / "data" / "llamafactory-demos"


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/llamafactory-demos")
def test_real_tool_calls_go_to_messages_and_back_unchanged(tmp_path: Path) -> None:
    source = SHARED / "glaive_toolcall_en_demo.json"
    convert(source, "--to", "messages", "--out", tmp_path / "there.jsonl")
    convert(tmp_path / "there.jsonl", "--to", "sharegpt", "--out", tmp_path / "back.jsonl")
    before = json.loads(source.read_text())
    after = rows_of(tmp_path / "back.jsonl")
    assert len(after) == len(before) == 300

    def meaning(row: Any) -> Any:
        calls = [
            json.loads(turn["value"]) if turn["from"] == "function_call" else turn["value"]
            for turn in row["conversations"]
        ]
        return calls, [turn["from"] for turn in row["conversations"]], json.loads(row.get("tools") or "[]")

    assert [meaning(row) for row in after] == [meaning(row) for row in before]
