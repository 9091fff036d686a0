"""The delivery pipeline's gate of an image's scan."""

from __future__ import annotations

import io
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

DELIVERY = Path(__file__).parents[2] / "infra" / "delivery"


def run(monkeypatch: pytest.MonkeyPatch, script: str, given: object, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
    return int(runpy.run_path(str(DELIVERY / script))["main"](list(arguments)))


def scan(*severities: str, status: str = "COMPLETE") -> dict[str, Any]:
    found = [{"name": f"CVE-2026-{number}", "severity": one} for number, one in enumerate(severities)]
    return {"imageScanStatus": {"status": status}, "imageScanFindings": {"findings": found}}


def gate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: object, *, bound: str = "MEDIUM", accepted: object = ()
) -> int:
    path = tmp_path / "accepted.json"
    path.write_text(json.dumps(accepted))
    arguments = ("--max-severity", bound, "--accepted", str(path), "--today", "2026-11-22")
    return run(monkeypatch, "scan_gate.py", given, *arguments)


@pytest.mark.parametrize(
    ("severities", "bound", "code"),
    [
        ((), "NONE", 0),
        (("LOW", "MEDIUM", "INFORMATIONAL"), "MEDIUM", 0),
        (("LOW", "HIGH"), "MEDIUM", 3),
        (("HIGH",), "HIGH", 0),
        (("CRITICAL",), "HIGH", 3),
        (("UNTRIAGED",), "LOW", 3),
        (("SOMETHING-NEW",), "HIGH", 3),
    ],
)
def test_the_gate_lets_through_what_is_not_worse_than_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, severities: tuple[str, ...], bound: str, code: int
) -> None:
    assert gate(monkeypatch, tmp_path, scan(*severities), bound=bound) == code


def test_a_scan_that_did_not_finish_lets_nothing_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert gate(monkeypatch, tmp_path, scan(status="FAILED")) == 1
    assert gate(monkeypatch, tmp_path, {"message": "AccessDenied"}) == 1


@pytest.mark.parametrize(("until", "code"), [("2026-11-22", 0), ("2026-11-21", 3)])
def test_an_accepted_finding_is_let_through_until_its_day(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, until: str, code: int
) -> None:
    accepted = [{"id": "CVE-2026-0", "reason": "not reachable: the program is not installed", "until": until}]
    assert gate(monkeypatch, tmp_path, scan("CRITICAL"), accepted=accepted) == code


def test_nothing_is_accepted_without_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accepted = [{"id": "CVE-2026-0", "reason": " ", "until": "2027-01-01"}]
    assert gate(monkeypatch, tmp_path, scan("CRITICAL"), accepted=accepted) == 1


def test_inspectors_findings_count_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    finding = {"packageVulnerabilityDetails": {"vulnerabilityId": "CVE-1"}, "severity": "CRITICAL", "status": "ACTIVE"}
    given = {"imageScanStatus": {"status": "ACTIVE"}, "imageScanFindings": {"enhancedFindings": [finding]}}
    assert gate(monkeypatch, tmp_path, given) == 3


def test_the_list_that_ships_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = str(DELIVERY / "accepted-findings.json")
    arguments = ("--max-severity", "MEDIUM", "--accepted", shipped, "--today", "2026-11-22")
    assert run(monkeypatch, "scan_gate.py", scan(), *arguments) == 0
