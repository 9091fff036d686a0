"""What people do on an emulated account once a platform stands: roll models out and back, back up, restore, rewind.

Each deed is the product's own code, as in `permission_rehearsal`; it raises what refuses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.cloud.emulator_patches import Answer, Memory, Moto, Patch, json_answer
from nexus_llm.cloud.emulator_patches import Call as Request

if TYPE_CHECKING:
    from nexus_llm.deploy.rollout import Target

NAME, ACCOUNT, REGION = "nexus-rehearsal", "123456789012", "eu-central-1"
API, ENDPOINT, ALARM = f"{NAME}-api", f"{NAME}-chat", f"{NAME}-error-rate"
MODELS = f"{NAME}-models-{ACCOUNT}"
SERVING = {
    "cluster_name": NAME, "service_name": API, "task_family": API, "capacity_provider": "FARGATE",
    "container_name": "gateway", "container_port": 8000, "rollback_alarm_names": [ALARM],
}  # fmt: skip
DELIVERY = {"application_name": API, "deployment_group_name": API, "deployment_config_name": f"{NAME}-canary"}
CONTAINERS: list[dict[str, Any]] = [
    {"name": "model", "image": "serve:1", "memory": 64, "entryPoint": ["python", "-m", "nexus_llm.cli.fetch_model"],
     "command": [f"s3://{MODELS}/package/old", "/model"]},
    {"name": "gateway", "image": "serve:1", "memory": 64},
]  # fmt: skip
_VERSIONS: dict[str, str] = {}
"""Key → the version that is put back, or the marker that goes."""
TASK = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{NAME}/1"


def role(name: str) -> str:
    """The ARN of one of the platform's roles."""
    return f"arn:aws:iam::{ACCOUNT}:role/{NAME}-{name}"


def rollout_deeds(folder: Path) -> dict[str, Callable[[], None]]:
    """Roll out, turn back on the way, turn back afterwards: on ECS and on an endpoint."""
    return {
        "roll out on ECS": lambda: _rolled(_ecs(), "done"),
        "turn back on ECS on the way": lambda: _rolled(_ecs(), "rolled_back"),
        "turn back on ECS afterwards": lambda: _rolled(_ecs(), "done", then_back=True),
        "roll out on an endpoint": lambda: _rolled(_endpoint(), "done"),
        "turn back on an endpoint on the way": lambda: _rolled(_endpoint(), "rolled_back", at="shift"),
        "turn back on an endpoint afterwards": lambda: _rolled(_endpoint(), "done", then_back=True),
        "put the package into the bucket": lambda: _staged(folder),
    }


def recovery_deeds(folder: Path) -> dict[str, Callable[[], None]]:
    """Back up, restore, rewind."""
    return {
        "back up": lambda: _backed_up(folder),
        "restore": lambda: _restored(folder),
        "rewind": _rewound,
    }


def furnish_operating(client: Callable[[str], Any]) -> None:
    """Makes what the deeds find: a service behind CodeDeploy, an endpoint, an alarm, a bucket that keeps versions."""
    s3, ecs, deploy, sagemaker = (client(one) for one in ("s3", "ecs", "codedeploy", "sagemaker"))
    s3.create_bucket(Bucket=MODELS, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=MODELS, VersioningConfiguration={"Status": "Enabled"})
    for key in ("rewound/a", "rewound/b"):
        _VERSIONS[key] = s3.put_object(Bucket=MODELS, Key=key, Body=b"old")["VersionId"]
    _VERSIONS["rewound/b"] = s3.delete_object(Bucket=MODELS, Key="rewound/b")["VersionId"]
    ecs.create_cluster(clusterName=NAME)
    ecs.register_task_definition(
        family=API, containerDefinitions=CONTAINERS, taskRoleArn=role("task"), executionRoleArn=role("execution")
    )
    ecs.create_service(
        cluster=NAME, serviceName=API, taskDefinition=API, desiredCount=1, deploymentController={"type": "CODE_DEPLOY"}
    )
    deploy.create_application(applicationName=API, computePlatform="ECS")
    deploy.create_deployment_group(
        applicationName=API,
        deploymentGroupName=API,
        serviceRoleArn=role("codedeploy"),
        blueGreenDeploymentConfiguration={
            "deploymentReadyOption": {"actionOnTimeout": "STOP_DEPLOYMENT", "waitTimeInMinutes": 60}
        },
    )
    client("cloudwatch").put_metric_alarm(
        AlarmName=ALARM, Namespace="NexusLLM/API", MetricName="ErrorCount", Statistic="Sum", Period=60,
        EvaluationPeriods=1, Threshold=1.0, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    container = {"Image": "serve:1", "ModelDataUrl": f"s3://{MODELS}/old.tar.gz"}
    sagemaker.create_model(ModelName=f"{ENDPOINT}-1", PrimaryContainer=container, ExecutionRoleArn=role("sagemaker"))
    variant = {"VariantName": "all", "ModelName": f"{ENDPOINT}-1", "InitialInstanceCount": 2,
               "InstanceType": "ml.m5.xlarge"}  # fmt: skip
    sagemaker.create_endpoint_config(EndpointConfigName=f"{ENDPOINT}-1", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName=f"{ENDPOINT}-1")


def _memory(service: str, kind: str) -> Any:
    from moto.backends import get_backend

    return getattr(get_backend(service)[ACCOUNT][REGION], kind)


def _kept(service: str, kind: str, name: str) -> Any:
    return _memory(service, kind)[name]


def _deployment(call: Request, memory: Memory, moto: Moto) -> Answer:
    """CodeDeploy at its quickest: ready at once, all traffic at once; states are written into the emulator's memory."""
    if call.name == "CreateDeployment":
        answer = moto(call)
        if answer.status == 200:
            _kept("codedeploy", "deployments", answer.document["deploymentId"]).status = "Ready"
        return answer
    name = call.document["deploymentId"]
    if call.name == "ListDeploymentTargets":
        return json_answer({"targetIds": [f"{NAME}:{API}"]})
    if call.name == "GetDeploymentTarget":
        weight = 100.0 if ("shifted", name) in memory else 0.0
        sets = [{"taskSetLabel": "Green", "trafficWeight": weight}]
        return json_answer({"deploymentTarget": {"ecsTarget": {"taskSetsInfo": sets}}})
    one = _kept("codedeploy", "deployments", name)
    if call.name == "StopDeployment":
        one.status = "Stopped"
    elif call.document["deploymentWaitType"] == "READY_WAIT":
        one.status, one.instance_termination_wait_time_started, memory["shifted", name] = "InProgress", True, True
    else:
        one.status = "Succeeded"
    return json_answer({"status": "Succeeded"})


def _updated(call: Request, memory: Memory, moto: Moto) -> Answer:
    """An update with guardrails begins and is moving traffic when it is looked at; one without is done at once."""
    one = _kept("sagemaker", "endpoints", call.document["EndpointName"])
    if "DeploymentConfig" in call.document:
        memory["update", one.endpoint_name] = [call.document["EndpointConfigName"], 0]
    else:
        one.endpoint_config_name = call.document["EndpointConfigName"]
    return json_answer({"EndpointArn": one.arn})


def _described(call: Request, memory: Memory, moto: Moto) -> Answer:
    answer, key = moto(call), ("update", call.document["EndpointName"])
    if answer.status != 200 or key not in memory:
        return answer
    config, looks = memory[key]
    alarms = _kept("cloudwatch", "alarms", ALARM)
    if looks > 2 or alarms.state_value == "ALARM":
        memory.pop(key)
        if alarms.state_value != "ALARM":
            _kept("sagemaker", "endpoints", key[1]).endpoint_config_name = config
        return moto(call)
    memory[key] = [config, looks + 1]
    moving = {"VariantName": "all", "VariantStatus": [{"Status": "Baking"}]}
    summary = {"EndpointConfigName": config, "ProductionVariants": [moving]}
    return json_answer(answer.document | {"EndpointStatus": "Updating", "PendingDeploymentSummary": summary})


def _without_blanks(call: Request, memory: Memory, moto: Moto) -> Answer:
    """What was made, without what moto gives back as nothing."""
    answer = moto(call)
    return json_answer({name: value for name, value in answer.document.items() if value}, answer.status)


def _always(document: dict[str, Any]) -> Callable[[Request, Memory, Moto], Answer]:
    return lambda call, memory, moto: json_answer(document)


OPERATING_STAND_INS = (
    Patch("codedeploy", "(Create|Continue|Stop)Deployment|ListDeploymentTargets|GetDeploymentTarget", "", (),
          _deployment),
    Patch("sagemaker", "UpdateEndpoint", "", (), _updated),
    Patch("sagemaker", "DescribeEndpoint", "", (), _described),
    Patch("sagemaker", "DescribeModel|DescribeEndpointConfig", "", (), _without_blanks),
    Patch("ecs", "ListTasks", "", (), _always({"taskArns": [TASK]})),
    Patch("ecs", "DescribeTasks", "", (), _always({"tasks": [{"taskArn": TASK}]})),
)  # fmt: skip


def _ecs() -> Target:
    from nexus_llm.cloud.codedeploy import CodeDeployTarget
    from permission_rehearsal import launching

    _memory("codedeploy", "deployments").clear()  # one that was refused half-way stands in the way of the next
    return CodeDeployTarget(launching(), serving=SERVING, delivery=DELIVERY, ask=lambda: 0.1)


def _endpoint() -> Target:
    from nexus_llm.cloud.sagemaker_endpoint import EndpointTarget, EndpointTransport
    from permission_rehearsal import launching

    def ask(name: str) -> float:
        import httpx

        with httpx.Client(transport=EndpointTransport(launching(), name), base_url="https://endpoint") as client:
            client.post("/v1/chat/completions", json={"messages": []})
        return 0.1

    _kept("cloudwatch", "alarms", ALARM).state_value = "OK"
    return EndpointTarget(launching(), alarms=[ALARM], ask=ask)


def _rolled(target: Target, wanted: str, *, at: str = "check", then_back: bool = False) -> None:
    """One rollout to its end; where `rolled_back` is wanted, somebody asks for it at the step `at`.

    Raises:
        DeploymentError: it ended otherwise, with the reason.
    """
    from nexus_llm.deploy.rollout import Judgement, Plan, Rollout, turned_back
    from nexus_llm.deploy.rollout_driver import ASKED_BACK, Hands, drive
    from nexus_llm.errors import DeploymentError

    class Journal:
        step = ""

        def write(self, rollout: Rollout) -> None:
            self.step = rollout.step

        def is_asked_back(self) -> bool:
            return wanted == "rolled_back" and self.step == at

    kind, service = ("ecs", API) if "CodeDeploy" in type(target).__name__ else ("sagemaker", ENDPOINT)
    location = f"s3://{MODELS}/package/{time.monotonic_ns()}"
    plan = Plan(kind, service, location, canary_seconds=0, bake_seconds=0)
    hands = Hands(lambda _: Judgement("pass", "-"), now=time.time, sleep=lambda _: None)
    journal = Journal()
    done = drive(Rollout("0001", plan, began_at=time.time()), target, journal, hands)
    if done.status == "done" and then_back:
        wanted = "back"
        done = drive(turned_back(done, ASKED_BACK, now=time.time()), target, journal, hands)
        if done.status == "rolled_back":
            return
    if done.status != wanted or (wanted == "rolled_back" and done.reason != ASKED_BACK.reason):
        raise DeploymentError(done.reason, fix="give the caller the action")


def _staged(folder: Path) -> None:
    from nexus_llm.cloud.data_uploads import upload_artifact
    from permission_rehearsal import made_package

    upload_artifact(made_package(folder, f"{time.monotonic_ns():016x}"), f"s3://{MODELS}")


def _store() -> Any:
    from nexus_llm.cloud.backup import BackupStore
    from nexus_llm.ports import NeverInterrupted, SilentProgress

    return BackupStore(f"s3://{MODELS}/backups", progress=SilentProgress(), interrupt=NeverInterrupted())


def _backed_up(folder: Path) -> None:
    run = folder / "root" / "runs" / "one"
    run.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        (run / "report.json").write_text(str(time.monotonic_ns()))
        _store().make(folder / "root", {}, now=f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}{time.monotonic_ns()}Z")
    _store().keep(1)


def _restored(folder: Path) -> None:
    store = _store()
    store.put_back(store.find(None), folder / f"back-{time.monotonic_ns()}", {}, overwrite=False)


def _rewound() -> None:
    """As planned by hand: S3 tells times in whole seconds, and a deed takes less than one."""
    from nexus_llm.cloud.bucket_versions import Rewound, plan_rewind, rewind
    from permission_rehearsal import launching

    s3 = launching().client("s3")
    plan_rewind(s3, MODELS, "rewound/", moment=datetime.now(UTC))
    back = Rewound("rewound/a", "put back", _VERSIONS["rewound/a"])
    rewind(s3, MODELS, [back, Rewound("rewound/b", "undeleted", "", (_VERSIONS["rewound/b"],))])
