"""The proof that operating works: versions swapped and taken back, alarms that fire, a disaster that is undone.

    python benchmarks/proof_operate.py [--only alarms restore rollout] [--megabytes 256] [--seconds 600] [--out FOLDER]

Runs each part as a process of its own, as users and `make` do, and writes `results/proof_operate_HARDWARE_DATE.json`
and `.html`. A part that is not there, or whose tools are not installed, does not hold. Exit code 1 where a claim does
not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

from claims import RESULTS, Claim, describe, tell
from proof_page import page

HERE = Path(__file__).resolve().parent
LONGEST_SECONDS = 1_800.0  # of one part: what hangs shall say so
ALARMS = "tests/infra/test_alarms.py"
ROLLOUTS = {
    "swap": (
        "A version is swapped under open streams",
        "100 clients ask again and again; nexus deploy warms, checks, shares, shifts, bakes and drains meanwhile. The "
        "time before is what first tokens are held against.",
    ),
    "drill": (
        "Minutes of service in which much goes wrong",
        "32 clients ask again and again. The engine is killed with kill -9; a model with shuffled weights is rolled "
        "out; a sound one is rolled out and turned back, first while the old one is warm, then after it has gone.",
    ),
}
Scenario = dict[str, Any]


def main() -> int:
    """Runs the parts, stores what they found, and says whether all claims hold."""
    arguments = _arguments()
    parts: dict[str, Callable[[], list[Scenario]]] = {
        "alarms": alarms,
        "restore": lambda: [restored(drill(arguments.megabytes))],
        "rollout": lambda: rollout(arguments.seconds),
    }
    scenarios: list[Scenario] = []
    for name in arguments.only or parts:
        tell(f"— {name}")
        began = time.monotonic()
        found = parts[name]()
        for one in found:
            for claim in one["claims"]:
                verdict = {None: "   ", True: "ok ", False: "NO "}[claim["holds"]]
                tell(f"  {verdict} {claim['what']}: {claim['value']} {claim['unit']} {claim['target'] or ''}")
        tell(f"  {time.monotonic() - began:.0f} s")
        scenarios += found
    document = describe("Operating", [], details={}, note=arguments.note, command="benchmarks/proof_operate.py")
    del document["claims"], document["details"]
    document["holds"] = all(claim["holds"] is not False for one in scenarios for claim in one["claims"])
    document["scenarios"] = scenarios
    folder = arguments.out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"proof_operate_{platform.machine()}-{os.cpu_count()}-cores_{document['date']}"
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".html").write_text(page(document), encoding="utf-8")
    print(stem.with_suffix(".html"))
    return 0 if document["holds"] else 1


def rollout(seconds: float) -> list[Scenario]:
    """What `proof_rollout.py` found, a scenario each of its proofs."""
    with tempfile.TemporaryDirectory() as folder:
        code, _ = _ended(
            [str(HERE / "proof_rollout.py"), "--seconds", f"{seconds:g}", "--out", folder], stdout=sys.stderr
        )
        stored = sorted(Path(folder).glob("*.json"))
        claims = json.loads(stored[0].read_text(encoding="utf-8"))["claims"] if stored else []
    return by_proof(claims) or [_scenario("Versions are swapped", f"It ended with {code}.", [_ran(is_there=False)])]


def by_proof(claims: list[dict[str, Any]]) -> list[Scenario]:
    """The claims of `proof_rollout.py`, which begin with the name of their proof, as scenarios."""
    found = []
    for name, (title, told) in ROLLOUTS.items():
        mine = [one | {"what": one["what"].removeprefix(f"{name}: ")} for one in claims if one["what"].startswith(name)]
        if mine:
            found.append({"title": title, "told": told, "claims": mine})
    return found


def alarms() -> list[Scenario]:
    """Every alarm that Terraform makes, fired once by a series and recovered: the tests' own names and ends."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", ALARMS, f"--junitxml={report}"]
        _ended(command, cwd=HERE.parent, stdout=sys.stderr)
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    claims = [Claim("tests that ran", len(cases), target="≥ 8")]
    for case in cases:
        what = str(case.get("name")).removeprefix("test_").replace("_", " ")
        has_passed = not any(case.find(end) is not None for end in ("failure", "error", "skipped"))
        claims.append(Claim(what, int(has_passed), target="≥ 1"))
    told = f"{ALARMS}: each alarm of infra/ in our evaluator of CloudWatch's documented rules; no account was asked."
    return [_scenario("Alarms fire, recover, and name their runbook", told, claims)]


def drill(megabytes: int) -> dict[str, Any]:
    """The document of `nexus aws drill restore`; empty where it could not run."""
    command = ["-m", "nexus_llm.cli", "aws", "drill", "restore", "--megabytes", str(megabytes), "--json"]
    _, told = _ended(command, stdout=subprocess.PIPE, text=True)
    document: dict[str, Any] = json.loads(told or "{}")
    return document if "systems" in document else {}


def restored(document: dict[str, Any]) -> Scenario:
    """The drill as claims: everything equal, soon enough, with a real PostgreSQL and MLflow."""
    if not document:
        return _scenario("A disaster is undone", "nexus aws drill restore could not run.", [_ran(is_there=False)])
    claims = [
        Claim(
            "seconds until all was back and compared", document["rto_seconds"], "s", f"< {document['limit_seconds']:g}"
        ),
        Claim("seconds that the backup took", document["backup_seconds"], "s"),
        Claim("bytes in the backup", document["bytes"], "bytes"),
        Claim("systems that could not be tried", len(document["not_run"]), target="≤ 0"),
    ]
    for one in document["systems"]:
        claims += [
            Claim(f"{one['name']}: equal ({one['compared']})", int(one["equal"]), target="≥ 1"),
            Claim(f"{one['name']}: brought back by {one['by']}", one["rto_seconds"], "s"),
            Claim(f"{one['name']}: newer than the copy", one["rpo_seconds"], "s"),
            Claim(f"{one['name']}: writes lost, all newer than the copy", one["lost"]),
        ]
    told = (
        "Written, backed up, written again; then the disk, the database and all objects are lost and brought back. "
        "Buckets are an emulator's; PostgreSQL and the commands are real. " + " ".join(document["not_run"])
    )
    return _scenario("A disaster is undone", told.strip(), claims)


def _ended(arguments: list[str], **options: Any) -> tuple[int | None, Any]:
    """Exit code and output of a Python process; None and nothing where it had to be ended."""
    try:
        done = subprocess.run([sys.executable, *arguments], timeout=LONGEST_SECONDS, check=False, **options)
    except subprocess.TimeoutExpired:
        return None, None
    return done.returncode, done.stdout


def _scenario(title: str, told: str, claims: list[Claim]) -> Scenario:
    return {"title": title, "told": told, "claims": [claim.document() for claim in claims]}


def _ran(*, is_there: bool) -> Claim:
    return Claim("ran, and held", int(is_there), target="≥ 1")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["alarms", "restore", "rollout"], help="these parts alone")
    parser.add_argument("--megabytes", type=int, default=256, help="size of the model that the drill loses")
    parser.add_argument("--seconds", type=float, default=600, help="length of the drill; below 60 all is small")
    parser.add_argument("--out", type=Path, help="folder for the results [default: benchmarks/results]")
    parser.add_argument("--note", default="", help="a line for the result, such as what else the machine was doing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
