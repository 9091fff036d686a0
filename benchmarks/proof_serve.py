"""The proof that serving survives: engines killed, servers stopped, clients that behave badly, models swapped, hours.

    python benchmarks/proof_serve.py [--model FOLDER] [--engine openvino] [--seconds 300 | --hour] [--only NAME …]

Runs `nexus serve` on a packaged model as users run it, brings each fault about, and writes
`results/proof_serve_HARDWARE_DATE.json` and `.html` (`proof_serve_hour_…` with `--hour`). Exit code 1 where a claim
does not hold. `--seconds 10` is a small form of everything, for tests: it proves that the proof works, and that nothing
breaks at that size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import proof_faults
from claims import RESULTS, describe, tell
from nexus_llm.chat import ChatTokenizer
from proof_faults import Plan, Scenario
from proof_page import page
from proof_soak import soak
from served import packaged_model

SCENARIOS: dict[str, Callable[[Plan], Scenario]] = {
    "engine-killed": proof_faults.engine_killed,
    "terminated": lambda plan: proof_faults.terminated(plan, is_too_long=False),
    "terminated-long": lambda plan: proof_faults.terminated(plan, is_too_long=True),
    "slow-clients": proof_faults.slow_clients,
    "swapped": proof_faults.swapped,
    "soak": soak,
}


def main() -> int:
    """Runs the scenarios, stores what they found, and says whether all claims hold."""
    arguments = _arguments()
    plan = make_plan(arguments)
    scenarios = []
    for name in arguments.only or SCENARIOS:
        tell(f"— {name}")
        scenarios.append(SCENARIOS[name](plan))
        for claim in scenarios[-1].claims:
            verdict = {None: "   ", True: "ok ", False: "NO "}[claim.holds]
            tell(f"  {verdict} {claim.what}: {claim.value} {claim.unit} {claim.target or ''}")
    claims = [claim for scenario in scenarios for claim in scenario.claims]
    command = f"benchmarks/proof_serve.py --seconds {plan.soak_seconds:g}"
    document = describe("Serving under faults", claims, details={}, note=arguments.note, command=command)
    document["holds"] = all(claim.holds is not False for claim in claims)
    document["plan"] = {
        "engine": plan.engine, "streams": plan.streams, "prompt_tokens": plan.prompt_tokens,
        "answer_tokens": plan.answer_tokens, "soak_seconds": plan.soak_seconds,
    }  # fmt: skip
    del document["claims"], document["details"]
    document["scenarios"] = [
        {"title": one.title, "told": one.told, "claims": [claim.document() for claim in one.claims], **one.details}
        for one in scenarios
    ]
    folder = arguments.out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    name = "proof_serve_hour" if arguments.hour else "proof_serve"
    stem = folder / f"{name}_{platform.machine()}-{os.cpu_count()}-cores_{document['date']}"
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".html").write_text(page(document), encoding="utf-8")
    print(stem.with_suffix(".html"))
    return 0 if document["holds"] else 1


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The full proof, or the small one where the soak is short; sizes fit the model's context."""
    model = packaged_model(arguments.model)
    seconds = 3_600.0 if arguments.hour else arguments.seconds
    vocabulary = min(20_000, ChatTokenizer.load(model).vocabulary_size)
    full = Plan(model, arguments.engine, vocabulary=vocabulary, soak_seconds=seconds)
    if full.is_full:
        return full
    return Plan(
        model, arguments.engine, streams=24, max_running=12, prompt_tokens=24, answer_tokens=64, vocabulary=vocabulary,
        soak_seconds=seconds, pairs=1, slow_clients=20, patience_seconds=1.0,
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a packaged model folder [default: the newest one in artifacts/]")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--seconds", type=float, default=300.0, help="of the soak; below 60, everything is small")
    parser.add_argument("--hour", action="store_true", help="soak for an hour")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), help="these faults alone")
    parser.add_argument("--out", type=Path, help="folder for the results [default: benchmarks/results]")
    parser.add_argument("--note", default="", help="a line for the result, such as what else the machine was doing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
