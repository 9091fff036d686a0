"""Runs every check that infra/controls.yaml names, stores what came out, and writes docs/controls.md: `make controls`.

    python benchmarks/controls.py            # runs the tests (minutes: it plans every stage), then writes
    python benchmarks/controls.py --new      # runs those that have no result yet, and keeps the older date
    python benchmarks/controls.py --page     # writes the page again from what is stored

checkov's part is taken from benchmarks/results/checkov_infra.json (`make checkov`).
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
MAP = ROOT / "infra" / "controls.yaml"
PAGE = ROOT / "docs" / "controls.md"
RESULT = ROOT / "benchmarks" / "results" / "controls.json"
CHECKOV = ROOT / "benchmarks" / "results" / "checkov_infra.json"
HEAD = """\
# Controls, and what shows that they hold

Generated from `infra/controls.yaml` by `make controls`; do not edit. The tests ran on {tested}, checkov {checkov} on
{judged}.

**This is evidence, not a certificate.** No law, no auditor and no card brand is satisfied by a table, and nothing here
was assessed by one. It says which promise rests on what in this repository, and which check would fail if it no longer
held. The frameworks' sentences are paraphrased; their own words decide.

**What the checks look at** is the Terraform configuration, its plans and its modules under a mocked provider, and the
product's code. No account of AWS was looked at: what runs in yours may have been changed by hand since.

**Responsibility is shared.** AWS answers for its buildings, machines and services (its reports are in AWS Artifact, and
health data need its business associate addendum first). This product answers for what it configures and does. The
column *yours* is what neither can do: people, contracts, procedures, reviews, and everything that is not made here.

The environments differ. GuardDuty is off in `small`, Config, locked records and copies in a second region are on in
`regulated` only: see the READMEs below `infra/environments/`.
"""


def load_map(path: Path = MAP) -> dict[str, Any]:
    """The map of controls."""
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def checks(controls: dict[str, Any]) -> list[str]:
    """Every check that is named, once, sorted."""
    return sorted({check for measure in controls["measures"].values() for check in measure["checks"]})


def test_of(check: str) -> str | None:
    """The pytest test that runs a check; None for checkov's.

    >>> test_of("infra/modules/kms/tests/kms.tftest.hcl::a_run")
    'tests/infra/test_modules.py::test_a_module_passes_its_own_tests[modules/kms]'
    >>> test_of("CKV_AWS_7") is None
    True
    """
    if check.startswith("CKV"):
        return None
    if check.startswith("tests/"):
        return check
    folder = Path(check.partition("::")[0]).relative_to("infra").parent
    if folder.name == "serving":
        return "tests/infra/test_serving_plans.py::test_the_modules_suites_pass"
    return f"tests/infra/test_modules.py::test_a_module_passes_its_own_tests[{folder.parent.as_posix()}]"


def run_tests(names: list[str]) -> dict[str, str]:
    """Test → passed, failed or skipped; a test of several parameters has passed where each did."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}", *names]
        subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))  # pytest wrote it just now
    found: dict[str, set[str]] = {name: set() for name in names}
    for case in cases:
        exact = f"{case.get('file')}::{case.get('name')}"
        name = exact if exact in found else exact.partition("[")[0]
        bad = [kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None]
        found[name].add({"failure": "failed", "error": "failed"}.get(bad[0], bad[0]) if bad else "passed")
    return {name: next((one for one in ("failed", "skipped", "passed") if one in said), "not run")
            for name, said in sorted(found.items())}  # fmt: skip


def outcome(check: str, tests: dict[str, str], checkov: dict[str, Any]) -> str:
    """What came out of a check, in a few words."""
    if (test := test_of(check)) is not None:
        return tests.get(test, "not run")
    found = checkov["checks"].get(check, {"passed": 0, "skipped": []})
    if not found["passed"] and not found["skipped"]:
        return "not run"
    explained = f", {len(found['skipped'])} explained" if found["skipped"] else ""
    return f"{found['passed']} passed{explained}"


def page(controls: dict[str, Any], stored: dict[str, Any], checkov: dict[str, Any]) -> str:
    """The page as Markdown."""
    lines = [HEAD.format(tested=stored["date"], checkov=checkov["checkov"], judged=checkov["date"])]
    for framework in controls["frameworks"]:
        lines += [f"## {framework['name']}\n", f"{framework['version']}\n"]
        lines += ["| control | in our words | rests on | yours |", "|---|---|---|---|"]
        for one in framework["controls"]:
            measures = ", ".join(f"[{name}](#{name})" for name in one["measures"])
            lines.append(f"| {one['id']} | {one['says']} | {measures} | {one['yours']} |")
        lines.append("")
    lines.append("## What it rests on\n")
    for name, measure in controls["measures"].items():
        lines += [f"### {name}\n", f"{measure['holds']}\n"]
        lines += [f"Made by {', '.join(f'`{part}`' for part in measure['made_by'])}.\n"]
        lines += ["| check | result |", "|---|---|"]
        for check in measure["checks"]:
            lines.append(f"| {_shown(check, checkov)} | {outcome(check, stored['tests'], checkov)} |")
        lines.append("")
    return "\n".join(lines + _explained(checkov))


def _explained(checkov: dict[str, Any]) -> list[str]:
    """Findings of checkov that are not mended, with the reasons that stand in the code."""
    lines = ["## Findings that are explained\n", "All that checkov found and the code gives a reason for.\n"]
    lines += ["| check | where | reason |", "|---|---|---|"]
    for check, found in checkov["checks"].items():
        by_reason: dict[str, list[str]] = {}
        for skip in found["skipped"]:
            by_reason.setdefault(skip["reason"], []).append(f"`{skip['resource'].lstrip('/').rstrip('.')}`")
        lines += [f"| {check} | {', '.join(sorted(set(places)))} | {reason} |" for reason, places in by_reason.items()]
    return [*lines, ""]


def _shown(check: str, checkov: dict[str, Any]) -> str:
    if check.startswith("CKV"):
        return f"checkov {check}: {checkov['checks'].get(check, {}).get('name', '')}"
    file, _, name = check.partition("::")
    return f"{name.replace('_', ' ')} (`{file}`)"


def main(arguments: list[str]) -> int:
    """Writes the result and the page; 1 where a check did not pass."""
    controls, checkov = load_map(), json.loads(CHECKOV.read_text(encoding="utf-8"))
    if "--page" not in arguments:
        known = json.loads(RESULT.read_text(encoding="utf-8")) if "--new" in arguments else {"tests": {}}
        named = {test for check in checks(controls) if (test := test_of(check))}
        tests = known["tests"] | run_tests(sorted(named - known["tests"].keys()))
        day = known.get("date", datetime.datetime.now(datetime.UTC).date().isoformat())
        RESULT.write_text(json.dumps({"date": day, "tests": tests}, indent=1) + "\n", encoding="utf-8")
    stored = json.loads(RESULT.read_text(encoding="utf-8"))
    PAGE.write_text(page(controls, stored, checkov), encoding="utf-8")
    bad = [check for check in checks(controls) if "passed" not in outcome(check, stored["tests"], checkov)]
    print(f"{len(checks(controls)) - len(bad)} of {len(checks(controls))} checks passed", *bad, sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
