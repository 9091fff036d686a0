"""A SageMaker endpoint as the place of a rollout: tried on an endpoint of its own, then SageMaker's blue/green update.

SageMaker gives nobody a way to ask green before it has traffic, so a second endpoint with green's configuration is
asked first, and deleted before the canary (it costs what the endpoint costs, for minutes). Blue's model and
configuration are copied; only the model's files change. An update cannot be stopped but by its alarms: to turn back on
the way, the first of them is set. Sources, read 2026-11: SageMaker API reference (UpdateEndpoint, DeploymentConfig,
PendingDeploymentSummary) and developer guide, "Deployment guardrails for updating models in production".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import httpx

from nexus_llm.cloud.account import Account
from nexus_llm.cloud.aws_errors import error_code, explained
from nexus_llm.cloud.codedeploy import fired_alarm, refuse_alarm
from nexus_llm.cloud.sagemaker_errors import is_missing
from nexus_llm.deploy.rollout import Health, Rollout
from nexus_llm.errors import DeploymentError, PreflightError, UsageError

MOVING = ("ActivatingTraffic", "Baking")
MOST_EXECUTION_SECONDS = 14_400  # of an update, API reference
_failed = partial(DeploymentError, fix="check the endpoint's name, the account and the region")


class EndpointTarget:
    """A `nexus_llm.deploy.rollout.Target`; `plan.service` is the endpoint, `plan.model` the package's place in S3."""

    def __init__(self, account: Account, *, alarms: Sequence[str], ask: Callable[[str], float]) -> None:
        """`alarms` turn an update back; `ask` asks the endpoint of that name and gives the seconds."""
        self._account, self._alarms, self._ask = account, list(alarms), ask
        self._updated: str | None = None
        """The configuration that this process moved to."""

    def advance(self, rollout: Rollout) -> dict[str, Any] | None:
        service = rollout.plan.service
        if rollout.step == "stage":
            return self._stage(rollout)
        if rollout.step == "preflight":
            return self._preflight(rollout)
        green = rollout.facts["stage"]["green"]
        if rollout.step == "warm":
            return self._warm(trial_name(service), green)
        found = self._endpoint(service)
        if rollout.step == "canary":
            self._delete(trial_name(service))
            return self._canary(rollout, found, green)
        is_there = found["EndpointStatus"] == "InService" and found["EndpointConfigName"] == green
        if found["EndpointStatus"] not in ("Updating", "InService") or (
            found["EndpointStatus"] == "InService" and not is_there
        ):
            raise _turned_back(found)
        return {"endpoint_config": green} if is_there else None

    def health(self, rollout: Rollout) -> Health:  # noqa: ARG002
        """Of the alarms that were named."""
        return Health(alarm=fired_alarm(self._account, self._alarms))

    def turn_back(self, rollout: Rollout) -> dict[str, Any] | None:
        staged = rollout.facts.get("stage")
        self._delete(trial_name(rollout.plan.service))
        if staged is None:
            return {"how": "nothing was begun"}
        found = self._endpoint(rollout.plan.service)
        if found["EndpointStatus"] in ("Updating", "RollingBack"):
            if _pending(found) == staged["green"] and self._alarms and self._updated != "alarm":
                self._updated = "alarm"
                with explained("cloudwatch:SetAlarmState", self._alarms[0], failed=_failed):
                    self._account.client("cloudwatch").set_alarm_state(
                        AlarmName=self._alarms[0], StateValue="ALARM", StateReason="nexus rollback"
                    )
            return None
        if found["EndpointConfigName"] == staged["blue"]:
            return {"how": "blue answers", "endpoint_config": staged["blue"]}
        self._update(rollout.plan.service, {"EndpointConfigName": staged["blue"]})
        return None

    def _stage(self, rollout: Rollout) -> dict[str, Any]:
        """Blue's model and configuration, with green's files; what is there already stays."""
        sagemaker, blue = self._account.client("sagemaker"), self._endpoint(rollout.plan.service)["EndpointConfigName"]
        with explained("sagemaker:DescribeEndpointConfig", blue, failed=_failed):
            config = sagemaker.describe_endpoint_config(EndpointConfigName=blue)
            variants = config.get("ProductionVariants", [])
            if len(variants) != 1 or "ModelName" not in variants[0]:
                raise UsageError(
                    f"{rollout.plan.service} has {len(variants)} variants or inference components",
                    fix="roll out to an endpoint with one model",
                )
            model = sagemaker.describe_model(ModelName=variants[0]["ModelName"])
        name = green_name(rollout.plan.service, rollout.plan.model, blue)
        self._make("create_model", model_body(model, name=name, location=rollout.plan.model))
        self._make("create_endpoint_config", config_body(config, name=name))
        return {"blue": blue, "green": name, "instances": variants[0].get("InitialInstanceCount", 1)}

    def _preflight(self, rollout: Rollout) -> dict[str, Any]:
        found = self._endpoint(rollout.plan.service)
        if found["EndpointStatus"] != "InService":
            raise PreflightError(
                f"{rollout.plan.service} is {found['EndpointStatus']}", fix="wait until it is InService"
            )
        if not self._alarms:
            raise PreflightError("no alarm would turn a bad model back", fix="name one or more: --alarm NAME")
        refuse_alarm(self._account, self._alarms)
        return {"alarms": self._alarms}

    def _warm(self, trial: str, green: str) -> dict[str, Any] | None:
        self._make("create_endpoint", {"EndpointName": trial, "EndpointConfigName": green})
        found = self._endpoint(trial)
        if found["EndpointStatus"] == "Creating":
            return None
        if found["EndpointStatus"] != "InService":
            raise DeploymentError(
                f"{trial} is {found['EndpointStatus']}: {found.get('FailureReason', 'no reason given')}",
                fix="read its log in CloudWatch: /aws/sagemaker/Endpoints",
            )
        loaded = (found["LastModifiedTime"] - found["CreationTime"]).total_seconds()
        # SageMaker tells no border between the image's and model's pull and the load.
        return {"pull_seconds": None, "load_seconds": loaded, "warm_seconds": round(self._ask(trial), 3)}

    def _canary(self, rollout: Rollout, found: Mapping[str, Any], green: str) -> dict[str, Any] | None:
        if found["EndpointConfigName"] == green and found["EndpointStatus"] == "InService":
            return {"endpoint_config": green}
        if _pending(found) == green:
            variants = found["PendingDeploymentSummary"].get("ProductionVariants", [])
            stages = {one["Status"] for variant in variants for one in variant.get("VariantStatus", [])}
            return {"endpoint_config": green} if stages & set(MOVING) else None
        if self._updated == green and found["EndpointStatus"] != "Updating":
            raise _turned_back(found)
        if found["EndpointStatus"] == "InService":
            instances = rollout.facts["stage"]["instances"]
            self._update(rollout.plan.service, update_body(rollout, alarms=self._alarms, instances=instances))
        return None

    def _update(self, endpoint: str, body: Mapping[str, Any]) -> None:
        with explained("sagemaker:UpdateEndpoint", endpoint, failed=_failed):
            self._account.client("sagemaker").update_endpoint(EndpointName=endpoint, **body)
        self._updated = body["EndpointConfigName"]

    def _endpoint(self, name: str) -> dict[str, Any]:
        with explained("sagemaker:DescribeEndpoint", name, failed=_failed):
            found: dict[str, Any] = self._account.client("sagemaker").describe_endpoint(EndpointName=name)
            return found

    def _make(self, call: str, body: Mapping[str, Any]) -> None:
        with explained(f"sagemaker:{call}", str(next(iter(body.values()))), failed=_failed):
            try:
                getattr(self._account.client("sagemaker"), call)(**body)
            except Exception as error:
                if "already exist" not in str(error) and error_code(error) != "ResourceInUse":
                    raise

    def _delete(self, endpoint: str) -> None:
        with explained("sagemaker:DeleteEndpoint", endpoint, failed=_failed):
            try:
                self._account.client("sagemaker").delete_endpoint(EndpointName=endpoint)
            except Exception as error:
                if not is_missing(error) and "InProgress" not in str(error):
                    raise


class EndpointTransport(httpx.BaseTransport):
    """An endpoint as an OpenAI-compatible server: whatever is posted is invoked."""

    def __init__(self, account: Account, endpoint: str) -> None:
        self._account, self._endpoint = account, endpoint

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer of `/invocations`; the list of models holds the endpoint alone."""
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": self._endpoint}]})
        body = json.loads(request.read())
        body.pop("model", None)  # the container knows its own
        with explained("sagemaker:InvokeEndpoint", self._endpoint, failed=_failed):
            answer = self._account.client("sagemaker-runtime").invoke_endpoint(
                EndpointName=self._endpoint, ContentType="application/json", Body=json.dumps(body).encode()
            )
        return httpx.Response(200, content=answer["Body"].read(), headers={"content-type": "application/json"})


def trial_name(endpoint: str) -> str:
    """The endpoint on which green is asked first."""
    return f"{endpoint[:57]}-green"


def green_name(endpoint: str, model: str, blue: str) -> str:
    """Of green's model and configuration: the same for the same files over the same blue, so that a retry finds it."""
    return f"{endpoint[:48]}-{hashlib.sha256(f'{model} {blue}'.encode()).hexdigest()[:12]}"


def model_body(model: Mapping[str, Any], *, name: str, location: str) -> dict[str, Any]:
    """The body of CreateModel: blue's, with the package that lies below `location`."""
    source = {"S3DataSource": {
        "S3Uri": location.rstrip("/") + "/", "S3DataType": "S3Prefix", "CompressionType": "None",
    }}  # fmt: skip
    container = {key: value for key, value in model["PrimaryContainer"].items() if key != "ModelDataUrl"}
    kept = ("ExecutionRoleArn", "VpcConfig", "EnableNetworkIsolation")
    return {
        "ModelName": name,
        "PrimaryContainer": container | {"ModelDataSource": source},
        **{key: model[key] for key in kept if key in model},
    }


def config_body(config: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """The body of CreateEndpointConfig: blue's, with green's model."""
    variant = config["ProductionVariants"][0] | {"ModelName": name}
    kept = ("KmsKeyId", "ExecutionRoleArn", "VpcConfig", "EnableNetworkIsolation", "DataCaptureConfig")
    return {
        "EndpointConfigName": name,
        "ProductionVariants": [variant],
        **{key: config[key] for key in kept if key in config},
    }


def update_body(rollout: Rollout, *, alarms: Sequence[str], instances: int) -> dict[str, Any]:
    """UpdateEndpoint without the name. One machine cannot be shared out: then all traffic moves at once, and bakes."""
    plan = rollout.plan
    size = {"Type": "CAPACITY_PERCENT", "Value": max(1, min(50, round(100 * plan.canary_share)))}
    canary = {"Type": "CANARY", "CanarySize": size} if instances > 1 else {"Type": "ALL_AT_ONCE"}
    wait = round(min(3600, max(60, plan.canary_seconds)))
    policy = {
        "TrafficRoutingConfiguration": canary | {"WaitIntervalInSeconds": wait},
        "TerminationWaitInSeconds": round(min(3600, plan.bake_seconds)),
        "MaximumExecutionTimeoutInSeconds": MOST_EXECUTION_SECONDS,
    }
    return {
        "EndpointConfigName": rollout.facts["stage"]["green"],
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": policy,
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]},
        },
    }


def _pending(found: Mapping[str, Any]) -> str | None:
    name: str | None = found.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
    return name


def _turned_back(found: Mapping[str, Any]) -> DeploymentError:
    why = found.get("FailureReason", "an alarm, or green did not start")
    return DeploymentError(
        f"SageMaker turned {found['EndpointName']} back to {found['EndpointConfigName']}: {why}",
        fix="read its log in CloudWatch: /aws/sagemaker/Endpoints",
    )
