"""`nexus data` and its commands, in a process of their own where the exit code or the terminal counts."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from command_line import REPOSITORY, nexus_here
from data_artifacts import FIRST, identity, write_artifact, write_files
from encoded_blocks import rows
from nexus_llm import cli
from nexus_llm.artifacts import Artifact
from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.looking import erasure
from nexus_llm.data.rows import conversation_json
from nexus_llm.data.tokens.encode import encode_block
from nexus_llm.data.tokens.fast_tokenizers import reference
from nexus_llm.data.tokens.shards import plan_shards, write_shard
from tiny_model import write_tiny_model
from tool_templates import HERMES, TOOLS

GROUP = ["docs/a.jsonl:1", "docs/a.jsonl:2", "docs/a.jsonl:5", "docs/b.jsonl:3"]


@dataclass(frozen=True)
class Shop:
    """A workspace with one run: a tiny model, data made by hand, and a chain of artifacts made from it."""

    root: Path
    data: Artifact


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))

    def write_model(folder: Path) -> dict[str, Any]:
        write_tiny_model(folder)
        return {"base": "tiny"}

    model = write_artifact(Path("cache"), "model", {}, files=write_model)
    tokenizer = ChatTokenizer.load(model.folder)
    data = write_artifact(Path(), "data", {"model": model.id}, files=lambda folder: write_files(folder, tokenizer))
    train = write_artifact(Path(), "train", {"model": model.id, "data": data.id}, key="bbbb")
    write_artifact(Path(), "package", {"train": train.id}, key="aaaa")
    write_artifact(Path(), "train", {"model": model.id}, key="ffff")
    run = Path("runs/one")
    run.mkdir(parents=True)
    rows = {one.kind: {"key": one.key, "id": one.id, "path": str(one.folder)} for one in (model, data, train)}
    (run / "artifacts.json").write_text(json.dumps(rows))
    return Shop(tmp_path, data)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, stdout) of a command in this process."""
    code = cli.run_command(["data", *arguments])
    return code, capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out = call(capsys, *arguments, "--json")
    return json.loads(out) | {"code": code}


def test_help_shows_the_recipe_and_the_commands_and_the_verb_has_its_own_help(tmp_path: Path) -> None:
    shown = nexus_here("data", "--help", cwd=tmp_path).stdout
    assert "nexus data [OPTIONS] RECIPE | COMMAND" in shown
    for command in ("sources", "fetch", "convert", "why", "preview", "erase"):
        assert f"  {command} " in shown
    verb = nexus_here("data", "any.yaml", "--help", cwd=tmp_path).stdout
    assert "--dry-run" in verb
    assert "--set A.B=C" in verb


@pytest.mark.parametrize("before", [(), ("--dry-run", "--json")])
def test_a_recipe_still_follows_the_verb_with_options_on_both_sides(
    before: tuple[str, ...], tmp_path: Path, small_model: Path
) -> None:
    recipe = REPOSITORY / "recipes" / "quickstart.yaml"
    options = ("--set", "name=other") if before else ("--dry-run", "--json", "--set", "name=other")
    done = nexus_here("data", *before, str(recipe), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["stage"] for row in done.json["stages"]] == ["model", "data"]
    assert done.json["run"] == "other"


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        (["wy", "abc"], "wy is neither a recipe file nor a command", "did you mean: nexus data why"),
        (["prevew"], "prevew is neither", "did you mean: nexus data preview"),
        (["zzzzzz"], "zzzzzz is neither", "preview, erase"),
        (["no.yaml"], "no.yaml cannot be read", "check the path"),
        (["sub/no"], "sub/no cannot be read", "check the path"),
        ([], "RECIPE", "nexus data --help"),
        (["--json"], "RECIPE", "nexus data --help"),
        (["why"], "needs a record", "nexus data why ID"),
        (["preview", "--split", "trian"], "--split trian is no split", "train, validation, test"),
    ],
)
def test_a_mistyped_word_is_a_usage_error_that_names_the_nearest(
    arguments: list[str],
    what: str,
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run_command(["data", *arguments]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()
    assert what in first
    assert fix in second


def test_a_file_that_is_called_like_no_recipe_is_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wy").write_text("just words")
    assert cli.run_command(["data", "wy"]) == 2
    assert "a recipe is a mapping" in capsys.readouterr().err


def test_why_tells_where_a_kept_record_lies_and_which_others_have_its_text(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, "why", FIRST[:6])
    (record,) = found["records"]
    assert found["code"] == 0
    assert record["place"] == {"split": "train", "shard": "train-00000", "row": 0, "tokens": 45, "repeats": 2} | {
        "tokens": record["place"]["tokens"]
    }
    assert [one["origin"] for one in found["same_text"]] == GROUP[1:]
    code, text = call(capsys, "why", FIRST[:6])
    assert code == 0
    assert "kept: train-00000 row 0" in text
    assert "docs/b.jsonl:3" in text


def test_why_tells_rule_value_and_threshold_of_a_rejected_record(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = document(capsys, "why", "docs/a.jsonl:3")["records"]
    assert (record["rule"], record["value"], record["threshold"]) == ("min_characters", 5.0, 50)
    assert record["unit"] == "characters"
    assert record["bound"] == "at least"
    _, text = call(capsys, "why", "docs/a.jsonl:3")
    assert "at least 50 (characters)" in text
    (copy,) = document(capsys, "why", "docs/a.jsonl:2")["records"]
    assert copy["duplicate_of"] == FIRST


def test_why_tells_the_error_of_a_quarantined_record(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = call(capsys, "why", "docs/c.jsonl:7")
    assert "quarantined: could not be read: not JSON: unexpected end" in text


def test_why_of_an_unknown_record_names_near_ones_and_exits_1(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "why", "docs/a.jsonl:9")
    assert found["code"] == 1
    assert found["records"] == []
    assert found["nearest_origins"][0] == "docs/a.jsonl:5"


def test_why_of_a_rule_shows_examples_but_never_personal_data(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "why", "--rule", "min_characters", "--count", "2")
    assert [one["origin"] for one in found["records"]] == ["docs/a.jsonl:3", "docs/b.jsonl:5"]
    code, text = call(capsys, "why", "--rule", "pii")
    assert code == 0
    assert "4111" not in text
    assert cli.run_command(["data", "why", "--rule", "mni_characters"]) == 2
    assert "min_characters 2" in capsys.readouterr().err


def test_without_a_run_there_is_an_error_with_a_fix_and_with_several_the_latest_counts(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path("runs/earlier")
    other.mkdir()
    (other / "artifacts.json").write_text(json.dumps({"data": {"key": "k", "id": "gone", "path": "nowhere"}}))
    os.utime(other / "artifacts.json", ns=(0, 0))
    assert document(capsys, "why", FIRST)["artifact"] == str(shop.data.folder)
    assert cli.run_command(["data", "why", FIRST, "--root", "elsewhere"]) == 1
    assert "no run that has read its text" in capsys.readouterr().err


def test_a_run_its_name_or_the_data_artifact_itself_can_be_named(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = (
        ["--run", "one"],
        ["--run", "runs/one"],
        ["--artifact", str(shop.data.folder)],
        ["--artifact", shop.data.id],
    )
    for way in ways:
        assert document(capsys, "why", FIRST, *way)["artifact"] == str(shop.data.folder)


def test_preview_as_json_gives_tokens_mask_and_their_text(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    running, conversation, _ = document(capsys, "preview")["documents"]
    assert running["loss_mask"] == [True] * len(running["tokens"])
    assert (
        len(conversation["loss_mask"])
        == len(conversation["tokens"])
        == sum(piece["tokens"] for piece in conversation["pieces"])
    )
    given, learned = conversation["pieces"][:2]
    assert (given["is_learned"], learned["is_learned"]) == (False, True)
    assert given["text"] == "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    assert learned["text"] == "It is what it is.<|im_end|>"


def test_preview_without_a_terminal_marks_what_is_learned_and_disarms_control_characters(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text = call(capsys, "preview", "--id", "docs/a.jsonl:4")
    assert "assistant\n[[It is what it is.<|im_end|>]]" in text
    _, text = call(capsys, "preview", "--split", "validation")
    assert "\x1b" not in text
    assert "␛[31mred" in text


def test_preview_marks_the_calls_of_the_assistant_and_not_what_tools_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    asked = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    talk: list[Any] = [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [asked]},
        {"role": "tool", "content": "SNOW", "name": "weather"},
        {"role": "assistant", "content": "Wear a coat."},
    ]

    def write_model(folder: Path) -> dict[str, Any]:
        write_tiny_model(folder)
        (folder / "chat_template.jinja").write_text(HERMES)
        return {"base": "tiny"}

    def write_data(folder: Path) -> dict[str, Any]:
        tokenizer = ChatTokenizer.load(model.folder)
        one = rows(["x"], messages=conversation_json(talk, tools=TOOLS))
        block = encode_block(one, reference(tokenizer), tokenizer)
        for shard in plan_shards([(0, block.sizes())], shard_tokens=10_000):
            write_shard(folder, shard, block=lambda _: block, dtype=block.tokens.dtype)
        return {}

    model = write_artifact(Path("cache"), "model", {}, files=write_model)
    data = write_artifact(Path(), "data", {"model": model.id}, files=write_data)
    _, text = call(capsys, "preview", "--artifact", str(data.folder))
    assert '[[<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>]]' in text
    assert "[[Wear a coat.<|im_end|>]]" in text
    assert text.count("[[") == 2


def test_preview_shortens_long_documents_and_says_so(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = call(capsys, "preview", "--id", FIRST, "--max-tokens", "4")
    assert "lazy dogs" not in text
    assert "more tokens" in text


def test_preview_of_a_record_that_was_not_kept_says_where_to_look(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_command(["data", "preview", "--id", "docs/a.jsonl:3"]) == 1
    assert "it is rejected" in capsys.readouterr().err


@pytest.mark.parametrize(("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_preview_colours_a_terminal_unless_the_user_wants_none(
    shop: Shop, variables: dict[str, str], is_coloured: bool
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"TERM": "xterm", **variables}
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "nexus_llm.cli", "data", "preview", "--id", "docs/a.jsonl:4"]
    process = subprocess.Popen(command, stdout=its_end, env=environment)
    os.close(its_end)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while piece := os.read(terminal, 65536):
            shown += piece
    os.close(terminal)
    assert process.wait() == 0
    assert (b"\x1b[1;32mIt is what it is.<|im_end|>\x1b[0m" in shown) is is_coloured
    assert (b"[[It is what it is.<|im_end|>]]" in shown) is not is_coloured


def test_erasing_one_record_lists_its_copies_and_all_that_was_made_of_it(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, "erase", FIRST, "--yes", "--reason", "request 17")
    assert [one["origin"] for one in found["records"] + found["same_text"]] == GROUP
    (held,) = found["data"]
    assert held["id"] == shop.data.id
    assert {(one.get("shard"), one.get("row")) for one in held["records"]} == {("train-00000", 0), (None, None)}
    assert sorted(one["kind"] for one in found["made_from_it"]) == ["package", "train"]
    assert found["rebuild"] == ["nexus run runs/one/recipe.resolved.yaml --set data.erase_path=erased.txt"]
    assert any("retrain" in sentence for sentence in found["cannot"])
    listed = erasure.parse(Path("erased.txt").read_text(), place="erased.txt")
    assert listed == dict.fromkeys(map(identity, GROUP), "request 17")
    assert found["added"] == 4
    assert document(capsys, "erase", FIRST, "--yes")["added"] == 0


def test_only_leaves_the_copies_alone(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "erase", FIRST, "--only", "--yes", "--list", "sub/mine.txt")["ids"] == [FIRST]
    assert Path("sub/mine.txt").read_text() == f"{FIRST}\n"


def test_a_dry_run_changes_nothing_and_nothing_is_erased_without_a_yes(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = call(capsys, "erase", FIRST, "--dry-run")
    assert code == 0
    assert "train-00000 row 0" in text
    assert "package" in text
    assert cli.run_command(["data", "erase", FIRST, "--json"]) == 2
    assert not Path("erased.txt").exists()


@pytest.mark.parametrize(("name", "code"), [("docs/x.jsonl:1", 1), ("docs/c.jsonl:7", 1), ("docs/a.jsonl", 2)])
def test_what_names_no_one_record_cannot_be_erased(
    shop: Shop, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_command(["data", "erase", name, "--yes"]) == code
    assert not Path("erased.txt").exists()


def test_a_broken_list_is_refused_and_left_as_it_is(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    Path("erased.txt").write_text("not an id\n")
    assert cli.run_command(["data", "erase", FIRST, "--yes"]) == 1
    assert "erased.txt:1" in capsys.readouterr().err
    assert Path("erased.txt").read_text() == "not an id\n"


def test_other_data_artifacts_with_the_record_and_unfinished_ones_are_named(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = ChatTokenizer.load(next(Path("cache/artifacts/model").glob("*/tokenizer.json")).parent)
    other = write_artifact(Path(), "data", {"x": "y"}, key="eeee", files=lambda folder: write_files(folder, tokenizer))
    left = Path("artifacts/train/dddd/work")
    left.mkdir(parents=True)
    found = document(capsys, "erase", FIRST, "--dry-run")
    assert {one["id"] for one in found["data"]} == {shop.data.id, other.id}
    assert found["unfinished"] == ["artifacts/train/dddd"]


@pytest.mark.lifecycle
def test_erase_with_rebuild_makes_shards_without_the_text_and_promotes_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    write_tiny_model(tmp_path / "tiny")
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "omicron"]
    texts = [" ".join(f"{word} {number} and {other}" for word in words for other in words[:3]) for number in range(12)]
    lines = [json.dumps({"text": text}) for text in (*texts, texts[5], texts[5])]
    Path("docs.jsonl").write_text("\n".join(lines) + "\n")
    Path("recipe.yaml").write_text(
        "name: small\nmodel: {base: tiny}\ndata:\n  sources: [{type: files, name: docs, path: docs.jsonl}]\n"
        "  language: {identify: false}\n  near_duplicates: {jaccard: 0.99}\n  workers: 1\n"
    )
    assert cli.run_command(["data", "recipe.yaml", "--json"]) == 0
    capsys.readouterr()
    before = document(capsys, "why", "docs.jsonl:6")
    assert before["records"][0]["state"] == "kept"
    assert len(before["same_text"]) == 2
    found = document(capsys, "erase", "docs.jsonl:6", "--yes", "--rebuild")
    assert found["rebuilt"]["path"] != before["artifact"]
    for line in (6, 13, 14):
        (record,) = document(capsys, "why", f"docs.jsonl:{line}")["records"]
        assert (record["rule"], record["excerpt"]) == ("erased", None)
    folder = Path(found["rebuilt"]["path"])
    kept = pl.concat([pl.read_parquet(path) for path in folder.glob("*.documents.parquet")])
    assert len(kept) == 11
    assert texts[5] not in kept["text"].to_list()
    assert not pl.read_parquet(folder / "rejected.parquet")["excerpt"].str.contains("alpha 5").any()
    assert [row["path"] for row in document(capsys, "erase", "docs.jsonl:6", "--dry-run")["data"]] == [
        before["artifact"]
    ]
