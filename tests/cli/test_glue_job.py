from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from command_line import nexus_here
from nexus_llm.artifacts import load
from nexus_llm.cli import glue_job
from nexus_llm.errors import UsageError
from tiny_model import write_tiny_model

pytest.importorskip("pyspark", reason="needs the spark extra: pip install 'nexus-llm-platform[spark]'")


def write_recipe(folder: Path) -> Path:
    rows = [
        {"text": f"Article {number}. " + " ".join(f"w{number}x{place}" for place in range(80))} for number in range(24)
    ]
    lines = [json.dumps(row) + "\n" for row in [*rows, rows[3]]]
    (folder / "corpus").mkdir()
    (folder / "corpus" / "a.jsonl").write_text("".join(lines[:15]))
    (folder / "corpus" / "b.jsonl").write_text("".join(lines[15:]))
    write_tiny_model(folder / "model")
    recipe = folder / "recipe.yaml"
    source = {"type": "files", "path": str(folder / "corpus"), "name": "own"}
    data = {"sources": [source], "spark": {"partitions": 2, "memory": "768m"}}
    recipe.write_text(json.dumps({"name": "job", "model": {"base": str(folder / "model")}, "data": data}))
    return recipe


def run_script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The script as Glue starts it: a file that is run, not a module that is imported."""
    return subprocess.run(
        [sys.executable, str(glue_job.__file__), *arguments], cwd=cwd, capture_output=True, text=True, timeout=280
    )


def test_the_script_makes_the_artifact_that_the_embedded_engine_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    recipe = write_recipe(tmp_path)
    bucket = tmp_path / "bucket"
    arguments = ["--JOB_NAME", "job", "--RECIPE", recipe.as_uri(), "--OUTPUT", bucket.as_uri(), "--TempDir", "s3://t/"]
    done = run_script(*arguments, "--MASTER", "local[2]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    embedded = nexus_here("data", str(recipe), "--json", "--root", str(tmp_path / "here"), cwd=tmp_path)
    assert embedded.returncode == 0, embedded.stderr
    expected = embedded.json["stages"][-1]
    assert (made["key"], made["id"]) == (expected["key"], expected["id"])
    assert made["location"] == f"{bucket.as_uri()}/data/{made['key']}"
    uploaded = load(bucket / "data" / made["key"])
    assert {entry.path for entry in uploaded.manifest.files} <= {path.name for path in uploaded.folder.iterdir()}


def test_executors_of_one_machine_share_a_folder_and_those_of_a_cluster_a_bucket(tmp_path: Path) -> None:
    options = {"RECIPE": str(write_recipe(tmp_path))}
    places = [
        glue_job._recipe(options | more, exchange="s3://b/exchange", folder=tmp_path).data.spark.exchange
        for more in ({}, {"MASTER": "spark://host:7077"}, {"MASTER": "local[2]"})
    ]
    # Spark itself writes there, and one of pip's knows no s3://
    assert places == ["s3://b/exchange", "s3://b/exchange", None]


def test_options_may_be_words_or_joined_and_others_are_left_alone() -> None:
    words = ["job.py", "--JOB_NAME", "j", "--RECIPE=s3://b/r.yaml", "--OUTPUT", "out", "--enable-metrics", "true"]
    assert glue_job.job_options([*words, "--MODEL", "m"]) == {
        "JOB_NAME": "j",
        "RECIPE": "s3://b/r.yaml",
        "OUTPUT": "out",
        "MODEL": "m",
    }


def test_a_missing_option_is_named() -> None:
    with pytest.raises(UsageError, match="was not told --RECIPE, --OUTPUT"):
        glue_job.job_options(["job.py", "--JOB_NAME", "j"])


def test_glues_own_parser_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def resolved(arguments: list[str], names: list[str]) -> dict[str, str]:
        asked.append(names)
        return {name: f"glue's {name}" for name in names}

    module = types.ModuleType("awsglue.utils")
    module.getResolvedOptions = resolved  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "awsglue", types.ModuleType("awsglue"))
    monkeypatch.setitem(sys.modules, "awsglue.utils", module)
    found = glue_job.job_options(["job.py", "--JOB_NAME", "j", "--RECIPE", "r", "--OUTPUT", "o"])
    assert asked == [["JOB_NAME", "RECIPE", "OUTPUT"]]
    assert found["RECIPE"] == "glue's RECIPE"


def test_an_error_ends_the_job_with_its_exit_code_and_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        glue_job.main(["--JOB_NAME", "j"])
    assert caught.value.code == 2
    assert "fix: set it as a job argument" in capsys.readouterr().err
