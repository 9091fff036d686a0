"""The platform's part of a rehearsal: real Terraform on the emulated account, what people put there, and its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm.cloud.emulator_gaps import GAPS
from nexus_llm.cloud.emulator_missing import ALL_PATCHES
from nexus_llm.cloud.emulator_patches import Patch
from nexus_llm.cloud.sagemaker_pipeline import registration
from nexus_llm.cloud.stack_life import StackLife, regional_clients
from nexus_llm.cloud.taking_down import TakingDown
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.cost.terraform_diff import plan_diff
from nexus_llm.deploy.receipt import Receipt
from nexus_llm.deploy.stack import STAGES, Stage
from nexus_llm.errors import DeploymentError, LeftoversError, NexusError
from nexus_llm.recipe import Recipe

IMAGE_TAG = "0.1.0"
# Stand-ins that no call passes through.
_BESIDE = (
    (
        "cloudwatch: states of alarms",
        "moto evaluates none: the alarms of rollouts are judged here by AWS' published rules",
    ),
    ("servicequotas: all calls", "moto knows only VPC's quotas: a stand-in tells the values that the rehearsal chose"),
)
_MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": 2,
        "digest": "sha256:" + "0" * 64,
    },
    "layers": [],
}


@dataclass
class RehearsedPlatform:
    """One platform on the emulator, from its first stage to its receipt."""

    life: StackLife
    pricing: Pricing
    variables: dict[str, Path]
    """Of later stages; `life.given` is this very mapping."""
    clock: Callable[[], float] = time.monotonic
    usd_per_month: dict[str, float] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    """Kinds of resources that were made."""
    receipts: list[Receipt] = field(default_factory=list)

    def client(self, service: str) -> Any:
        """boto3's client of a service, in the platform's region."""
        return regional_clients(service, self.life.deployment.region)

    def give(self, stage: str, values: Mapping[str, Any]) -> None:
        """Writes the variables that only the user knows."""
        file = self.life.folder / f"{stage}.tfvars.json"
        file.write_text(json.dumps(values), encoding="utf-8")
        self.variables[stage] = file

    def up(self, name: str, *, refused: bool = False) -> dict[str, Any]:
        """Plans, prices and applies a stage, as `nexus aws up` does; where it should be `refused` first, twice.

        Raises:
            DeploymentError: AWS was made to refuse something, and nobody said so.
        """
        stage = next(one for one in STAGES if one.name == name)
        facts: dict[str, Any] = {}
        if refused:
            try:
                self._up(stage)
            except NexusError as error:
                facts["refused first"] = error.what
            else:
                raise DeploymentError(f"{name} was to be refused and was not", fix="see the list of faults")
        return facts | self._up(stage)

    def _up(self, stage: Stage) -> dict[str, Any]:
        began = self.clock()
        planned = self.life.plan(stage)
        diff, between = plan_diff(planned.document, self.pricing), self.clock()
        self.kinds |= {str(one["type"]) for one in planned.document.get("resource_changes", [])}
        self.life.apply(stage, planned, usd_per_month=diff.after_usd)
        self.usd_per_month[stage.name] = diff.after_usd
        return {
            "resources made": planned.actions.get("create", 0),
            "price shown before (USD a month)": round(diff.after_usd, 2),
            "plan (s)": round(between - began, 1),
            "apply (s)": round(self.clock() - between, 1),
        }

    def outputs(self) -> dict[str, Any]:
        """What all stages handed on: `platform`, `jobs`, `serving` …"""
        return {name: value for stage in STAGES for name, value in self.life.outputs(stage).items()}

    def push_images(self, urls: Mapping[str, str]) -> dict[str, str]:
        """Image → URI of a manifest in its repository; there are no layers, nobody pulls them."""
        for url in urls.values():
            self.client("ecr").put_image(
                repositoryName=url.partition("/")[2], imageTag=IMAGE_TAG, imageManifest=json.dumps(_MANIFEST)
            )
        return {name: f"{url}:{IMAGE_TAG}" for name, url in urls.items()}

    def register(self, recipe: Recipe, *, group: str, image: str, folder: str) -> dict[str, Any]:
        """Makes a version of the model package group and approves it; gives what the registry then says."""
        sagemaker = self.client("sagemaker")
        body = registration(recipe, group=group, image=image, folder=folder, approval="PendingManualApproval")
        arn = sagemaker.create_model_package(**body)["ModelPackageArn"]
        sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
        found = sagemaker.describe_model_package(ModelPackageName=arn)
        return {"version": arn.rpartition("/")[2], "group": group, "approval": found["ModelApprovalStatus"]}

    def down(self, *, planted: bool) -> dict[str, Any]:
        """Destroys all; something planted must be found (exit code 7), and nothing be left once it is taken away.

        Raises:
            DeploymentError: the planted thing was not found.
            LeftoversError: something else is left.
        """
        address = self._plant() if planted else ""
        work = TakingDown(self.life, regional_clients, may_delete_data=True)
        self.receipts.append(work.run(work.plan(()), pricing=self.pricing))
        facts: dict[str, Any] = {"destroyed": dict(self.receipts[-1].destroyed)}
        if address:
            facts["with something planted"] = self._found(address)
            self.client("ec2").release_address(AllocationId=address)
            again = TakingDown(self.life, regional_clients, may_delete_data=True)
            self.receipts.append(again.run(again.plan(()), pricing=self.pricing))
        self.receipts[-1].refuse_leftovers()
        return facts | {"exit code at the end": 0, "emptied": dict(self.receipts[0].emptied)}

    def _plant(self) -> str:
        tags = [{"Key": "platform", "Value": self.life.deployment.name}]
        made = self.client("ec2").allocate_address(TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": tags}])
        return str(made["AllocationId"])

    def _found(self, address: str) -> str:
        try:
            self.receipts[-1].refuse_leftovers()
        except LeftoversError as error:
            if address in error.what:
                return f"exit code {error.exit_code}: {error.what}"
        raise DeploymentError(f"the planted address {address} was not found", fix="see cloud/leftovers.py")

    def ledger(self) -> list[dict[str, Any]]:
        """What was begun and finished, without what every line repeats."""
        return [
            {"at": one.at, "stage": one.stage, "action": one.action, "event": str(one.event), "changes": one.changes,
             "usd_per_month": one.usd_per_month, "error": one.error}
            for one in self.life.ledger.entries()
            if one.event != "running"
        ]  # fmt: skip

    def rests_on_patches(self, stand_ins: Sequence[Patch] = ()) -> list[dict[str, str]]:
        """Kinds of resources that were made and that rest on a patch, then calls that do, each with the reason."""
        found = [(kind, one.reason) for one in ALL_PATCHES for kind in one.resources if kind in self.kinds]
        calls: dict[tuple[str, str], list[str]] = {}
        for one in (*ALL_PATCHES, *stand_ins):
            if not one.resources:
                calls.setdefault((one.service, one.reason), []).append(one.calls)
        asked = [(f"{service}: {', '.join(names)}", reason) for (service, reason), names in calls.items()]
        return [{"kind": kind, "reason": reason} for kind, reason in (*sorted(found), *sorted(asked), *_BESIDE)]


def known_gaps() -> Sequence[dict[str, str]]:
    """What the emulator forgets of what it was told, and why a second plan on it would differ."""
    return [{"stage": one.stage, "what": f"{one.kind}.{one.attribute}", "reason": one.reason} for one in GAPS]
