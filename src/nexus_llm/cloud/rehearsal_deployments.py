"""CodeDeploy that deploys: the emulator accepts a deployment, this machine rolls it out.

The emulator keeps a deployment as `Created` for ever. Here it starts green tasks of the definition that it was given,
waits for somebody's word, moves the balancer's weights as the deployment's configuration says, keeps blue for a while,
and turns everything back when it is stopped or when one of the group's alarms is on. The states are CodeDeploy's own
(API reference, "DeploymentInfo", and user guide, "Deployments on an Amazon ECS compute platform", both read 2026-11).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nexus_llm.cloud.account import open_account
from nexus_llm.cloud.codedeploy import FETCHES, fired_alarm
from nexus_llm.cloud.emulator import ACCOUNT
from nexus_llm.cloud.emulator_patches import Answer, Call, Memory, Moto, Patch, PatchedApplication, Wsgi, json_answer
from nexus_llm.cloud.rehearsal_balancer import BLUE, GREEN
from nexus_llm.cloud.rehearsal_service import Service, Task
from nexus_llm.cloud.stack_life import regional_clients
from nexus_llm.errors import NexusError

_POLL_SECONDS = 0.1


class _TurnedBackError(Exception):
    """Green has to go; the words are CodeDeploy's `errorInformation`."""


@dataclass
class _Deployment:
    """One deployment under way."""

    kept: Any
    """As the emulator keeps it: its status is written there."""
    definition: str
    """ARN of the task definition that green runs."""
    weight: int = 0
    """Green's, of a hundred."""
    ended_by: str = ""
    go: threading.Event = field(default_factory=threading.Event)
    end_blue: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)


class RunningDeployments:
    """The service, in front of the emulator's."""

    def __init__(self, service: Service, region: str, *, minute_seconds: float) -> None:
        """`minute_seconds` is how long a minute of a deployment's configuration lasts here."""
        self._service, self._region, self._minute_seconds = service, region, minute_seconds
        self._deployments: dict[str, _Deployment] = {}
        self._threads: list[threading.Thread] = []
        self._primary: str | None = None
        self.green: list[Task] = []
        """Tasks that are tried, or get a part of the requests."""

    @property
    def patches(self) -> tuple[Patch, ...]:
        """What stands in for the service."""
        reason = "moto keeps deployments and carries none out: a stand-in starts green and moves the small balancer"
        return (
            Patch("codedeploy", "CreateDeployment", reason, (), self._create),
            Patch("codedeploy", "GetDeployment", reason, (), self._told),
            Patch("codedeploy", "ContinueDeployment", reason, (), self._continue),
            Patch("codedeploy", "StopDeployment", reason, (), self._stop),
            Patch("codedeploy", "ListDeploymentTargets", reason, (), self._targets),
            Patch("codedeploy", "GetDeploymentTarget", reason, (), self._target),
            Patch("ecs", "DescribeServices", "moto has no task sets of deployments", (), self._services),
        )

    def wrap(self, app: Wsgi) -> Wsgi:
        """The emulator with this service."""
        return PatchedApplication(app, self.patches)

    def end(self) -> None:
        """Turns back what is under way."""
        for one in self._deployments.values():
            one.stop.set()
        for thread in self._threads:
            thread.join()

    def weight(self) -> int:
        """Green's of a hundred requests, in the newest deployment."""
        return next((one.weight for one in reversed(self._deployments.values())), 0)

    def _create(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        answer, body = moto(call), call.document
        if answer.status == 200:
            spec = json.loads(body["revision"]["appSpecContent"]["content"])
            (resource,) = spec["Resources"]
            name = answer.document["deploymentId"]
            one = _Deployment(_kept(self._region, name), resource["TargetService"]["Properties"]["TaskDefinition"])
            self._deployments[name] = one
            self._threads.append(threading.Thread(target=self._watched, args=(one,), name=name, daemon=True))
            self._threads[-1].start()
        return answer

    def _told(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        answer, one = moto(call), self._deployments.get(call.document["deploymentId"])
        if answer.status != 200 or one is None or not one.ended_by:
            return answer
        document = answer.document
        document["deploymentInfo"]["errorInformation"] = {"message": one.ended_by}
        return replace(answer, body=json.dumps(document).encode())

    def _continue(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        one = self._deployments[call.document["deploymentId"]]
        (one.go if call.document["deploymentWaitType"] == "READY_WAIT" else one.end_blue).set()
        return json_answer({})

    def _stop(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        self._deployments[call.document["deploymentId"]].stop.set()
        return json_answer({"status": "Pending"})

    def _targets(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        (service,) = self._deployments[call.document["deploymentId"]].kept.deployment_group.ecs_services
        return json_answer({"targetIds": [f"{service['clusterName']}:{service['serviceName']}"]})

    def _target(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        weight = float(self._deployments[call.document["deploymentId"]].weight)
        sets = [{"taskSetLabel": "Blue", "trafficWeight": 100 - weight},
                {"taskSetLabel": "Green", "trafficWeight": weight}]  # fmt: skip
        return json_answer({"deploymentTarget": {"deploymentTargetType": "ECSTarget",
                                                 "ecsTarget": {"taskSetsInfo": sets}}})  # fmt: skip

    def _services(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        answer = moto(call)
        document = answer.document
        for one in document.get("services", []):
            primary = self._primary or one.get("taskDefinition")
            one["taskSets"] = [{"status": "PRIMARY", "taskDefinition": primary}] if primary else []
        return replace(answer, body=json.dumps(document).encode()) if document else answer

    def _watched(self, one: _Deployment) -> None:
        try:
            self._roll(one)
        except _TurnedBackError as why:
            one.ended_by, one.kept.status = str(why), "Stopped"
        except Exception as error:  # noqa: BLE001 - the deployment's end, as CodeDeploy would tell it
            one.ended_by = error.what if isinstance(error, NexusError) else f"{type(error).__name__}: {error}"
            one.kept.status = "Failed"

    def _roll(self, one: _Deployment) -> None:
        service, before = self._service, self._primary
        blue, other = list(service.tasks), GREEN if service.group == BLUE else BLUE
        definition = self._definition(one.definition)
        one.kept.status = "InProgress"
        try:
            self.green = [service.start(_package(definition)) for _ in blue]
            one.kept.status = "Ready"
            self._hold(one, minutes=None, until=one.go.is_set)
            one.kept.status = "InProgress"
            for task in self.green:
                service.balancer.add(task.url, other)
            canary = self._canary(one)
            self._weigh(one, int(canary["canaryPercentage"]), other)
            self._hold(one, minutes=float(canary["canaryInterval"]))
            self._weigh(one, 100, other)
            self._primary = one.definition
            one.kept.instance_termination_wait_time_started = True
            end = one.kept.deployment_group.blue_green_deployment_configuration[
                "terminateBlueInstancesOnDeploymentSuccess"
            ]
            self._hold(one, minutes=float(end["terminationWaitTimeInMinutes"]), until=one.end_blue.is_set)
        except BaseException:
            self._weigh(one, 0, other)
            self._primary = before
            for task in self.green:
                service.retire(task)
            self.green = []
            raise
        service.tasks, service.group, service.package = self.green, other, _package(definition)
        self.green = []
        for task in blue:
            service.retire(task)
        one.kept.status = "Succeeded"

    def _hold(self, one: _Deployment, *, minutes: float | None, until: Callable[[], bool] = lambda: False) -> None:
        """Waits for so long, and no longer than `until` says.

        Raises:
            _TurnedBackError: it was stopped, or an alarm of its group is on.
        """
        alarms = [each["name"] for each in one.kept.deployment_group.alarm_configuration["alarms"]]
        account = open_account(self._region)
        left = float("inf") if minutes is None else minutes * self._minute_seconds
        while left > 0 and not until():
            if one.stop.wait(_POLL_SECONDS):
                raise _TurnedBackError("stopped on request")
            left -= _POLL_SECONDS
            if fired := fired_alarm(account, alarms):
                raise _TurnedBackError(f"the alarm {fired} is on")

    def _weigh(self, one: _Deployment, weight: int, other: str) -> None:
        one.weight = weight
        self._service.balancer.weigh({self._service.group: 100 - weight, other: weight})

    def _canary(self, one: _Deployment) -> Mapping[str, Any]:
        codedeploy = regional_clients("codedeploy", self._region)
        found = codedeploy.get_deployment_config(deploymentConfigName=one.kept.deployment_config_name)
        canary: Mapping[str, Any] = found["deploymentConfigInfo"]["trafficRoutingConfig"]["timeBasedCanary"]
        return canary

    def _definition(self, arn: str) -> Mapping[str, Any]:
        ecs = regional_clients("ecs", self._region)
        definition: Mapping[str, Any] = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        return definition


def _package(definition: Mapping[str, Any]) -> str:
    """Where the definition's tasks fetch their model from."""
    (fetching,) = [one for one in definition["containerDefinitions"] if FETCHES in one.get("entryPoint", [])]
    return str(fetching["command"][0])


def _kept(region: str, name: str) -> Any:
    from moto.backends import get_backend

    return get_backend("codedeploy")[ACCOUNT][region].deployments[name]
