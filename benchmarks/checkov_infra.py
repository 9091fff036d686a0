"""Judges infra/ and containers/ with checkov and stores what it found: `make checkov`.

    python benchmarks/checkov_infra.py CHECKOV      # the path of a checkov, in an environment of its own

It judges the configuration and not plans: a plan does not know the keys that it makes, and 21 findings in that of the
regulated environment say only this (2026-11-22). What has to be known is in the mocked states of tests/infra.

Ends with 1 where a finding has no reason in the code. The result carries a hash of all that was judged: a test says
when it is out of date, so that nobody has to install checkov to know.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "checkov_infra.json"
JUDGED = {"terraform": "infra", "dockerfile": "containers"}
# A reason shorter than this explains nothing.
MIN_REASON_CHARACTERS = 12


def sources_hash(root: Path = ROOT) -> str:
    """Hash of the files that checkov judges, and of their names."""
    digest = hashlib.sha256()
    for file in sorted([*(root / "infra").rglob("*.tf"), *(root / "containers").glob("*/Dockerfile")]):
        if ".terraform" not in file.parts:
            digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes() + b"\n")
    return digest.hexdigest()


def judged(checkov: str, framework: str) -> dict[str, Any]:
    """One framework's report, as checkov writes it."""
    words = ["-d", str(ROOT / JUDGED[framework]), "--framework", framework, "--output", "json", "--skip-download"]
    done = subprocess.run([checkov, *words], capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["summary"]["parsing_errors"] == 0, done.stderr
    return report


def summary(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is stored: each check with how often it passed, and every finding with its reason."""
    checks: dict[str, dict[str, Any]] = defaultdict(lambda: {"passed": 0, "skipped": []})
    failed = []
    for report in reports.values():
        results = report["results"]
        for one in results["passed_checks"] + results["skipped_checks"]:
            checks[one["check_id"]]["name"] = one["check_name"]
        for one in results["passed_checks"]:
            checks[one["check_id"]]["passed"] += 1
        for one in results["skipped_checks"]:
            reason = one["check_result"].get("suppress_comment") or ""
            checks[one["check_id"]]["skipped"].append({"resource": one["resource"], "reason": reason})
            if len(reason) < MIN_REASON_CHARACTERS:
                failed.append(f"{one['check_id']} {one['resource']}: skipped without a reason")
        failed += [f"{one['check_id']} {one['resource']}: {one['check_name']}" for one in results["failed_checks"]]
    for one in checks.values():
        one["skipped"].sort(key=lambda skip: (skip["resource"], skip["reason"]))
    return {"checks": dict(sorted(checks.items())), "unexplained": sorted(failed)}


def main(checkov: str) -> int:
    """Writes the result; 1 where something is unexplained."""
    reports = {framework: judged(checkov, framework) for framework in JUDGED}
    version = next(iter(reports.values()))["summary"]["checkov_version"]
    found = summary(reports)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    head = {"checkov": version, "date": day, "sources_sha256": sources_hash()}
    RESULT.write_text(json.dumps(head | found, indent=1) + "\n", encoding="utf-8")
    passed = sum(one["passed"] for one in found["checks"].values())
    skipped = sum(len(one["skipped"]) for one in found["checks"].values())
    print(f"{passed} passed, {skipped} explained, {len(found['unexplained'])} unexplained")
    print("\n".join(found["unexplained"]))
    return 1 if found["unexplained"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
