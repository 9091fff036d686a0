"""ECS as the place of a rollout: CodeDeploy starts green beside blue, tries it on a listener of its own, moves traffic.

CodeDeploy has the share and the times (stage 3: `canary`, `test_minutes`, `bake_minutes`) and turns back by itself when
an alarm of stage 2 fires; our state machine says when green may have traffic, watches, and writes down. Sources, read
2026-11: CodeDeploy API reference (CreateDeployment, ContinueDeployment, StopDeployment, GetDeploymentTarget); user
guide, "AppSpec 'resources' section (Amazon ECS)"; ECS API reference (Task: pullStartedAt, pullStoppedAt).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nexus_llm.cloud.account import Account
from nexus_llm.cloud.aws_errors import explained
from nexus_llm.deploy.rollout import Health, Rollout
from nexus_llm.errors import DeploymentError, PreflightError

# What ECS adds to a definition when it registers one, and refuses to be given.
ANSWERED_ONLY = frozenset({
    "compatibilities", "deregisteredAt", "registeredAt", "registeredBy", "requiresAttributes", "revision", "status",
    "taskDefinitionArn",
})  # fmt: skip
OPEN = ("Created", "Queued", "InProgress", "Baking", "Ready")
ENDED_BADLY = ("Failed", "Stopped")
FETCHES = "nexus_llm.cli.fetch_model"  # the container whose first argument is the model's location
_failed = partial(DeploymentError, fix="check that stages 2 and 3 are applied in this account and region")


class CodeDeployTarget:
    """A `nexus_llm.deploy.rollout.Target`; `rollout.plan.model` is where the package lies in the models' bucket."""

    def __init__(
        self,
        account: Account,
        *,
        serving: Mapping[str, Any],
        delivery: Mapping[str, Any],
        image: str | None = None,
        ask: Callable[[], float],
    ) -> None:
        """`serving` and `delivery` are what stages 2 and 3 handed on. `image` is a new gateway, by digest. `ask` asks
        green on the test listener and gives the seconds."""
        self._account, self._serving, self._delivery = account, serving, delivery
        self._image, self._ask = image, ask
        self._stopped: set[str] = set()
        self._group = {
            "applicationName": delivery["application_name"],
            "deploymentGroupName": delivery["deployment_group_name"],
        }

    def advance(self, rollout: Rollout) -> dict[str, Any] | None:
        if rollout.step == "stage":
            return self._stage(rollout)
        if rollout.step == "preflight":
            return self._preflight()
        deployment = self._deployment(rollout)
        status, name = deployment["status"], deployment["deploymentId"]
        if status in ENDED_BADLY:
            said = deployment.get("errorInformation", {}).get("message", "no reason given")
            raise DeploymentError(f"CodeDeploy's deployment {name} is {status}: {said}", fix="read the tasks' log")
        if rollout.step == "warm":
            return self._warm(name) if status == "Ready" else None
        if rollout.step == "canary" and status == "Ready":
            self._call("ContinueDeployment", name, deploymentWaitType="READY_WAIT")
        if rollout.step == "drain" and deployment.get("instanceTerminationWaitTimeStarted") and status != "Succeeded":
            self._call("ContinueDeployment", name, deploymentWaitType="TERMINATION_WAIT")
        weight = 1.0 if status == "Succeeded" else self._green_weight(name)
        wanted = {"canary": weight > 0, "drain": status == "Succeeded"}
        return {"deployment": name, "share": weight} if wanted.get(rollout.step, weight >= 1) else None

    def health(self, rollout: Rollout) -> Health:  # noqa: ARG002
        """Of stage 2's alarms: what they watch is beyond what one look at a task would tell."""
        return Health(alarm=fired_alarm(self._account, self._serving["rollback_alarm_names"]))

    def turn_back(self, rollout: Rollout) -> dict[str, Any] | None:
        """See `Target`. While blue is there, CodeDeploy turns the listener back; afterwards the former definition is
        rolled out like any other."""
        staged = rollout.facts.get("stage")
        found = self._find(_forward(staged["green"])) if staged else None
        if found is not None and found["status"] in OPEN:
            if found["deploymentId"] not in self._stopped:
                self._call("StopDeployment", found["deploymentId"], autoRollbackEnabled=True)
                self._stopped.add(found["deploymentId"])
            return None
        if staged is None or found is None or found["status"] != "Succeeded":
            return {"how": "blue was there" if found else "nothing was begun"}
        why = f"nexus rollback of {staged['green']}"
        back = self._find(why) or self._create(why, staged["blue"])
        if back["status"] in ENDED_BADLY:
            raise DeploymentError(
                f"the way back, {back['deploymentId']}, is {back['status']}", fix="look at it in CodeDeploy's console"
            )
        if back["status"] == "Ready":
            self._call("ContinueDeployment", back["deploymentId"], deploymentWaitType="READY_WAIT")
        is_over = back["status"] == "Succeeded" or self._green_weight(back["deploymentId"]) >= 1
        return {"how": "the former definition was rolled out", "deployment": back["deploymentId"]} if is_over else None

    def _stage(self, rollout: Rollout) -> dict[str, Any]:
        ecs, family = self._account.client("ecs"), self._serving["task_family"]
        with explained("ecs:DescribeServices", rollout.plan.service, failed=_failed):
            services = ecs.describe_services(
                cluster=self._serving["cluster_name"], services=[self._serving["service_name"]]
            )["services"]
            sets = services[0].get("taskSets", []) if services else []
            primary = [one["taskDefinition"] for one in sets if one.get("status") == "PRIMARY"]
            blue = primary[0] if primary else ecs.describe_task_definition(taskDefinition=family)["taskDefinition"][
                "taskDefinitionArn"
            ]  # fmt: skip
            definition = ecs.describe_task_definition(taskDefinition=blue)["taskDefinition"]
        body = green_definition(definition, model=rollout.plan.model, image=self._image, serving=self._serving)
        with explained("ecs:RegisterTaskDefinition", family, failed=_failed):
            green = ecs.register_task_definition(**body)["taskDefinition"]["taskDefinitionArn"]
        return {"blue": blue, "green": green}

    def _preflight(self) -> dict[str, Any]:
        with explained("codedeploy:GetDeploymentGroup", self._group["deploymentGroupName"], failed=_failed):
            group = self._account.client("codedeploy").get_deployment_group(**self._group)["deploymentGroupInfo"]
        ready = group.get("blueGreenDeploymentConfiguration", {}).get("deploymentReadyOption", {})
        if ready.get("actionOnTimeout") != "STOP_DEPLOYMENT":
            raise PreflightError(
                f"{group['deploymentGroupName']} gives green traffic before anybody has asked it anything",
                fix="apply infra/stages/3-delivery with test_minutes = 60",
            )
        if ".elb.amazonaws." in (url := self._serving.get("url", "")):
            raise PreflightError(
                f"{url} is the balancer's own name, for which no certificate holds: nobody could ask green there",
                fix="apply infra/stages/2-serving with host_name, the name in its certificate",
            )
        running = self._listed(OPEN)
        if running:
            raise PreflightError(
                f"the deployment {running[0]} is under way", fix="wait for it, or: nexus rollback --to ecs"
            )
        refuse_alarm(self._account, self._serving["rollback_alarm_names"])
        return {"test_minutes": ready.get("waitTimeInMinutes"), "deployment_config": group["deploymentConfigName"]}

    def _warm(self, deployment: str) -> dict[str, Any]:
        return {"deployment": deployment, **self._phases(), "warm_seconds": round(self._ask(), 3)}

    def _phases(self) -> dict[str, Any]:
        """Of green's newest task: images pulled, then the model fetched and loaded until it counts as running."""
        ecs, cluster = self._account.client("ecs"), self._serving["cluster_name"]
        with explained("ecs:DescribeTasks", cluster, failed=_failed):
            arns = ecs.list_tasks(cluster=cluster, serviceName=self._serving["service_name"])["taskArns"]
            tasks = ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"] if arns else []
        newest: dict[str, Any] = max(tasks, key=lambda task: task.get("createdAt", 0), default={})
        moments = ("pullStartedAt", "pullStoppedAt", "startedAt")
        times = [newest[name].timestamp() if name in newest else None for name in moments]
        return {
            "pull_seconds": None if times[0] is None or times[1] is None else times[1] - times[0],
            "load_seconds": None if times[1] is None or times[2] is None else times[2] - times[1],
        }

    def _deployment(self, rollout: Rollout) -> dict[str, Any]:
        """The rollout's own, begun now where it is not there yet."""
        green = rollout.facts["stage"]["green"]
        return self._find(_forward(green)) or self._create(_forward(green), green)

    def _find(self, description: str) -> dict[str, Any] | None:
        """The newest deployment that says it is this: a killed rollout finds its own again."""
        for one in self._listed((*OPEN, *ENDED_BADLY, "Succeeded")):
            with explained("codedeploy:GetDeployment", one, failed=_failed):
                info: dict[str, Any] = self._account.client("codedeploy").get_deployment(deploymentId=one)[
                    "deploymentInfo"
                ]
            if info.get("description") == description:
                return info
        return None

    def _listed(self, statuses: tuple[str, ...]) -> list[str]:
        with explained("codedeploy:ListDeployments", self._group["deploymentGroupName"], failed=_failed):
            answer = self._account.client("codedeploy").list_deployments(
                **self._group, includeOnlyStatuses=list(statuses)
            )
        return list(answer.get("deployments", []))

    def _create(self, description: str, definition: str) -> dict[str, Any]:
        body = deployment_body(self._group, self._delivery, self._serving, definition=definition) | {
            "description": description
        }
        with explained("codedeploy:CreateDeployment", self._group["deploymentGroupName"], failed=_failed):
            made = self._account.client("codedeploy").create_deployment(**body)
        return {"deploymentId": made["deploymentId"], "status": "Created"}

    def _green_weight(self, deployment: str) -> float:
        """Green's share of the traffic, 0 to 1."""
        client = self._account.client("codedeploy")
        with explained("codedeploy:GetDeploymentTarget", deployment, failed=_failed):
            targets = client.list_deployment_targets(deploymentId=deployment)["targetIds"]
            if not targets:
                return 0.0
            found = client.get_deployment_target(deploymentId=deployment, targetId=targets[0])["deploymentTarget"]
        sets = found.get("ecsTarget", {}).get("taskSetsInfo", [])
        return float(sum(one.get("trafficWeight", 0.0) for one in sets if one.get("taskSetLabel") == "Green")) / 100

    def _call(self, call: str, deployment: str, **more: Any) -> None:
        from botocore import xform_name

        with explained(f"codedeploy:{call}", deployment, failed=_failed):
            getattr(self._account.client("codedeploy"), xform_name(call))(deploymentId=deployment, **more)


def fired_alarm(account: Account, names: Sequence[str]) -> str | None:
    """The first of these CloudWatch alarms that is on; None where none is, and where none is named."""
    if not names:
        return None
    with explained("cloudwatch:DescribeAlarms", names[0], failed=_failed):
        answer = account.client("cloudwatch").describe_alarms(AlarmNames=list(names))
    alarms = answer.get("MetricAlarms", [])
    return min((one["AlarmName"] for one in alarms if one["StateValue"] == "ALARM"), default=None)


def refuse_alarm(account: Account, names: Sequence[str]) -> None:
    """Does nothing where all is quiet."""
    if (fired := fired_alarm(account, names)) is not None:
        raise PreflightError(f"the alarm {fired} is on: it would turn every rollout back", fix="see its runbook first")


def green_definition(
    definition: Mapping[str, Any], *, model: str, image: str | None, serving: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of RegisterTaskDefinition: what runs now, with another model, and another gateway where there is one.

    Raises:
        PreflightError: no container of the definition fetches a model, or none answers.
    """
    containers = [dict(one) for one in definition["containerDefinitions"]]
    fetching = [one for one in containers if FETCHES in one.get("entryPoint", [])]
    answering = [one for one in containers if one["name"] == serving["container_name"]]
    if not fetching or not answering:
        raise PreflightError(
            f"{definition['family']} has no container that fetches a model and one that answers",
            fix="apply infra/stages/2-serving with an engine of its own (not openai)",
        )
    for one in fetching:
        one["command"] = [model, *one["command"][1:]]
    if image is not None:
        old = answering[0]["image"]
        for one in containers:
            one["image"] = image if one["image"] == old else one["image"]
    kept = {name: value for name, value in definition.items() if name not in ANSWERED_ONLY}
    return kept | {"containerDefinitions": containers}


def deployment_body(
    group: Mapping[str, str],
    delivery: Mapping[str, Any],
    serving: Mapping[str, Any],
    *,
    definition: str,
) -> dict[str, Any]:
    """The body of CreateDeployment. The capacity provider is named again: without it green starts on the default."""
    service = {
        "TaskDefinition": definition,
        "LoadBalancerInfo": {"ContainerName": serving["container_name"], "ContainerPort": serving["container_port"]},
        "CapacityProviderStrategy": [{"CapacityProvider": serving["capacity_provider"], "Base": 0, "Weight": 1}],
    }
    spec = {"version": 0.0, "Resources": [{"TargetService": {"Type": "AWS::ECS::Service", "Properties": service}}]}
    return {
        **group,
        "deploymentConfigName": delivery["deployment_config_name"],
        "revision": {"revisionType": "AppSpecContent", "appSpecContent": {"content": json.dumps(spec)}},
        "autoRollbackConfiguration": {
            "enabled": True,
            "events": ["DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_STOP_ON_REQUEST"],
        },
    }


def _forward(definition: str) -> str:
    """How a rollout's deployment is known again: every definition has an ARN of its own."""
    return f"nexus deploy {definition}"
