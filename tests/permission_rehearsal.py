"""An emulated account with an ear, and what people do on it from a laptop: jobs of the data and train stages.

Each deed is the product's own code: boto3 and s3fs, sent to moto over HTTP. What an account would have is made first,
unheard.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm.cloud.call_recording import RecordingApp
from nexus_llm.deploy.authorization import Call

NAME = "nexus-rehearsal"
ACCOUNT = "123456789012"
REGION = "eu-central-1"
BUCKET = f"{NAME}-data-{ACCOUNT}"
JOB, RUNNING_JOB = "demo-0123456789-1", "demo-0123456789-2"
_MONITOR = {"MonitorArn": f"arn:aws:ce::{ACCOUNT}:anomalymonitor/1", "MonitorName": "m", "MonitorType": "DIMENSIONAL"}
_SUBSCRIPTION = {
    "SubscriptionArn": f"arn:aws:ce::{ACCOUNT}:anomalysubscription/1",
    "SubscriptionName": "s",
    "Frequency": "IMMEDIATE",
    "MonitorArnList": [_MONITOR["MonitorArn"]],
    "Subscribers": [{"Type": "SNS", "Address": f"arn:aws:sns:{REGION}:{ACCOUNT}:{NAME}-alerts"}],
}
# Operations that moto 5.2 does not know, by their target.
LACKING: dict[str, Any] = {
    "AWSBudgetServiceGateway.DescribeSubscribersForNotification": {
        "Subscribers": [{"SubscriptionType": "SNS", "Address": f"arn:aws:sns:{REGION}:{ACCOUNT}:{NAME}-alerts"}]
    },
    "AWSGlue.UpdateJob": {"JobName": "nexus-data-demo"},
    "AWSInsightsIndexService.CreateAnomalyMonitor": {"MonitorArn": _MONITOR["MonitorArn"]},
    "AWSInsightsIndexService.CreateAnomalySubscription": {"SubscriptionArn": _SUBSCRIPTION["SubscriptionArn"]},
    "AWSInsightsIndexService.DeleteAnomalyMonitor": {},
    "AWSInsightsIndexService.DeleteAnomalySubscription": {},
    "AWSInsightsIndexService.GetAnomalyMonitors": {"AnomalyMonitors": [_MONITOR]},
    "AWSInsightsIndexService.GetAnomalySubscriptions": {"AnomalySubscriptions": [_SUBSCRIPTION]},
    "AWSInsightsIndexService.ListTagsForResource": {"ResourceTags": []},
    "AnyScaleFrontendService.ListTagsForResource": {"Tags": {}},
    "CodeDeploy_20141006.CreateDeploymentConfig": {"deploymentConfigId": "1"},
    "CodeDeploy_20141006.DeleteDeploymentConfig": {},
    "CodeDeploy_20141006.DeleteApplication": {},
    "CodeDeploy_20141006.GetDeploymentConfig": {
        "deploymentConfigInfo": {
            "deploymentConfigId": "1",
            "deploymentConfigName": f"{NAME}-api",
            "computePlatform": "ECS",
            "trafficRoutingConfig": {"type": "AllAtOnce"},
        }
    },
    "SageMaker.StopTrainingJob": {},
}


@dataclass
class Account:
    """An emulated account at `url`; every call lands in `calls`, what `refused` names is answered with AccessDenied."""

    url: str
    calls: list[Call] = field(default_factory=list)
    refused: Callable[[Call], str | None] = lambda call: None

    def environment(self) -> dict[str, str]:
        """What leads boto3, s3fs and Terraform here and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def deed(self, work: Callable[[], Any]) -> list[Call]:
        """The calls of one piece of work."""
        _forget_listings()
        self.calls.clear()
        work()
        return list(self.calls)


@contextlib.contextmanager
def emulated_account() -> Iterator[Account]:
    """moto behind an ear, on a free port, until the block ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    from nexus_llm.cloud.emulator_patches import PatchedApplication

    class Quiet(MotoRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """Nothing: a line a request is too much to read."""

    account = Account("")
    moto = PatchedApplication(DomainDispatcherApplication(create_backend_app))
    app = RecordingApp(_completed(moto), account.calls.append, lambda call: account.refused(call))  # noqa: PLW0108
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    account.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        # A job that runs a container would need Docker.
        _post(f"{account.url}/moto-api/config", {"batch": {"use_docker": False}})
        yield account
    finally:
        server.shutdown()
        thread.join()


def _completed(moto: Callable[..., Any]) -> Callable[..., Any]:
    """moto, and a fixed answer to what it lacks: what is asked counts here, not what comes of it."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        lacking = LACKING.get(str(environ.get("HTTP_X_AMZ_TARGET", "")))
        if lacking is None:
            return moto(environ, start_response)
        start_response("200 OK", [("content-type", "application/x-amz-json-1.1")])
        return [json.dumps(lacking).encode()]

    return answer


def furnish(account: Account) -> None:
    """Makes what an account with the platform has: bucket, roles, queue, log, finished job. Nobody hears it."""
    from moto.sagemaker.models import sagemaker_backends

    s3, batch, iam, logs = (_client(account, one) for one in ("s3", "batch", "iam", "logs"))
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=BUCKET, Key="nexus/jobs/wheels.zip", Body=b"PK")
    s3.put_object(Bucket=BUCKET, Key="nexus/jobs/environment.tar.gz", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key="out/model.tar.gz", Body=b"weights")
    for name in ("glue", "emr", "sagemaker", "batch-job"):
        iam.create_role(RoleName=f"{NAME}-{name}", AssumeRolePolicyDocument="{}")
    machines = batch.create_compute_environment(
        computeEnvironmentName=f"{NAME}-cpu", type="UNMANAGED", state="ENABLED", serviceRole=role("batch-job")
    )["computeEnvironmentArn"]
    batch.create_job_queue(
        jobQueueName=f"{NAME}-cpu",
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": machines}],
    )
    container = {"image": "train", "vcpus": 1, "memory": 64, "command": ["true"]}
    batch.register_job_definition(jobDefinitionName=f"{NAME}-data", type="container", containerProperties=container)
    logs.create_log_group(logGroupName="/aws/sagemaker/TrainingJobs")
    logs.create_log_stream(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=f"{JOB}/algo-1")
    for job in (JOB, RUNNING_JOB):
        _client(account, "sagemaker").create_training_job(**_training_body(job))
    # Jobs of moto are finished when they begin.
    sagemaker_backends[ACCOUNT][REGION].training_jobs[RUNNING_JOB].training_job_status = "InProgress"
    account.calls.clear()


def role(name: str) -> str:
    """The ARN of one of the platform's roles."""
    return f"arn:aws:iam::{ACCOUNT}:role/{NAME}-{name}"


def deeds(folder: Path) -> dict[str, Callable[[], Any]]:
    """What people do from a laptop, by name; each can be done again and again."""
    return {
        "data on Glue": lambda: _submit("glue", folder),
        "data on EMR Serverless": lambda: _submit("emr-serverless", folder),
        "data on Batch": lambda: _submit("batch", folder),
        "a table of the catalogue": _table,
        "an artifact comes and goes": lambda: _artifact(folder),
        "train on SageMaker": lambda: _train(folder),
        "attach": _attach,
        "stop": _stop,
    }


def model_fetched(account: Account, bucket: str, key: str, folder: Path) -> list[Call]:
    """The calls with which a serving task brings a packaged model from its bucket."""
    from nexus_llm.artifacts import ArtifactStore
    from nexus_llm.cli.fetch_model import fetch_model

    name = key.rpartition("/")[2]
    with ArtifactStore(folder / "made").draft("package", name, stage_version=1, recipe={}, inputs={}) as draft:
        (draft.folder / "weights.bin").write_bytes(b"0" * 64)
        made = draft.finish(facts={}).folder
    s3 = _client(account, "s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    for path in sorted(one for one in made.rglob("*") if one.is_file()):
        s3.upload_file(str(path), bucket, f"{key}/{path.relative_to(made).as_posix()}")
    with surroundings(account.environment()):
        return account.deed(lambda: fetch_model(f"s3://{bucket}/{key}", folder / "fetched"))


def _submit(engine: str, folder: Path) -> None:
    from nexus_llm.cloud.aws_errors import explained
    from nexus_llm.cloud.data_requests import glue_job_update
    from nexus_llm.cloud.data_submit import plan_of, submit
    from nexus_llm.ports import SilentProgress
    from nexus_llm.recipe import Recipe

    aws = {"bucket": BUCKET, "role_arn": role("emr" if engine == "emr-serverless" else "glue")}
    if engine == "batch":
        aws |= {"job_queue": f"{NAME}-cpu", "job_definition": f"{NAME}-data"}
    source = {"type": "files", "path": f"s3://{BUCKET}/text/", "name": "own"}
    recipe = Recipe.model_validate({"name": "demo", "data": {"sources": [source], "engine": engine, "aws": aws}})
    account = _launching()
    submit(recipe, account, SilentProgress(), key="0" * 16, folder=folder)
    if engine == "glue":  # moto takes a second job of the same name, where AWS makes the product update the first
        with explained("glue:UpdateJob", "nexus-data-demo"):
            account.client("glue").update_job(**glue_job_update(plan_of(recipe, "0" * 16)))


def _launching() -> Any:
    import boto3
    from botocore.config import Config

    from given_account import account_of

    once = Config(retries={"total_max_attempts": 1})
    return account_of(
        lambda name: boto3.client(name, region_name=REGION, config=once),
        region=REGION,
        sleep=lambda seconds: time.sleep(0.01),
    )


def _table() -> None:
    from nexus_llm.cloud.data_jobs import put_table

    glue = _launching().client("glue")
    for _ in range(2):
        put_table(glue, f"{NAME.replace('-', '_')}", "demo", location=f"s3://{BUCKET}/data/", artifact_id="a")


def _artifact(folder: Path) -> None:
    from nexus_llm import storage
    from nexus_llm.cloud.stored_files import list_stored, read_stored, write_stored

    write_stored(f"s3://{BUCKET}/nexus/artifacts/data/key/manifest.json", b"{}")
    read_stored(f"s3://{BUCKET}/nexus/artifacts/data/key/manifest.json")
    list_stored(f"s3://{BUCKET}/nexus/artifacts/")
    storage.copy_to(f"s3://{BUCKET}/nexus/artifacts/data/key/manifest.json", folder / "manifest.json")


def _train(folder: Path) -> None:
    from nexus_llm.cloud.sagemaker import StoredBucket

    bucket, local = StoredBucket(), folder / "shard.bin"
    local.write_bytes(b"0" * 64)
    if bucket.size(f"s3://{BUCKET}/nexus/train/shard.bin") != 65:
        bucket.upload(local, f"s3://{BUCKET}/nexus/train/shard.bin")
    _training_jobs().submit(_training_body(f"demo-{time.monotonic_ns()}"))
    bucket.download(f"s3://{BUCKET}/out/model.tar.gz", folder / "model.tar.gz")


def _attach() -> None:
    from nexus_llm.cloud.launcher import follow
    from nexus_llm.errors import StorageError
    from nexus_llm.ports import SilentProgress

    shown: list[str] = []

    class Heard(SilentProgress):
        def advance(self, amount: float, note: str = "") -> None:
            shown.append(note)

    follow(_training_jobs(), JOB, Heard())
    # Who may not read the log still sees the job; he is told what he lacks.
    if unread := next((one for one in shown if "may not be read" in one), None):
        raise StorageError(unread, fix="give the caller the action")


def _stop() -> None:
    _training_jobs().stop(RUNNING_JOB)


def _training_jobs() -> Any:
    from nexus_llm.cloud.sagemaker_training import TrainingJobs

    return TrainingJobs(_launching())


def _training_body(name: str) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "RoleArn": role("sagemaker"),
        "AlgorithmSpecification": {"TrainingImage": "train:1", "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "Tags": [{"Key": "project", "Value": "nexus-llm"}],
    }


def _client(account: Account, service: str) -> Any:
    import boto3

    return boto3.client(
        service,
        endpoint_url=account.url,
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


def _forget_listings() -> None:
    """A deed starts without what an earlier one saw in a bucket, as a command does."""
    import s3fs

    for one in s3fs.S3FileSystem._cache.values():
        one.invalidate_cache()


def _post(url: str, document: Any) -> None:
    body = json.dumps(document).encode()
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


@contextlib.contextmanager
def surroundings(variables: dict[str, str]) -> Iterator[None]:
    """The environment of a program with these variables and no others of AWS'; s3fs forgets where it was led before."""
    import s3fs

    before = dict(os.environ)
    s3fs.S3FileSystem.clear_instance_cache()
    for name in [one for one in os.environ if one.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        s3fs.S3FileSystem.clear_instance_cache()
