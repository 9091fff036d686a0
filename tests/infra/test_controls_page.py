"""docs/controls.md tells what infra/controls.yaml says and what came out, and every check of ours is in it."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# Every test of these files keeps a promise, or says in the map why it does not.
OURS = ("tests/infra/test_platform.py", "tests/infra/test_serving_plans.py")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("controls")


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("checkov_infra")


def functions(file: Path) -> dict[str, str]:
    text = file.read_text(encoding="utf-8")
    return {
        node.name: ast.get_source_segment(text, node) or ""
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def exists(check: str, checkov: dict[str, Any]) -> bool:
    """Whether a check of the map is there, so that it could fail."""
    if check.startswith("CKV"):
        return bool(checkov["checks"].get(check, {}).get("passed"))
    file, _, name = check.partition("::")
    path = ROOT / file
    if not path.is_file():
        return False
    if file.endswith(".hcl"):
        return f'run "{name}" {{' in path.read_text(encoding="utf-8")
    return name in functions(path)


def faults(controls: dict[str, Any], checkov: dict[str, Any]) -> list[str]:
    """What is wrong with the map."""
    measures, found = controls["measures"], []
    for name, measure in measures.items():
        found += [f"{name}: {check} does not exist" for check in measure["checks"] if not exists(check, checkov)]
        if not any(not check.startswith("CKV") for check in measure["checks"]):
            found.append(f"{name} has no check of our own")
    terraform = "\n".join(one.read_text(encoding="utf-8") for one in sorted((ROOT / "infra").rglob("*.tf")))
    for name, measure in measures.items():
        for part in measure["made_by"]:
            is_there = f'resource "{part}"' in terraform if part.startswith("aws_") else True
            found += [] if is_there else [f"{name}: nothing makes an {part}"]
    used: set[str] = set()
    for framework in controls["frameworks"]:
        for one in framework["controls"]:
            used |= set(one["measures"])
            # A comma without quotes would cut a sentence short, and YAML would not mind.
            found += [] if set(one) == {"id", "says", "measures", "yours"} else [f"{one['id']}: {sorted(one)}"]
            found += [] if one["measures"] else [f"{framework['name']} {one['id']} rests on nothing"]
            found += [f"{one['id']}: no measure {name}" for name in one["measures"] if name not in measures]
    return found + [f"{name} serves no control" for name in measures if name not in used]


def test_every_control_rests_on_a_check_that_exists_and_can_fail(script: Any) -> None:
    controls = script.load_map()
    checkov = json.loads(script.CHECKOV.read_text(encoding="utf-8"))
    assert {one["name"] for one in controls["frameworks"]} == {"HIPAA Security Rule", "PCI DSS", "SOC 2", "GDPR"}
    assert faults(controls, checkov) == []
    names = controls["measures"]["backups"]["checks"]
    names[0] = names[0] + "_no_more"
    controls["measures"]["alarms"]["made_by"] = ["aws_crystal_ball"]
    controls["frameworks"][0]["controls"][0]["measures"] = ["hope"]
    assert len(faults(controls, checkov)) == 3


def test_every_check_of_ours_is_named_at_least_once(script: Any) -> None:
    controls = script.load_map()
    named = set(script.checks(controls)) | set(controls["not_about_security"])
    ours = {f"{file}::{name}" for file in OURS for name in functions(ROOT / file) if name.startswith("test_")}
    assert ours - named == set()
    assert set(controls["not_about_security"]) <= ours
    rules = [name for name in functions(ROOT / "tests" / "infrastructure_controls.py") if not name.startswith("_")]
    bodies = [
        functions(ROOT / check.partition("::")[0])[check.partition("::")[2]]
        for check in script.checks(controls)
        if check.startswith("tests/infra/")
    ]
    parts = {"statements", "explained_statements"}  # what the rules are made of
    assert [one for one in rules if one not in parts and not any(f"{one}(" in body for body in bodies)] == []


def test_the_page_is_what_the_map_and_the_stored_results_make(script: Any) -> None:
    controls = script.load_map()
    stored, checkov = (json.loads(one.read_text(encoding="utf-8")) for one in (script.RESULT, script.CHECKOV))
    outcomes = {check: script.outcome(check, stored["tests"], checkov) for check in script.checks(controls)}
    assert {check: said for check, said in outcomes.items() if "passed" not in said} == {}, "run: make controls"
    made = script.page(controls, stored, checkov)
    assert script.PAGE.read_text(encoding="utf-8") == made, "make it again: python benchmarks/controls.py --page"
    assert "not a certificate" in made
    assert "Responsibility is shared" in made


def test_checkov_has_judged_what_lies_here_and_left_nothing_unexplained(judge: Any) -> None:
    stored = json.loads(judge.RESULT.read_text(encoding="utf-8"))
    assert stored["unexplained"] == []
    assert stored["sources_sha256"] == judge.sources_hash(), "infra/ or containers/ changed since: make checkov"


def test_a_finding_without_a_reason_is_unexplained(judge: Any) -> None:
    def check(name: str, **more: Any) -> dict[str, Any]:
        return {"check_id": name, "check_name": name, "resource": "a", "check_result": more}

    results = {
        "passed_checks": [check("CKV_1")],
        "skipped_checks": [check("CKV_2", suppress_comment="the log bucket logs nowhere"), check("CKV_3")],
        "failed_checks": [check("CKV_4")],
    }
    found = judge.summary({"terraform": {"results": results}})
    assert found["unexplained"] == ["CKV_3 a: skipped without a reason", "CKV_4 a: CKV_4"]
    assert found["checks"]["CKV_2"]["skipped"][0]["reason"] == "the log bucket logs nowhere"


@pytest.mark.timeout(1500)
def test_checkov_finds_nothing_unexplained(judge: Any) -> None:
    # Its dependencies clash with ours, so it lives in an environment of its own: make checkov
    own = ROOT / ".venv-checkov" / "bin" / "checkov"
    checkov = os.environ.get("NEXUS_CHECKOV") or (str(own) if own.is_file() else shutil.which("checkov"))
    if checkov is None:
        pytest.skip("NOT TESTED: checkov is neither in .venv-checkov (make checkov) nor named by $NEXUS_CHECKOV")
    found = judge.summary({framework: judge.judged(checkov, framework) for framework in judge.JUDGED})
    assert found["unexplained"] == []


def test_make_checkov_installs_the_version_that_judged() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (version,) = re.findall(r"checkov==([\d.]+)", makefile)
    stored = json.loads((BENCHMARKS / "results" / "checkov_infra.json").read_text(encoding="utf-8"))
    assert stored["checkov"] == version
