"""CodePipeline and GitHub Actions call the same words of the Makefile, in the same order, and nothing else judges."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from documented_commands import blocks, commands, objection
from nexus_llm.cli.bench import missed_objective
from nexus_llm.errors import GateFailedError, GateInconclusiveError

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SPECS = ROOT / "infra" / "delivery" / "buildspecs"
WORKFLOW = (ROOT / ".github" / "workflows" / "delivery.yml").read_text(encoding="utf-8")
# Those of infra/modules/delivery-pipeline, in the order of its stages.
STEPS = ("check", "image", "gate", "deploy")


def spec(step: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((SPECS / f"{step}.yml").read_text(encoding="utf-8"))
    return loaded


def words_of_codepipeline() -> list[str]:
    return [command for step in STEPS for command in spec(step)["phases"]["build"]["commands"]]


def words_of_github() -> list[str]:
    jobs = yaml.safe_load(WORKFLOW)["jobs"].values()
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    return [command for command in runs if command.startswith("make ")]


def test_both_pipelines_call_the_same_words_in_the_same_order() -> None:
    assert words_of_codepipeline() == words_of_github()
    assert len(words_of_github()) == 8


def test_each_step_is_one_word_of_the_makefile() -> None:
    for command in words_of_github():
        make, word = command.split()
        assert make == "make"
        assert re.search(rf"^{word}:.*## .", MAKEFILE, re.MULTILINE), word


def test_the_steps_are_those_of_the_pipeline_that_terraform_makes() -> None:
    assert {path.stem for path in SPECS.glob("*.yml")} == set(STEPS)
    pipeline = (ROOT / "infra/modules/delivery-pipeline/pipeline.tf").read_text(encoding="utf-8")
    assert re.findall(r'purpose = "(\w+)"', pipeline) == list(STEPS[:-1])
    assert 'projects["deploy"]' in pipeline


def test_nothing_is_rolled_out_before_it_was_judged_and_somebody_agreed() -> None:
    jobs = yaml.safe_load(WORKFLOW)["jobs"]
    assert [(name, job.get("needs")) for name, job in jobs.items()] == [
        ("check", None), ("image", "check"), ("deploy", "image")
    ]  # fmt: skip
    assert jobs["deploy"]["environment"] == "production"
    assert "main" in jobs["image"]["if"], "a pull request is judged and never delivered"


def test_the_workflow_stores_no_secret_and_names_actions_by_their_hash() -> None:
    assert "secrets." not in WORKFLOW
    for used in re.findall(r"uses: (\S+)", WORKFLOW):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", used), used
    assert yaml.safe_load(WORKFLOW)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("step", STEPS)
def test_a_buildspec_is_bash_and_stops_at_the_first_failure(step: str) -> None:
    read = spec(step)
    assert (read["version"], read["env"]["shell"]) == (0.2, "bash")
    prepared = read["phases"].get("install", {}).get("commands", ["set -euo pipefail"])
    assert prepared[0] == "set -euo pipefail"


@pytest.mark.parametrize("script", sorted((ROOT / "infra" / "delivery").glob("*.sh")), ids=lambda path: path.name)
def test_a_script_can_be_run_and_stops_at_the_first_failure(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_where_no_image_can_be_built_two_lines_say_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", "infra/delivery/image.sh"], cwd=ROOT, capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error: no Docker daemon answers")
    assert second.startswith("  fix: ")


@pytest.mark.parametrize("word", [*dict.fromkeys(command.split()[1] for command in words_of_github()), "reference"])
def test_a_word_does_what_the_command_line_takes(word: str) -> None:
    done = subprocess.run(["make", "--dry-run", word], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = list(commands(done.stdout, "nexus"))
    assert called or word not in ("gate", "slo", "plan-check", "deploy")
    assert [said for words in called if (said := objection(words))] == []


def test_the_load_test_holds_what_the_page_promises() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    promised = dict(re.findall(r"\| (first token|answer) \| .* within (\d+) s \| 95 % \|", page))
    assert f"--slo ttft={promised['first token']},e2e={promised['answer']} --min-goodput 0.95" in MAKEFILE


def test_the_audited_packages_are_those_of_the_image() -> None:
    assert "s/^ARG EXTRAS=//p" in MAKEFILE
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", (ROOT / "containers/serve/Dockerfile").read_text(), re.MULTILINE)
    assert extras


def result(share: float | None, *, reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"goodput": {"share": share}, "is_valid": not reasons, "not_valid_because": list(reasons)}


def test_a_server_that_misses_its_objective_fails_and_a_poor_measurement_says_nothing() -> None:
    assert missed_objective(result(0.95), min_share=0.95) is None
    assert isinstance(missed_objective(result(0.949), min_share=0.95), GateFailedError)
    assert isinstance(missed_objective(result(None), min_share=0.95), GateFailedError)
    late = missed_objective(result(1.0, reasons=("2 % of the requests were sent late",)), min_share=0.95)
    assert isinstance(late, GateInconclusiveError)


def test_the_page_of_the_pipeline_lists_the_words_in_their_order() -> None:
    page = ROOT / "docs" / "delivery.md"
    listed = re.findall(r"^\| `make ([a-z-]+)` \|", page.read_text(), re.MULTILINE)
    assert [f"make {word}" for word in listed] == words_of_github()
    assert list(blocks(page, "bash"))
