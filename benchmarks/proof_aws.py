"""The proof that the real stages live and die: apply, empty second plan, destroy, on an emulated AWS.

    python benchmarks/proof_aws.py [--through 1-platform] [--folder runs/proof-aws]

Runs the code of `nexus aws up` and `nexus aws down` on `infra/` as it ships, against moto behind our patches, and
writes `results/proof_aws_DATE.json`: seconds of each step, what rests on patches, which gaps were met. Exit code 1 if a
second plan differs in anything that is not in the list of gaps, where a gap of the list did not appear, or where
something is left. It proves wiring, order, acceptance by the API's shapes and teardown; not how AWS behaves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from emulator_drift import judge
from nexus_llm.cloud.emulator import ACCOUNT, REGION, running_emulator, without_aws
from nexus_llm.cloud.emulator_missing import ALL_PATCHES
from nexus_llm.cloud.stack_life import StackLife, begun, regional_clients
from nexus_llm.cloud.taking_down import TakingDown
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.deploy.stack import STAGES, Stage

RESULTS = Path(__file__).parent / "results"
# What a user would know: an image, a model, a repository. None of them exists.
GIVEN: dict[str, dict[str, Any]] = {
    "2-serving": {
        "gateway_version": ":1.2.0",
        "model": {"name": "m", "key": "package/1a2b"},
        "database": {},
        "is_deletion_protected": False,
    },
    "3-delivery": {
        "source_code": {
            "connection_arn": f"arn:aws:codeconnections:{REGION}:{ACCOUNT}:connection/1",
            "repository": "example/nexus-llm",
        }
    },
}
Value = TypeVar("Value")


def main() -> int:
    """Lives a life; 0 where everything held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--through", choices=[one.name for one in STAGES], default=STAGES[-1].name)
    parser.add_argument("--folder", type=Path, default=Path("runs/proof-aws"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    stages = [one for one in STAGES if one.name <= arguments.through]
    with running_emulator(log=None) as emulator:
        environment = without_aws(os.environ) | emulator.environment
        os.environ.clear()
        os.environ.update(environment)
        document = _live(arguments.folder, stages)
    document["date"] = datetime.now(UTC).date().isoformat()
    document["cores"] = os.cpu_count()
    target = RESULTS / f"proof_aws_{document['date']}.json"
    target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"{'holds' if document['holds'] else 'DOES NOT HOLD'}: {target}")
    return 0 if document["holds"] else 1


def _live(folder: Path, stages: list[Stage]) -> dict[str, Any]:
    deployment, place = begun(
        folder,
        name="nexus-small",
        environment="small",
        account=ACCOUNT,
        region=REGION,
        zones=(f"{REGION}a", f"{REGION}b"),
    )
    asked = regional_clients("acm", REGION).request_certificate(DomainName="llm.example.com")
    GIVEN["2-serving"]["certificate_arn"] = asked["CertificateArn"]  # a listener wants one that exists
    life = StackLife(
        deployment,
        place,
        dict(os.environ),
        lambda: datetime.now(UTC).isoformat(timespec="seconds"),
        given={name: _file(folder, name, values) for name, values in GIVEN.items()},
        clients=regional_clients,
    )
    seconds: dict[str, float] = {}
    kinds: dict[str, dict[str, int]] = {}
    second_plans = {}
    for stage in stages:
        planned = _timed(seconds, f"{stage.name} plan", lambda stage=stage: life.plan(stage))
        kinds[stage.name] = _kinds(planned.document)
        _timed(seconds, f"{stage.name} apply", lambda stage=stage, planned=planned: life.apply(stage, planned))
        again = _timed(seconds, f"{stage.name} second plan", lambda stage=stage: life.plan(stage))
        second_plans[stage.name] = again.document
    verdict = judge(second_plans)
    for gap in verdict.met:
        print(f"  gap: {gap.kind}.{gap.attribute}: {gap.reason}")
    for words in verdict.unexplained:
        print(f"  NOT EXPLAINED: {words}")
    for gap in verdict.unused:
        print(f"  UNUSED: {gap.kind}.{gap.attribute}")
    work = TakingDown(life, regional_clients, may_delete_data=True)
    plans = _timed(seconds, "down plan", lambda: work.plan(()))
    pricing = Pricing(PriceTable.shipped(), "us-east-1")
    receipt = _timed(seconds, "down", lambda: work.run(plans, pricing=pricing))
    for line in receipt.lines():
        print(f"  {line}")
    used = {kind for counts in kinds.values() for kind in counts}
    return {
        "holds": verdict.holds and not receipt.left and not receipt.not_asked,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "resources": {stage: sum(counts.values()) for stage, counts in kinds.items()},
        "rests_on_patches": {kind: patch.reason for patch in ALL_PATCHES for kind in patch.resources if kind in used},
        "gaps_met": [f"{one.stage} {one.kind}.{one.attribute}: {one.reason}" for one in verdict.met],
        "gaps_unused": [f"{one.stage} {one.kind}.{one.attribute}" for one in verdict.unused],
        "not_explained": list(verdict.unexplained),
        "receipt": receipt.as_document(),
    }


def _timed(seconds: dict[str, float], what: str, work: Callable[[], Value]) -> Value:
    print(f"{what} …", flush=True)
    started = time.monotonic()
    result = work()
    seconds[what] = time.monotonic() - started
    print(f"  {seconds[what]:.1f} s", flush=True)
    return result


def _kinds(plan: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for change in plan["resource_changes"]:
        if change["change"]["actions"] == ["create"]:
            counts[change["type"]] = counts.get(change["type"], 0) + 1
    return dict(sorted(counts.items()))


def _file(folder: Path, stage: str, values: dict[str, Any]) -> Path:
    file = folder / f"{stage}.tfvars.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


if __name__ == "__main__":
    sys.exit(main())
