from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus_llm.artifacts import Artifact
from nexus_llm.data.judging import rules
from nexus_llm.data.reading.blocks import BLOCK_BYTES
from nexus_llm.data.spark.exchange import Exchange
from nexus_llm.data.spark.files import SourceFile, groups, tasks_of
from nexus_llm.data.spark.passes import GroupWorker
from nexus_llm.data.spark.runner import error_of, marked
from nexus_llm.data.stage import STAGE
from nexus_llm.data.taken import Tools
from nexus_llm.errors import DataError, NexusError, StorageError, TryAgainError
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe
from running_stages import folder_as_artifact, run_stage
from tiny_model import write_tiny_model
from tool_templates import HERMES

pytestmark = pytest.mark.xdist_group("spark")

SHARED = Path(__file__).parents[3] / "shared" / "data"
SUBJECTS = ("bread", "rain", "boats", "trees", "maps", "bees", "glass", "rivers", "snow", "coffee", "chess", "tides")


def article(number: int) -> str:
    """A text that resembles no other."""
    draw = np.random.default_rng(number)
    return f"Article {number}. " + " ".join(f"{SUBJECTS[draw.integers(12)]}{draw.integers(1_000)}" for _ in range(60))


def tool_row(number: int) -> dict[str, Any]:
    """A conversation that calls a tool, with personal data in the call."""
    call = {"name": "search", "arguments": {"query": article(600 + number), "reply_to": "jane.doe@corp.org"}}
    return {
        "conversations": [
            {"from": "human", "value": "Search the archive."},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": article(700 + number)},
            {"from": "gpt", "value": article(800 + number)},
        ],
        "tools": json.dumps([{"name": "search", "description": "Finds articles.", "parameters": {"type": "object"}}]),
    }


def write_corpus(folder: Path) -> Path:
    """Every kind of trouble in small: copies and near copies within and across files, broken lines, conversations."""
    folder.mkdir()
    rows: list[Any] = [{"text": article(number)} for number in range(60)]
    rows += [{"text": article(3)}, {"text": f"{article(4)} One more word."}, {"text": f"{article(4)} Two more words."}]
    rows += [{"text": "too short"}, {"text": "7 * 6 = 42. " * 40}]
    rows += [{"prompt": article(100 + number), "completion": article(200 + number)} for number in range(8)]
    rows += [{"prompt": article(101), "completion": article(201)}]
    rows += [
        {"prompt": article(300 + number), "chosen": article(400 + number), "rejected": f"No {number}."}
        for number in range(8)
    ]
    rows += [tool_row(number) for number in (0, 1, 2, 3, 4, 5, 3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "a.jsonl").write_text(lines + "{broken\n")
    (folder / "b.md").write_text(article(500) + "\r\n\x00")
    (folder / "c.txt").write_text(article(7))
    with gzip.open(folder / "d.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"text": f"{article(9)} And so on."}) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = write_tiny_model(tmp_path_factory.mktemp("model"))
    (folder / "chat_template.jinja").write_text(HERMES)
    return folder_as_artifact("model", folder)


def recipe_for(*paths: Path, engine: str, **spark: Any) -> Recipe:
    sources = [
        {"type": "files", "path": str(path), "name": f"own{number}", "max_broken_share": 0.1}
        for number, path in enumerate(paths)
    ]
    spark = {"partitions": 2, **spark}
    return Recipe.model_validate(
        {"name": "t", "data": {"sources": sources, "shard_tokens": 20_000, "engine": engine, "spark": spark}}
    )


def hashes(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in artifact.manifest.files}


@pytest.mark.parametrize("has_bucket", [pytest.param(False, marks=pytest.mark.lifecycle), True])
def test_spark_makes_the_same_artifact_as_the_embedded_engine(
    session: Any, model: Artifact, tmp_path: Path, has_bucket: bool
) -> None:
    paths = [write_corpus(tmp_path / "corpus")]
    if (SHARED / "awsdocs-neardup").exists() and not has_bucket:
        paths.append(SHARED / "tos-contracts" / "hi5" / "*.md")
    bucket = {"exchange": (tmp_path / "bucket").as_uri()} if has_bucket else {}
    embedded = run_stage(STAGE, recipe_for(*paths, engine="embedded"), {"model": model}, tmp_path / "embedded")
    spark = run_stage(STAGE, recipe_for(*paths, engine="spark", **bucket), {"model": model}, tmp_path / "spark")
    assert hashes(spark) == hashes(embedded)
    assert spark.id == embedded.id
    assert spark.manifest.facts == embedded.manifest.facts
    facts = spark.manifest.facts
    assert facts["duplicates"]["exact"] >= 3
    assert facts["duplicates"]["near"] >= 3
    assert facts["shards"]["train"] > 1
    assert facts["quarantined"] == 1
    assert any(name.endswith(".rejected_tokens.npy") for name in hashes(spark))
    assert "chat_template" not in facts["rejected"]
    assert facts["pii"]["EMAIL_ADDRESS"] >= 6
    assert not list((tmp_path / "spark").rglob("work"))
    assert not list((tmp_path / "bucket").rglob("*.*"))


def test_a_damaged_archive_stops_the_job_with_its_place(session: Any, model: Artifact, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    whole = (corpus / "d.jsonl.gz").read_bytes()
    (corpus / "d.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match=r"d\.jsonl\.gz:\d+: the compressed data is damaged"):
        run_stage(STAGE, recipe_for(corpus, engine="spark"), {"model": model}, tmp_path / "made")


def test_a_request_to_stop_cancels_the_job(session: Any, model: Artifact, tmp_path: Path) -> None:
    class Stop:
        asked = 0

        def requested(self) -> str | None:
            self.asked += 1
            return "SIGTERM" if self.asked > 2 else None

    recipe = recipe_for(write_corpus(tmp_path / "corpus"), engine="spark")
    with pytest.raises(TryAgainError, match="SIGTERM"):
        run_stage(STAGE, recipe, {"model": model}, tmp_path / "made", Ports(interrupt=Stop()))
    assert not list((tmp_path / "made").rglob("manifest.json"))


def one_file(path: Path, **changes: Any) -> SourceFile:
    return SourceFile(0, str(path), path.stat().st_size, "own", **changes)


def test_parts_of_a_large_file_give_each_block_once(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    line = json.dumps({"text": "word " * 20_000}) + "\n"
    path.write_text(line * (20 * BLOCK_BYTES // len(line)))
    shared = list(groups([one_file(path)], shared_file_bytes=path.stat().st_size // 3))
    assert [group.parts for group in shared] == [4, 4, 4, 4]
    found = [task for group in shared for task in tasks_of(group, _local, tmp_path)]
    whole = [task for group in groups([one_file(path)]) for task in tasks_of(group, _local, tmp_path)]
    assert len({task.number for task in found}) == len(found)
    in_order = [task.pieces[0].content for task in sorted(found, key=lambda task: task.number)]
    assert in_order == [piece.content for task in whole for piece in task.pieces]
    assert len({len(list(tasks_of(group, _local, tmp_path))) for group in shared}) > 1 or len(found) > 8


def test_small_files_share_a_group_in_their_order(tmp_path: Path) -> None:
    files = [SourceFile(number, f"{number}.txt", BLOCK_BYTES // 3, "own") for number in range(10)]
    made = list(groups(files))
    assert [len(group.files) for group in made] == [3, 3, 3, 1]
    assert [file.index for group in made for file in group.files] == list(range(10))


class _local:
    def __init__(self, location: str, folder: Path) -> None:
        self.path = Path(location)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    "error",
    [
        DataError("a.gz:3: damaged", fix="fetch it again"),
        StorageError("no space é", fix="free some"),
        OSError(28, "No space left on device", "/full/x"),
    ],
)
def test_an_error_of_ours_crosses_from_executor_to_driver(error: NexusError | OSError) -> None:
    text = f"Job aborted.\n  File x\nRuntimeError: {marked(error)}\n\tat org.apache.spark"
    back = error_of(text)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert getattr(back, "fix", None) == getattr(error, "fix", None)


def test_another_failure_keeps_its_own_words() -> None:
    error = error_of("Job aborted due to stage failure\nTraceback\nMemoryError: no more\n\tat java")
    assert isinstance(error, DataError)
    assert error.what == "Spark gave up (MemoryError: no more)"


def test_a_bucket_gives_back_what_was_offered_and_leaves_no_copies(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path / "local", (tmp_path / "bucket").as_uri())
    block = exchange.place / "encoded" / "0000001"
    block.mkdir(parents=True)
    (block / "tokens.npy").write_bytes(b"12")
    (exchange.place / "encoded" / "0000001.json").write_bytes(b"{}")
    exchange.offer("encoded/0000001*")
    exchange.offer("encoded/0000001*")
    assert not list(exchange.place.rglob("*.*"))
    with exchange.at_hand("encoded/0000001", "encoded/0000001.json", "encoded/absent"):
        assert (block / "tokens.npy").read_bytes() == b"12"
        assert (exchange.place / "encoded" / "0000001.json").exists()
    assert not block.exists()


def test_a_shared_folder_moves_nothing(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    (tmp_path / "a.json").write_bytes(b"{}")
    exchange.offer("*.json")
    with exchange.at_hand("a.json"):
        pass
    assert (tmp_path / "a.json").exists()
    assert exchange.place == tmp_path


@pytest.mark.parametrize("has_bucket", [False, True])
def test_a_task_that_an_earlier_run_finished_is_not_done_again(tmp_path: Path, has_bucket: bool) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    files = [SourceFile(number, str(path), 1, "own") for number, path in enumerate(sorted(corpus.iterdir()))]
    bucket = tmp_path / "bucket"
    exchange = Exchange(tmp_path / "work", bucket.as_uri() if has_bucket else None)
    tools = Tools(recipe=recipe_for(corpus, engine="spark").data, spec=rules.load_spec())
    (group,) = groups(files)
    first = GroupWorker(tools, exchange, _local, None)(group)
    summary = (bucket if has_bucket else tmp_path / "work") / "spark-taken" / "0000000.json"
    values = json.loads(summary.read_bytes())
    summary.write_text(json.dumps({**values, "contaminated": {"a mark": 1}}))
    again = GroupWorker(tools, exchange, _local, None)(group)
    # Had the task been done again, it would have counted again.
    assert again[0].summary.contaminated == {"a mark": 1}
    assert [task.summary.kept for task in again] == [task.summary.kept for task in first]


def test_a_trial_takes_so_many_records_in_order(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    files = [SourceFile(number, str(path), 1, "own") for number, path in enumerate(sorted(corpus.iterdir()))]
    tools = Tools(recipe=recipe_for(corpus, engine="spark").data, spec=rules.load_spec())
    (group,) = groups(files)
    taken = GroupWorker(tools, Exchange(tmp_path / "work"), _local, 12)(group)
    assert sum(sum(task.summary.read.values()) for task in taken) == 12
    assert [(task.first, task.last) for task in taken] == [(1, 12)]
