"""The proof that operating works: versions swapped and taken back, alarms that fire, a disaster that is undone.

    python benchmarks/proof_operate.py [--only rollout alarms restore] [--megabytes 256] [--out FOLDER]

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
ALARMS = "tests/infra/test_alarms.py"
Scenario = dict[str, Any]


def main() -> int:
    """Runs the parts, stores what they found, and says whether all claims hold."""
    arguments = _arguments()
    parts: dict[str, Callable[[], list[Scenario]]] = {
        "rollout": rollout,
        "alarms": alarms,
        "restore": lambda: [restored(drill(arguments.megabytes))],
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


def rollout() -> list[Scenario]:
    """What `proof_rollout.py` found, by its stored document."""
    script = HERE / "proof_rollout.py"
    title = "Versions are swapped, and taken back"
    if not script.exists():
        return [_scenario(title, "Not run: benchmarks/proof_rollout.py is not here.", [_ran(is_there=False)])]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, str(script), "--out", folder], stdout=sys.stderr, check=False)
        stored = sorted(Path(folder).glob("*.json"))
        document = json.loads(stored[0].read_text(encoding="utf-8")) if stored else {}
    told = f"benchmarks/proof_rollout.py ended with {done.returncode}."
    inner = document.get("scenarios") or [{"title": title, "told": told, "claims": document.get("claims", [])}]
    return [_scenario(title, told, [_ran(is_there=done.returncode == 0)]), *inner]


def alarms() -> list[Scenario]:
    """Every alarm that Terraform makes, fired once by a series and recovered: the tests' own names and ends."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ALARMS, f"--junitxml={report}"]
        subprocess.run(command, cwd=HERE.parent, stdout=sys.stderr, check=False)
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
    command = [
        sys.executable,
        "-m",
        "nexus_llm.cli",
        "aws",
        "drill",
        "restore",
        "--megabytes",
        str(megabytes),
        "--json",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    document: dict[str, Any] = json.loads(done.stdout or "{}")
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


def _scenario(title: str, told: str, claims: list[Claim]) -> Scenario:
    return {"title": title, "told": told, "claims": [claim.document() for claim in claims]}


def _ran(*, is_there: bool) -> Claim:
    return Claim("ran, and held", int(is_there), target="≥ 1")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["rollout", "alarms", "restore"], help="these parts alone")
    parser.add_argument("--megabytes", type=int, default=256, help="size of the model that the drill loses")
    parser.add_argument("--out", type=Path, help="folder for the results [default: benchmarks/results]")
    parser.add_argument("--note", default="", help="a line for the result, such as what else the machine was doing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
