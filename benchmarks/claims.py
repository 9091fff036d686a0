"""What a benchmark found: claims with their targets, stored with date, hardware and versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import operator
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "nexus-llm-platform", "openvino-genai", "xllamacpp", "fastapi", "uvicorn", "uvloop", "httptools", "tokenizers",
    "transformers", "torch",
)  # fmt: skip
_COMPARE: dict[str, Callable[[float, float], bool]] = {"≥": operator.ge, "<": operator.lt, "≤": operator.le}


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure beside what it should be."""

    what: str
    value: float | None
    """None: not measured, and then it does not hold either."""
    unit: str = ""
    target: str | None = None
    """Like `≥ 0.97`; None where nothing is promised."""
    scatter: tuple[float, float] | None = None
    """Smallest and largest of the single readings."""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None where there is none.

        >>> Claim("share", 0.98, target="≥ 0.97").holds, Claim("share", None, target="≥ 0.97").holds
        (True, False)
        """
        if self.target is None:
            return None
        sign, bound = self.target.split()
        return self.value is not None and _COMPARE[sign](self.value, float(bound))

    def document(self) -> dict[str, Any]:
        """As JSON values, rounded to four digits that count."""
        scatter = None if self.scatter is None else [short(value) for value in self.scatter]
        value = None if self.value is None else short(self.value)
        return {
            "what": self.what, "value": value, "unit": self.unit, "scatter": scatter, "target": self.target,
            "holds": self.holds,
        }  # fmt: skip


def median_claim(what: str, values: Sequence[float], *, unit: str = "", target: str | None = None) -> Claim:
    """The median of several readings, with their range; without readings it is not measured."""
    if not values:
        return Claim(what, None, unit, target)
    return Claim(what, statistics.median(values), unit, target, (min(values), max(values)))


def short(value: float) -> float:
    """Four digits that count.

    >>> short(0.0123456), short(12345.6)
    (0.01235, 12350.0)
    """
    return float(f"{value:.4g}")


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank, as `nexus bench` has it.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def store(name: str, title: str, claims: Sequence[Claim], *, details: dict[str, Any], note: str, command: str) -> Path:
    """Writes `results/NAME_HARDWARE_DATE.{json,md}`, prints the JSON, and returns its path."""
    document = describe(title, claims, details=details, note=note, command=command)
    stem = f"{name}_{platform.machine()}-{os.cpu_count()}-cores_{document['date']}"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{stem}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(as_markdown(document), encoding="utf-8")
    print(json.dumps(document, indent=2))
    return path


def describe(
    title: str, claims: Sequence[Claim], *, details: dict[str, Any], note: str, command: str
) -> dict[str, Any]:
    """The whole result as JSON values, with where and when it was measured."""
    from nexus_llm.cloud.local import processor_name

    return {
        "title": title,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {processor_name()}",
        "versions": {package: _version(package) for package in PACKAGES},
        "load_before": short(os.getloadavg()[0]),
        "note": note,
        "command": command,
        "claims": [claim.document() for claim in claims],
        "details": details,
    }


def as_markdown(document: dict[str, Any]) -> str:
    """The claims as a table below where they were measured."""
    rows = []
    for claim in document["claims"]:
        value = "not measured" if claim["value"] is None else f"{claim['value']:g} {claim['unit']}".rstrip()
        scatter = "" if claim["scatter"] is None else f" ({claim['scatter'][0]:g}–{claim['scatter'][1]:g})"
        verdict = {None: "", True: "yes", False: "**no**"}[claim["holds"]]
        rows.append(f"| {claim['what']} | {value}{scatter} | {claim['target'] or '–'} | {verdict} |")
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return (
        f"# {document['title']}, {document['date']}\n\n{document['hardware']}; {versions}. {document['note']}\n\n"
        "| what | measured | target | holds |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nWritten by `{document['command']}`, which says how it measures; single readings are in the JSON.\n"
    )


def tell(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
