"""CodeDeploy, ECS and SageMaker endpoints as far as a rollout sees them: requests and answers are checked by botocore.

Each look moves a deployment one state further. moto knows neither ContinueDeployment nor UpdateEndpoint.
"""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.validate import validate_parameters

from fake_sagemaker import refusal
from service_models import assert_accepted

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SERVING = {
    "cluster_name": "nexus-test", "service_name": "nexus-test-api", "task_family": "nexus-test-api",
    "capacity_provider": "FARGATE", "container_name": "gateway", "container_port": 8000,
    "rollback_alarm_names": ["nexus-test-error-rate", "nexus-test-first-token"],
}  # fmt: skip
DELIVERY = {
    "application_name": "nexus-test-api",
    "deployment_group_name": "nexus-test-api",
    "deployment_config_name": "nexus-test-canary",
}
DEFINITION = {
    "family": "nexus-test-api",
    "networkMode": "awsvpc",
    "containerDefinitions": [
        {
            "name": "model",
            "image": "here/serve@sha256:old",
            "entryPoint": ["python", "-m", "nexus_llm.cli.fetch_model"],
            "command": ["s3://models/package/old", "/model"],
        },
        {"name": "gateway", "image": "here/serve@sha256:old", "command": ["serve", "/model"]},
        {"name": "tracing", "image": "there/collector:1"},
    ],
}


@functools.cache
def operations_of(service: str) -> dict[str, Any]:
    """Method → botocore's model of the operation; SageMaker's has megabytes."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name): model.operation_model(name) for name in model.operation_names}


class FakeRollouts:
    """One account with a service behind CodeDeploy and an endpoint of two machines."""

    region = "eu-central-1"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.alarms: list[str] = []
        """Those that are on."""
        self.waits = True
        """Whether the deployment group waits for somebody's go."""
        self.definitions = [DEFINITION | {"taskDefinitionArn": arn_of(1), "revision": 1, "status": "ACTIVE"}]
        self.primary = arn_of(1)
        self.deployments: list[dict[str, Any]] = []
        self.endpoints = {"chat": {"config": "chat-1", "status": "InService", "pending": None}}
        self.models = {"chat-1": {
            "PrimaryContainer": {"Image": "here/serve:1", "ModelDataUrl": "s3://models/old.tar.gz",
                                 "Environment": {"NEXUS_SERVE_MODEL": "/opt/ml/model"}},
            "ExecutionRoleArn": "arn:aws:iam::123456789012:role/serve", "EnableNetworkIsolation": True,
        }}  # fmt: skip
        variant = {
            "VariantName": "all",
            "ModelName": "chat-1",
            "InitialInstanceCount": 2,
            "InstanceType": "ml.g5.xlarge",
        }
        self.configs: dict[str, Any] = {"chat-1": {"ProductionVariants": [variant]}}
        self.updates: list[dict[str, Any]] = []
        self.starts_badly = False

    def client(self, service: str) -> Any:
        """As `nexus_llm.cloud.account.Account.client`."""
        operations = operations_of(service)

        def method(name: str) -> Any:
            def call(**body: Any) -> Any:
                validate_parameters(body, operations[name].input_shape)
                assert_accepted(body, operations[name].input_shape)
                self.calls.append(name)
                answer = getattr(self, name)(body)
                if operations[name].output_shape:
                    validate_parameters(answer, operations[name].output_shape)
                return answer

            return call

        return SimpleNamespace(**{name: method(name) for name in operations if hasattr(self, name)})

    def describe_alarms(self, body: dict[str, Any]) -> dict[str, Any]:
        states = {one: "ALARM" if one in self.alarms else "OK" for one in body["AlarmNames"]}
        return {"MetricAlarms": [{"AlarmName": one, "StateValue": state} for one, state in states.items()]}

    def set_alarm_state(self, body: dict[str, Any]) -> dict[str, Any]:
        for one in self.endpoints.values():
            if one["pending"]:
                one |= {"status": "RollingBack", "pending": None}
        assert body["StateValue"] == "ALARM"
        return {}

    # ECS and CodeDeploy

    def describe_services(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"services": [{"taskSets": [{"status": "PRIMARY", "taskDefinition": self.primary}]}]}

    def describe_task_definition(self, body: dict[str, Any]) -> dict[str, Any]:
        found = [one for one in self.definitions if one["taskDefinitionArn"] == body["taskDefinition"]]
        return {"taskDefinition": found[0]}

    def register_task_definition(self, body: dict[str, Any]) -> dict[str, Any]:
        number = len(self.definitions) + 1
        self.definitions.append(body | {"taskDefinitionArn": arn_of(number), "revision": number})
        return {"taskDefinition": self.definitions[-1]}

    def list_tasks(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"taskArns": ["arn:one"]}

    def describe_tasks(self, body: dict[str, Any]) -> dict[str, Any]:
        moments = ("createdAt", "pullStartedAt", "pullStoppedAt", "startedAt")
        return {"tasks": [{name: NOON + timedelta(seconds=20 * at) for at, name in enumerate(moments)}]}

    def get_deployment_group(self, body: dict[str, Any]) -> dict[str, Any]:
        option = {"actionOnTimeout": "STOP_DEPLOYMENT", "waitTimeInMinutes": 60} if self.waits else {}
        return {"deploymentGroupInfo": {
            "deploymentGroupName": body["deploymentGroupName"], "deploymentConfigName": "nexus-test-canary",
            "blueGreenDeploymentConfiguration": {"deploymentReadyOption": option},
        }}  # fmt: skip

    def list_deployments(self, body: dict[str, Any]) -> dict[str, Any]:
        wanted = body["includeOnlyStatuses"]
        return {"deployments": [one["deploymentId"] for one in reversed(self.deployments) if one["status"] in wanted]}

    def create_deployment(self, body: dict[str, Any]) -> dict[str, Any]:
        spec = json.loads(body["revision"]["appSpecContent"]["content"])
        green = spec["Resources"][0]["TargetService"]["Properties"]["TaskDefinition"]
        name = f"d-{len(self.deployments) + 1:09}"
        self.deployments.append({"deploymentId": name, "status": "Created", "description": body["description"],
                                 "green": green, "weight": 0.0})  # fmt: skip
        return {"deploymentId": name}

    def get_deployment(self, body: dict[str, Any]) -> dict[str, Any]:
        one = self._deployment(body)
        if one["status"] == "Created":
            one["status"] = "InProgress"
        elif one["status"] == "InProgress" and not one["weight"]:
            one["status"] = "Failed" if self.starts_badly else "Ready"
        elif one["status"] == "InProgress":
            one["weight"] = min(100.0, one["weight"] + 45.0)
            self.primary = one["green"] if one["weight"] == 100 else self.primary
        shown = {name: one[name] for name in ("deploymentId", "status", "description")}
        return {"deploymentInfo": shown | {"instanceTerminationWaitTimeStarted": one["weight"] == 100}}

    def continue_deployment(self, body: dict[str, Any]) -> dict[str, Any]:
        one = self._deployment(body)
        if body["deploymentWaitType"] == "READY_WAIT":
            assert one["status"] == "Ready"
            one |= {"status": "InProgress", "weight": 10.0}
        else:
            one["status"] = "Succeeded"
        return {}

    def stop_deployment(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["autoRollbackEnabled"]
        self._deployment(body).update(status="Stopped", weight=0.0)
        self.primary = arn_of(1)
        return {"status": "Pending"}

    def list_deployment_targets(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"targetIds": ["nexus-test:nexus-test-api"]}

    def get_deployment_target(self, body: dict[str, Any]) -> dict[str, Any]:
        weight = self._deployment(body)["weight"]
        sets = [
            {"taskSetLabel": "Blue", "trafficWeight": 100 - weight},
            {"taskSetLabel": "Green", "trafficWeight": weight},
        ]
        return {"deploymentTarget": {"deploymentTargetType": "ECSTarget", "ecsTarget": {"taskSetsInfo": sets}}}

    def _deployment(self, body: dict[str, Any]) -> dict[str, Any]:
        return next(one for one in self.deployments if one["deploymentId"] == body["deploymentId"])

    # SageMaker

    def describe_model(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.models[body["ModelName"]] | {
            "ModelName": body["ModelName"], "ModelArn": "arn:aws:sagemaker:x:model/y", "CreationTime": NOON,
        }  # fmt: skip

    def describe_endpoint_config(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["EndpointConfigName"]
        arn = "arn:aws:sagemaker:x:endpoint-config/y"
        return self.configs[name] | {"EndpointConfigName": name, "EndpointConfigArn": arn, "CreationTime": NOON}

    def create_model(self, body: dict[str, Any]) -> dict[str, Any]:
        self._once(self.models, body["ModelName"], body)
        return {"ModelArn": "arn:aws:sagemaker:eu-central-1:123456789012:model/y"}

    def create_endpoint_config(self, body: dict[str, Any]) -> dict[str, Any]:
        self._once(self.configs, body["EndpointConfigName"], body)
        return {"EndpointConfigArn": "arn:aws:sagemaker:eu-central-1:123456789012:endpoint-config/y"}

    def create_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        status = {"config": body["EndpointConfigName"], "status": "Creating", "pending": None}
        self._once(self.endpoints, body["EndpointName"], status)
        return {"EndpointArn": "arn:aws:sagemaker:eu-central-1:123456789012:endpoint/y"}

    def delete_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.endpoints.pop(body["EndpointName"], None) is None:
            raise refusal("ValidationException", "Could not find endpoint", "DeleteEndpoint")
        return {}

    def update_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        self.updates.append(body)
        self.endpoints[body["EndpointName"]] |= {"status": "Updating", "pending": [body["EndpointConfigName"], 0]}
        return {"EndpointArn": "arn:aws:sagemaker:eu-central-1:123456789012:endpoint/y"}

    def describe_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        one = self.endpoints[body["EndpointName"]]
        shown = {
            "EndpointName": body["EndpointName"], "EndpointArn": "arn:aws:sagemaker:x:endpoint/y",
            "EndpointConfigName": one["config"], "EndpointStatus": one["status"],
            "CreationTime": NOON, "LastModifiedTime": NOON + timedelta(seconds=200),
        }  # fmt: skip
        if one["pending"]:
            name, looks = one["pending"]
            stage = "Creating" if looks == 0 else "Baking"
            shown["PendingDeploymentSummary"] = {
                "EndpointConfigName": name,
                "ProductionVariants": [{"VariantName": "all", "VariantStatus": [{"Status": stage}]}],
            }
            one["pending"] = [name, looks + 1]
            if looks == 2:
                one |= {"config": name, "status": "InService", "pending": None}
        elif one["status"] == "Creating":
            one["status"] = "Failed" if self.starts_badly else "InService"
        elif one["status"] == "RollingBack":
            one["status"] = "InService"
        return shown

    def _once(self, there: dict[str, Any], name: str, value: dict[str, Any]) -> None:
        if name in there:
            raise refusal("ValidationException", f"Cannot create already existing {name}")
        there[name] = value


def arn_of(revision: int) -> str:
    """Of a task definition."""
    return f"arn:aws:ecs:eu-central-1:123456789012:task-definition/nexus-test-api:{revision}"
