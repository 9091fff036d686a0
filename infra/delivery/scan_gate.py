"""Judges what ECR found in an image: `aws ecr describe-image-scan-findings … | scan_gate.py --max-severity MEDIUM`.

Exit codes: 0 let through · 1 the scan did not finish, or is unreadable · 3 a finding is worse than allowed.

`accepted-findings.json` is a list of {"id", "reason", "until"}: a finding that was looked at and does no harm here,
until a day on which it is looked at again. Reads basic and enhanced (Inspector) findings; needs only Python.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# An unknown severity is most often a finding that nobody has scored yet: neither harmless nor a reason to stop all.
RANKS = {"NONE": 0, "INFORMATIONAL": 0, "LOW": 1, "UNDEFINED": 2, "UNTRIAGED": 2, "MEDIUM": 2, "HIGH": 3, "CRITICAL": 4}
FINISHED = ("COMPLETE", "ACTIVE")  # ACTIVE: Inspector has scanned and goes on watching


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One finding of the scan."""

    id: str
    severity: str


def main(arguments: list[str] | None = None) -> int:
    """The exit code; prints every finding above the bound, and whether it was accepted and why."""
    parser = argparse.ArgumentParser(description="Judges the findings of an image scan on standard input.")
    parser.add_argument("--max-severity", choices=["NONE", "LOW", "MEDIUM", "HIGH"], required=True)
    parser.add_argument("--accepted", type=Path, required=True)
    parser.add_argument("--today", type=datetime.date.fromisoformat, required=True)
    told = parser.parse_args(arguments)
    try:
        found = findings(json.load(sys.stdin))
        accepted = accepted_findings(json.loads(told.accepted.read_text(encoding="utf-8")), today=told.today)
    except (ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"error: the scan or {told.accepted} cannot be read: {error}\n  fix: scan the image again\n")
        return 1
    worse = [one for one in found if RANKS.get(one.severity, 4) > RANKS[told.max_severity]]
    refused = [one for one in worse if one.id not in accepted]
    for one in worse:
        sys.stdout.write(f"{one.severity:9} {one.id}  {accepted.get(one.id, 'refused')}\n")
    sys.stdout.write(f"{len(found)} findings, {len(worse)} above {told.max_severity}, {len(refused)} refused\n")
    return 3 if refused else 0


def findings(scan: dict[str, Any]) -> list[Finding]:
    """All findings of ECR's answer, each once, sorted by id.

    Raises:
        ValueError: the scan has not finished; an empty list would otherwise let any image through.
        KeyError: it is not ECR's answer.
    """
    status = scan["imageScanStatus"]["status"]
    if status not in FINISHED:
        raise ValueError(f"the scan is {status}: {scan['imageScanStatus'].get('description', '')}")
    content = scan["imageScanFindings"]
    basic = [Finding(one["name"], one["severity"]) for one in content.get("findings", [])]
    enhanced = [
        Finding(one["packageVulnerabilityDetails"]["vulnerabilityId"], one["severity"])
        for one in content.get("enhancedFindings", [])
        if one.get("status", "ACTIVE") == "ACTIVE" and "packageVulnerabilityDetails" in one
    ]
    return sorted(set(basic + enhanced))


def accepted_findings(entries: list[dict[str, str]], *, today: datetime.date) -> dict[str, str]:
    """Id → reason of the findings that are accepted today; one that has run out is none.

    Raises:
        KeyError, ValueError: an entry lacks its id, reason or day.
    """
    valid = {}
    for entry in entries:
        if not entry["reason"].strip():
            raise ValueError(f"{entry['id']} was accepted without a reason")
        if datetime.date.fromisoformat(entry["until"]) >= today:
            valid[entry["id"]] = f"accepted until {entry['until']}: {entry['reason']}"
    return valid


if __name__ == "__main__":
    sys.exit(main())
