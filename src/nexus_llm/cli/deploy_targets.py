"""The places to which `nexus deploy` rolls out, made from its options."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nexus_llm.cli.admin_token import admin_headers
from nexus_llm.cli.deploy_check import Door
from nexus_llm.cli.options import json_object, key_headers
from nexus_llm.cli.serve import find_model
from nexus_llm.errors import UsageError

if TYPE_CHECKING:
    from nexus_llm.deploy.rollout import Judgement, Rollout, Target
    from nexus_llm.deploy.rollout_driver import RolloutFolder
    from nexus_llm.ports import Ports

TargetName = Literal["local", "ecs", "sagemaker"]
TEST_PORT = 8443  # of stage 2's test listener
AWS_POLL_SECONDS = 15.0


@dataclass(frozen=True)
class Where:
    """What the options say about the place."""

    to: TargetName
    url: str
    platform: str
    endpoint: str | None
    alarms: tuple[str, ...]
    image: str | None
    root: Path


@dataclass(frozen=True)
class Opened:
    """A place that can be driven."""

    target: Target
    service: str
    doors: Callable[[Rollout], tuple[Door, Door]]
    """Blue's and green's."""
    stage_model: Callable[[str], str]
    """What the plan calls a model that a user named; puts it into a bucket where it has to be there."""
    poll_seconds: float = AWS_POLL_SECONDS
    parity: Callable[[Rollout, Door], Judgement] | None = None
    asks_first: bool = True
    """Whether it costs money."""


def opened(where: Where, ports: Ports) -> Opened:
    """The place that is meant."""
    return {"local": _local, "ecs": _ecs, "sagemaker": _sagemaker}[where.to](where, ports)


def rollouts(where: Where, service: str) -> RolloutFolder:
    """Where the rollouts of a service are written down."""
    from nexus_llm.deploy.rollout_driver import RolloutFolder

    return RolloutFolder(where.root / "runs" / "deploy" / f"{where.to}-{re.sub(r'[^a-zA-Z0-9.-]+', '-', service)}")


def _local(where: Where, ports: Ports) -> Opened:  # noqa: ARG001
    import httpx

    from nexus_llm.cli.deploy_check import judge_parity
    from nexus_llm.deploy.rollout_gateway import GatewayTarget

    headers = admin_headers(httpx.URL(where.url).port or 80) or key_headers()
    pulled: dict[str, float] = {}

    def stage(name: str) -> str:
        began = time.monotonic()
        folder = find_model(name, root=where.root).folder.resolve()
        pulled["seconds"] = round(time.monotonic() - began, 3)
        return str(folder)

    def doors(rollout: Rollout) -> tuple[Door, Door]:
        name = rollout.facts["stage"]["name"]
        return Door(where.url, f"{name}@blue", headers), Door(where.url, f"{name}@green", headers)

    client = httpx.Client(base_url=where.url, headers=headers)
    target = GatewayTarget(client, pull_seconds=lambda: pulled.get("seconds"))
    parity = lambda rollout, green: judge_parity(Path(rollout.plan.model), green)  # noqa: E731
    return Opened(target, where.url, doors, stage, 0.2, parity, asks_first=False)


def _ecs(where: Where, ports: Ports) -> Opened:
    from nexus_llm.cli.job_account import account
    from nexus_llm.cloud.codedeploy import CodeDeployTarget

    platform, serving, delivery = (_handed_on(where, name) for name in ("platform", "serving", "delivery"))
    name, url = serving["model"]["name"], serving["url"]
    stage, parity = _into_bucket(where, platform)
    blue, green = (Door(one, name, key_headers()) for one in (url, f"{url}:{TEST_PORT}"))
    target = CodeDeployTarget(
        account(platform["region"], ports.interrupt),
        serving=serving,
        delivery=delivery,
        image=where.image,
        ask=green.seconds_to_answer,
    )
    return Opened(target, serving["service_name"], lambda _: (blue, green), stage, parity=parity)


def _sagemaker(where: Where, ports: Ports) -> Opened:
    from nexus_llm.cli.job_account import account
    from nexus_llm.cloud.sagemaker_endpoint import EndpointTarget, EndpointTransport, trial_name

    if where.endpoint is None:
        raise UsageError("no endpoint is named", fix="--endpoint NAME")
    platform = _handed_on(where, "platform")
    there = account(platform["region"], ports.interrupt)

    def door(endpoint: str) -> Door:
        return Door("https://runtime.sagemaker", endpoint, {}, EndpointTransport(there, endpoint))

    target = EndpointTarget(there, alarms=where.alarms, ask=lambda name: door(name).seconds_to_answer())
    doors = (door(where.endpoint), door(trial_name(where.endpoint)))
    stage, _ = _into_bucket(where, platform)  # an endpoint has no /tokenize: its answers alone are compared
    return Opened(target, where.endpoint, lambda _: doors, stage)


def _into_bucket(
    where: Where, platform: dict[str, Any]
) -> tuple[Callable[[str], str], Callable[[Rollout, Door], Judgement]]:
    """What puts a package into the bucket, and what compares its token ids with green's, where it lies here, too."""
    from nexus_llm.cli.deploy_check import judge_parity
    from nexus_llm.deploy.rollout import Judgement

    here: list[Path] = []

    def stage(name: str) -> str:
        if name.startswith("s3://"):
            return name.rstrip("/")
        from nexus_llm import storage
        from nexus_llm.artifacts import load
        from nexus_llm.cloud.aws_errors import explained
        from nexus_llm.cloud.data_uploads import upload_artifact

        here.append(find_model(name, root=where.root).folder)
        bucket = f"s3://{platform['models_bucket']}"
        with explained("s3:PutObject", bucket), storage.explained(bucket):
            return upload_artifact(load(here[-1]), bucket)

    def parity(rollout: Rollout, green: Door) -> Judgement:  # noqa: ARG001
        return judge_parity(here[-1], green) if here else Judgement("pass", "the package lies in S3 alone")

    return stage, parity


def _handed_on(where: Where, name: str) -> dict[str, Any]:
    """What a stage of the platform handed on to the next ones."""
    path = where.root / "runs" / "aws" / where.platform / f"{name}.json"
    return json_object(path, fix="nexus aws up first; another platform: --name NAME")
