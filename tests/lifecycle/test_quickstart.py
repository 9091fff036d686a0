"""The whole line, on real text and the real small model, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command_line import QUICKSTART, REPOSITORY, SMALL, Run, nexus, nexus_here, settings

pytestmark = [pytest.mark.lifecycle, pytest.mark.timeout(900), pytest.mark.xdist_group("quickstart")]


def test_every_stage_is_named_with_its_key_id_path_and_seconds(small_run: Run) -> None:
    stages = small_run.document["stages"]
    assert [row["stage"] for row in stages] == ["model", "data", "train", "package", "evaluate"]
    for row in stages:
        assert set(row) == {"stage", "key", "id", "path", "seconds", "skipped"}
        manifest = json.loads((small_run.root / row["path"] / "manifest.json").read_text())
        assert (manifest["key"], manifest["id"]) == (row["key"], row["id"])
    assert small_run.document["gate"]["verdict"] in ("pass", "fail", "inconclusive")


def test_a_second_run_skips_everything(small_run: Run) -> None:
    done = nexus_here("run", str(QUICKSTART), "--json", *settings(SMALL), cwd=small_run.root)
    assert [row["skipped"] for row in done.json["stages"]] == [True] * 5
    assert {row["stage"]: row["id"] for row in done.json["stages"]} == small_run.ids


def test_training_improves_held_out_text_even_in_a_few_steps(small_run: Run) -> None:
    rows = {row["name"]: row for row in small_run.document["gate"]["comparisons"]}
    assert rows["domain"]["tuned_perplexity"] < rows["domain"]["base_perplexity"]
    assert rows["general"]["change"] < 0.10


def test_the_run_folder_holds_what_scripts_read(small_run: Run) -> None:
    run = small_run.root / "runs" / "quickstart"
    rows = json.loads((run / "artifacts.json").read_text())
    assert {name: row["id"] for name, row in rows.items()} == small_run.ids
    report = (run / "report.html").read_text()
    assert "http://" not in report.replace("http://www.w3.org", "").replace("http://127.0.0.1", "")
    assert "<script src" not in report
    assert json.loads((run / "report.json").read_text())["gate"] == small_run.document["gate"]
    assert [json.loads(row)["stage"] for row in (run / "events.jsonl").read_text().splitlines()][:2] == [
        "model",
        "data",
    ]


def test_every_training_step_is_in_the_metrics(small_run: Run) -> None:
    rows = [json.loads(row) for row in (small_run.path("train") / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert set(rows[0]) >= {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second"}


def test_the_packaged_model_loads_in_transformers_and_says_its_licence(small_run: Run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = small_run.path("package")
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "llama"
    assert "apache-2.0" in (folder / "README.md").read_text().lower()
    assert (folder / "LICENSE").exists()


def test_lineage_leads_from_the_served_model_back_to_the_source(small_run: Run) -> None:
    done = nexus_here("lineage", small_run.ids["package"], "--json", cwd=small_run.root)
    kinds = [row["kind"] for row in done.json["lineage"]]
    assert kinds[0] == "package"
    assert {"train", "data", "model", "file"} <= set(kinds)


def test_the_difference_of_two_runs_is_named_by_its_field(small_run: Run) -> None:
    changed = (*SMALL, "name=other", "data.near_duplicates.jaccard=0.8")
    made = nexus_here("data", str(QUICKSTART), "--json", *settings(changed), cwd=small_run.root)
    assert made.returncode == 0, made.stderr
    done = nexus_here("diff", small_run.ids["data"], made.json["stages"][-1]["id"], "--json", cwd=small_run.root)
    assert ("data", "recipe.data.near_duplicates.jaccard", 0.7, 0.8) in [
        (row["artifact"], row["field"], row["before"], row["after"]) for row in done.json["differences"]
    ]


def test_the_plan_says_what_is_made_and_what_the_rest_would_take(small_run: Run) -> None:
    changed = (*SMALL, "train.learning_rate=1e-4")
    done = nexus_here("run", str(QUICKSTART), "--dry-run", "--json", *settings(changed), cwd=small_run.root)
    rows = {row["stage"]: row for row in done.json["stages"]}
    assert rows["data"]["made"]
    assert not rows["train"]["made"]
    assert rows["train"]["estimated_minutes"] > 0
    assert rows["train"]["estimated_memory_gib"] > 0.5
    assert not Path(small_run.root / rows["train"]["path"]).exists()


def test_a_tampered_artifact_is_seen(small_run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(small_run.path("data"), copy)
    (copy / "test-00000.documents.parquet").write_bytes(b"other")
    done = nexus_here("show", str(copy), "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.json["altered_files"] == ["test-00000.documents.parquet"]


def test_markdown_never_seen_by_the_authors_improves_too(tmp_path: Path, small_model: Path) -> None:
    text = REPOSITORY.parent / "shared" / "data" / "awsdocs-s3"
    if not text.is_dir():
        pytest.skip("needs the Markdown corpus awsdocs-s3, which does not ship with the project")
    recipe = tmp_path / "docs.yaml"
    recipe.write_text(
        f"name: docs\ndata:\n  sources:\n    - {{type: files, path: {text}}}\n  max_documents: 60\n"
        "train: {max_steps: 5, max_length: 128, per_device_train_batch_size: 2, learning_rate: 5e-4, warmup_steps: 1}\n"
        "package: {equivalence: {tokens: 0}}\n"
        "evaluate: {domain_documents: 8, max_tokens_per_document: 64, max_new_tokens: 8}\n"
    )
    done = nexus("run", str(recipe), "--json", cwd=tmp_path)
    assert done.returncode in (0, 4), done.stderr
    rows = {row["name"]: row for row in done.json["gate"]["comparisons"]}
    assert rows["domain"]["tuned_perplexity"] < rows["domain"]["base_perplexity"]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda folder: None, "nowhere"),
        (lambda folder: (folder / "nowhere").mkdir(), "nowhere"),
        (lambda folder: _write(folder / "nowhere" / "a.txt", ""), "nowhere"),
        (lambda folder: _write(folder / "nowhere" / "a.jsonl", '{"text": "ok"}\n{"text": \n{broken\n'), "a.jsonl:2"),
        (lambda folder: _write(folder / "nowhere" / "a.jsonl", '{"text": "too short"}\n'), "not one usable document"),
    ],
    ids=["absent", "empty folder", "empty file", "broken lines", "nothing usable"],
)
def test_a_corpus_that_cannot_be_used_is_told_in_two_lines(tmp_path: Path, small_model: Path, make, what: str) -> None:
    make(tmp_path)
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("name: bad\ndata:\n  sources:\n    - {type: files, path: nowhere}\n")
    done = nexus_here("data", str(recipe), cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    error = done.stderr.strip().splitlines()[-2:]
    assert error[0].startswith("error: ")
    assert what in error[0]
    assert error[1].startswith("  fix: ")
    assert not list(tmp_path.glob("artifacts/data/*/manifest.json"))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
