from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, load
from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.stage import STAGE, _check_disk
from nexus_llm.errors import ArtifactError, DataError, TryAgainError
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe
from nexus_llm.records import SPLITS
from running_stages import folder_as_artifact, run_stage
from tiny_model import write_tiny_model

SHARED = Path(__file__).parents[3] / "shared" / "data"
SUBJECTS = ("bread", "rain", "boats", "trees", "maps", "bees", "glass", "rivers", "snow", "coffee", "chess", "tides")


def article(number: int) -> str:
    """A text that resembles no other."""
    draw = np.random.default_rng(number)
    words = [f"{SUBJECTS[draw.integers(12)]}{draw.integers(1_000)}" for _ in range(60)]
    return f"Article {number}. " + " ".join(words)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return folder_as_artifact("model", write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def recipe_for(corpus: Path, **changes: Any) -> Recipe:
    source = {"type": "files", "path": str(corpus), "name": "own", **changes.pop("source", {})}
    return Recipe.model_validate({"name": "t", "data": {"sources": [source], **changes}})


def run(corpus: Path, model: Artifact, root: Path, **changes: Any) -> Artifact:
    return run_stage(STAGE, recipe_for(corpus, **changes), {"model": model}, root)


def shards(artifact: Artifact, split: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    names = ("tokens", "offsets", "loss_mask", "is_conversation")
    return [
        tuple(np.load(artifact.folder / f"{split}-{number:05d}.{name}.npy", allow_pickle=False) for name in names)
        for number in range(artifact.manifest.facts["shards"][split])
    ]


def documents(artifact: Artifact, *splits: str) -> pl.DataFrame:
    files = [
        file for split in splits or SPLITS for file in sorted(artifact.folder.glob(f"{split}-*.documents.parquet"))
    ]
    return pl.concat([pl.read_parquet(file) for file in files])


def test_shards_hold_exactly_the_documents_of_the_table_beside_them(
    corpus: Path, model: Artifact, tmp_path: Path
) -> None:
    write_lines(corpus / "a.jsonl", [{"text": article(number)} for number in range(60)])
    made = run(corpus, model, tmp_path / "made", shard_tokens=3_000)
    tokenizer = ChatTokenizer.load(model.folder)
    assert made.manifest.facts["shards"]["train"] > 1
    for split in SPLITS:
        rows = iter(documents(made, split)["text"])
        for tokens, offsets, mask, conversations in shards(made, split):
            assert tokens.dtype == np.uint16
            assert len(tokens) == len(mask) == offsets[-1] <= 3_000
            assert mask.all()
            assert not conversations.any()
            for start, end in pairwise(offsets):
                assert tokens[start:end].tolist() == tokenizer.encode_document(next(rows))
        assert next(rows, None) is None


def test_what_is_learned_was_cleaned(corpus: Path, model: Artifact, tmp_path: Path) -> None:
    write_lines(corpus / "a.jsonl", [{"text": f"{article(number)}  \r\n\x07End\x00.\r\n"} for number in range(9)])
    made = run(corpus, model, tmp_path / "made")
    assert all(text.endswith("\nEnd.") for text in documents(made)["text"])


def test_a_conversation_marks_what_the_assistant_wrote(corpus: Path, model: Artifact, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Tell me about {number}. {article(number)}", "completion": article(900 + number)}
        for number in range(9)
    ]
    write_lines(corpus / "a.jsonl", rows)
    made = run(corpus, model, tmp_path / "made")
    tokens, offsets, mask, conversations = shards(made, "train")[0]
    tokenizer = ChatTokenizer.load(model.folder)
    assert conversations.all()
    learned = tokenizer.decode(tokens[: offsets[1]][mask[: offsets[1]]].tolist())
    messages = json.loads(documents(made, "train")["messages"][0])
    assert learned == messages[1]["content"]


def test_every_document_that_vanished_has_a_reason_and_the_counts_add_up(
    corpus: Path, model: Artifact, tmp_path: Path
) -> None:
    texts = [article(number) for number in range(20)]
    rows = [
        {"text": text} for text in [*texts, texts[0], texts[1] + " One more word.", "too short", "7 * 6 = 42. " * 40]
    ]
    write_lines(corpus / "a.jsonl", [*rows, '{"broken'])
    (corpus / "photo.png").write_bytes(b"\x89PNG")
    made = run(corpus, model, tmp_path / "made", source={"max_broken_share": 0.1})
    facts = made.manifest.facts
    assert facts["read"] == 24 == facts["kept"] + sum(facts["rejected"].values()) + sum(facts["duplicates"].values())
    assert facts["duplicates"] == {"exact": 1, "near": 1}
    assert facts["rejected"] == {"min_alphabetic_share": 1, "min_characters": 1}
    assert facts["sources"]["own"]["unknown_endings"] == {".png": 1}
    assert sum(facts["documents"].values()) == facts["kept"] == len(documents(made))
    rejected = pl.read_parquet(made.folder / "rejected.parquet")
    assert set(rejected["rule"]) == {"min_alphabetic_share", "min_characters", "exact_duplicate", "near_duplicate"}
    assert rejected.filter(rule="min_characters")["value"].to_list() == [9]
    # The longer of two near-duplicates stays.
    assert rejected.filter(rule="near_duplicate")["origin"].to_list() == [f"{corpus}/a.jsonl:2"]
    (broken,) = (json.loads(line) for line in (made.folder / "quarantine.jsonl").read_text().splitlines())
    assert (broken["file"], broken["line"]) == (f"{corpus}/a.jsonl", 25)


def test_near_duplicates_that_are_kept_never_straddle_splits(corpus: Path, model: Artifact, tmp_path: Path) -> None:
    texts = [article(number) + f" Ending {ending}." for number in range(40) for ending in "abc"]
    write_lines(corpus / "a.jsonl", [{"text": text} for text in texts])
    made = run(
        corpus,
        model,
        tmp_path / "made",
        near_duplicates={"keep": "all"},
        split={"validation_share": 0.2, "test_share": 0.2},
    )
    homes: dict[str, set[str]] = {}
    for split in SPLITS:
        for text in documents(made, split)["text"]:
            homes.setdefault(text.split(".")[0], set()).add(split)
    assert len(homes) == 40
    assert all(len(found) == 1 for found in homes.values())
    assert made.manifest.facts["kept"] == 120


def test_the_same_text_gives_the_same_artifact(corpus: Path, model: Artifact, tmp_path: Path) -> None:
    write_lines(corpus / "a.jsonl", [{"text": article(number)} for number in range(30)])
    first, second = (run(corpus, model, tmp_path / name) for name in ("one", "two"))
    assert first.id == second.id
    write_lines(corpus / "a.jsonl", [{"text": article(number)} for number in range(31)])
    assert run(corpus, model, tmp_path / "three").key != first.key


def test_max_documents_stops_reading(corpus: Path, model: Artifact, tmp_path: Path) -> None:
    write_lines(corpus / "a.jsonl", [{"text": article(number)} for number in range(30)])
    assert run(corpus, model, tmp_path / "made", max_documents=12).manifest.facts["read"] == 12


def test_too_many_broken_lines_stop_the_stage_and_name_the_first(corpus: Path, model: Artifact, tmp_path: Path) -> None:
    write_lines(corpus / "a.jsonl", [{"text": article(number)} for number in range(9)] + ["{oops", "{again"])
    with pytest.raises(DataError) as caught:
        run(corpus, model, tmp_path / "made")
    assert caught.value.what.startswith(f"{corpus}/a.jsonl:10: not JSON")
    assert "2 of the 11 records in source 'own' are broken" in caught.value.what
    (folder,) = (tmp_path / "made" / "data").glob("[!.]*")
    with pytest.raises(ArtifactError):
        load(folder)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (None, "does not exist"),
        ({}, "is an empty folder"),
        ({"a.docx": "x", "b.docx": "y", "c": "z"}, r"has no file that can be read, only \.docx 2, no ending 1"),
        ({"a.txt": ""}, r"not one usable document is left of 1 that were read \(rejected: min_characters 1\)"),
        ({"a.jsonl": ""}, "not one usable document is left of 0"),
        ({"a.txt": article(1), "b.txt": article(2)}, "only 2 different documents are left"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused_with_a_remedy(
    corpus: Path, model: Artifact, tmp_path: Path, files: dict[str, str] | None, complaint: str
) -> None:
    for name, content in (files or {}).items():
        (corpus / name).write_text(content)
    if files is None:
        corpus.rmdir()
    with pytest.raises(DataError, match=complaint) as caught:
        run(corpus, model, tmp_path / "made")
    assert "\n" not in caught.value.what + caught.value.fix


def test_a_request_to_stop_leaves_no_artifact(corpus: Path, model: Artifact, tmp_path: Path) -> None:
    class Stop:
        def requested(self) -> str | None:
            return "SIGTERM"

    write_lines(corpus / "a.jsonl", [{"text": article(number)} for number in range(9)])
    with pytest.raises(TryAgainError, match="SIGTERM"):
        run_stage(STAGE, recipe_for(corpus), {"model": model}, tmp_path / "made", Ports(interrupt=Stop()))
    assert not list((tmp_path / "made").rglob("manifest.json"))


def test_conversations_that_the_template_refuses_are_counted(corpus: Path, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "strict")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + template
    )
    rows = [
        {
            "messages": [
                {"role": role, "content": article(number)},
                {"role": "assistant", "content": article(500 + number)},
            ]
        }
        for number, role in enumerate(["user"] * 30 + ["system"])
    ]
    write_lines(corpus / "a.jsonl", rows)
    made = run(corpus, folder_as_artifact("model", folder), tmp_path / "made")
    assert made.manifest.facts["rejected"] == {"chat_template": 1}
    assert sum(made.manifest.facts["documents"].values()) == made.manifest.facts["kept"] == 30


def test_python_docs_give_all_three_splits(model: Artifact, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"name": "t", "data": {"max_documents": 200}})
    made = run_stage(STAGE, recipe, {"model": model}, tmp_path)
    assert all(made.manifest.facts["documents"][split] >= 8 for split in SPLITS)
    assert list(made.manifest.inputs) == ["python-docs", "lid.176.ftz"]


@pytest.mark.skipif(not (SHARED / "awsdocs-s3").exists(), reason="needs ../shared/data/awsdocs-s3")
def test_a_folder_of_markdown_runs_through(model: Artifact, tmp_path: Path) -> None:
    made = run(SHARED / "awsdocs-s3" / "doc_source", model, tmp_path / "made", max_documents=150)
    facts = made.manifest.facts
    assert facts["kept"] > 130
    assert facts["quarantined"] == 0
    assert all(facts["tokens"][split] > 0 for split in SPLITS)


@pytest.mark.skipif(not (SHARED / "tos-contracts").exists(), reason="needs ../shared/data/tos-contracts")
def test_contracts_that_were_copied_between_companies_are_found(model: Artifact, tmp_path: Path) -> None:
    made = run(
        SHARED / "tos-contracts",
        model,
        tmp_path / "made",
        source={"path": str(SHARED / "tos-contracts" / "[hT]*" / "*.md")},
    )
    facts = made.manifest.facts
    assert facts["duplicates"]["exact"] + facts["duplicates"]["near"] > 5
    assert documents(made)["cluster"].n_unique() == facts["kept"]


def test_a_corpus_that_cannot_fit_on_the_disk_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"GB free, and 1000000\.0 GB of text need about 2700000\.0 GB"):
        _check_disk({"own": [storage.FileInfo("a.jsonl", 10**15)]}, tmp_path)


def test_what_decontamination_could_not_look_for_is_a_fact(corpus: Path, model: Artifact, tmp_path: Path) -> None:
    write_lines(corpus / "a.jsonl", [{"text": article(number)} for number in range(30)])
    write_lines(tmp_path / "exam.jsonl", [{"question": "too short"}])
    exam = {"name": "exam", "path": str(tmp_path / "exam.jsonl")}
    facts = run(corpus, model, tmp_path / "root", decontaminate=[exam]).manifest.facts
    assert (facts["evaluation_items_unchecked"], facts["evaluation_runs_ignored"]) == ({"exam": 1}, 0)
