"""An emulated account with an ear, and what people do on it from a laptop: jobs of the data and train stages.

Each deed is the product's own code: boto3 and s3fs, sent to moto over HTTP. What an account would have is made first,
unheard.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from call_needs import Call
from heard_calls import RecordingApp
from nexus_llm.cloud.emulator_missing import ALL_PATCHES
from nexus_llm.cloud.emulator_patches import Answer, Memory, Moto, Patch, PatchedApplication, json_answer, missing
from nexus_llm.cloud.emulator_patches import Call as Request
from operating_deeds import OPERATING_STAND_INS, furnish_operating, recovery_deeds, rollout_deeds

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.cloud.sagemaker_transform import TransformPlan
    from nexus_llm.recipe import Recipe

NAME = "nexus-rehearsal"
ACCOUNT = "123456789012"
REGION = "eu-central-1"
BUCKET = f"{NAME}-data-{ACCOUNT}"
JOB, RUNNING_JOB = "demo-0123456789-1", "demo-0123456789-2"
APPLICATION, RUN = "00frunning", "00frun"
VAULT, POINT = f"{NAME}-rehearsed", f"arn:aws:backup:{REGION}:{ACCOUNT}:recovery-point:1"


def _always(document: dict[str, Any]) -> Callable[[Request, Memory, Moto], Answer]:
    return lambda call, memory, moto: json_answer(document)


def _tracking_server(call: Request, memory: Memory, moto: Moto) -> Answer:
    key = ("mlflow", call.document["TrackingServerName"])
    arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:mlflow-tracking-server/{key[1]}"
    if call.name.startswith("Create"):
        memory[key] = call.document | {
            "TrackingServerArn": arn,
            "TrackingServerStatus": "Created",
            "IsActive": "Active",
        }
    elif call.name.startswith("Delete"):
        memory.pop(key, None)
    elif key not in memory:
        return missing("ResourceNotFound", key[1])
    return json_answer(memory.get(key, {"TrackingServerArn": arn}))


def _tags_of_tracking(call: Request, memory: Memory, moto: Moto) -> Answer:
    arn = call.document["ResourceArn"]
    if ":mlflow-tracking-server/" not in arn:
        return moto(call)
    return json_answer({"Tags": memory.get(("mlflow", arn.rpartition("/")[2]), {}).get("Tags", [])})


def _recovery_points(call: Request, memory: Memory, moto: Moto) -> Answer:
    """One, in the vault that has some, until it is deleted."""
    if call.name.startswith("DELETE"):
        memory["deleted",] = True
        return json_answer({})
    has_one = VAULT in call.name and ("deleted",) not in memory
    return json_answer({"RecoveryPoints": [{"RecoveryPointArn": POINT}] if has_one else []})


# What moto does not know and nothing but a recording needs: what is asked counts here, not what comes of it.
STAND_INS = (
    Patch("glue", "UpdateJob", "", (), _always({"JobName": "nexus-data-demo"})),
    Patch("glue", "BatchStopJobRun", "", (), _always({"Errors": []})),
    Patch("sagemaker", "Stop(Training|Processing|Transform)Job", "", (), _always({})),
    Patch("sagemaker", "(Create|Describe|Delete)MlflowTrackingServer", "", (), _tracking_server),
    Patch("sagemaker", "ListTags", "", (), _tags_of_tracking),
    Patch("emr-serverless", r"DELETE /applications/[^/]+/jobruns/[^/]+", "", (), _always({"jobRunId": RUN})),
    Patch("backup", r"(GET|DELETE) /backup-vaults/[^/]+/recovery-points.*", "", (), _recovery_points),
    *OPERATING_STAND_INS,
    *ALL_PATCHES,
)


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

    class Quiet(MotoRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """Nothing: a line a request is too much to read."""

    account = Account("")
    moto = PatchedApplication(DomainDispatcherApplication(create_backend_app), STAND_INS)
    app = RecordingApp(moto, account.calls.append, lambda call: account.refused(call))  # noqa: PLW0108
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


def furnish(account: Account) -> None:
    """Makes what an account with the platform has: bucket, roles, queue, log, finished job. Nobody hears it."""
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
    _still_running(account)
    furnish_operating(lambda service: _client(account, service))
    account.calls.clear()


def _still_running(account: Account) -> None:
    """One job of each service that can be stopped: moto's are finished when they begin."""
    from moto.emrserverless.models import emrserverless_backends
    from moto.sagemaker.models import sagemaker_backends

    from nexus_llm.cloud.sagemaker_processing import evaluation_job
    from nexus_llm.cloud.sagemaker_transform import transform_job

    sagemaker, emr = _client(account, "sagemaker"), _client(account, "emr-serverless")
    sagemaker.create_processing_job(**evaluation_job(_recipe(), {}, "running"))
    sagemaker.create_transform_job(**transform_job(_recipe(), _transform_plan(_package("running")), instance_type="t"))
    kept = sagemaker_backends[ACCOUNT][REGION]
    kept.training_jobs[RUNNING_JOB].training_job_status = "InProgress"
    for processing in kept.processing_jobs.values():
        processing.processing_job_status = "InProgress"
    for transform in kept.transform_jobs.values():
        transform.transform_job_status = "InProgress"
    made = emr.create_application(name=f"{NAME}-spark", releaseLabel="emr-7.9.0", type="SPARK")["applicationId"]
    emr.start_job_run(applicationId=made, executionRoleArn=role("emr"))
    runs = emrserverless_backends[ACCOUNT][REGION].job_runs
    (runs[APPLICATION],) = ([one] for one in runs[made])
    for one in runs[APPLICATION]:
        one.application_id, one.id, one.state = APPLICATION, RUN, "RUNNING"


def role(name: str) -> str:
    """The ARN of one of the platform's roles."""
    return f"arn:aws:iam::{ACCOUNT}:role/{NAME}-{name}"


def deeds_by_role(folder: Path) -> dict[str, dict[str, Callable[[], Any]]]:
    """What people do from a laptop, by role and name; each can be done again and again."""
    return {"jobs": deeds(folder), "rollout": rollout_deeds(folder), "recovery": recovery_deeds(folder)}


def deeds(folder: Path) -> dict[str, Callable[[], Any]]:
    """Those of who runs jobs."""
    return {
        "data on Glue": lambda: _submit("glue", folder),
        "data on EMR Serverless": lambda: _submit("emr-serverless", folder),
        "data on Batch": lambda: _submit("batch", folder),
        "a table of the catalogue": _table,
        "an artifact comes and goes": lambda: _artifact(folder),
        "train on SageMaker": lambda: _train(folder),
        "attach": _attach,
        "evaluate on SageMaker": lambda: _evaluate(folder),
        "answer a file of requests": _transform,
        "a pipeline's recipe": _pipeline,
        "list": _list,
        "stop": _stop,
    }


def model_fetched(account: Account, bucket: str, key: str, folder: Path) -> list[Call]:
    """The calls with which a serving task brings a packaged model from its bucket."""
    from nexus_llm.cli.fetch_model import fetch_model

    made = made_package(folder, key.rpartition("/")[2]).folder
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
    account = launching()
    submit(recipe, account, SilentProgress(), key="0" * 16, folder=folder)
    if engine == "glue":  # moto takes a second job of the same name, where AWS makes the product update the first
        with explained("glue:UpdateJob", "nexus-data-demo"):
            account.client("glue").update_job(**glue_job_update(plan_of(recipe, "0" * 16)))


def launching() -> Any:
    """The account as a command opens it; what is refused is not asked again."""
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

    glue = launching().client("glue")
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


def _evaluate(folder: Path) -> None:
    from nexus_llm.cloud.launcher import run_to_end
    from nexus_llm.cloud.sagemaker import StoredBucket
    from nexus_llm.cloud.sagemaker_processing import ProcessingJobs, SageMakerEvaluation
    from nexus_llm.ports import SilentProgress

    jobs, key = ProcessingJobs(launching()), f"{time.monotonic_ns():016x}"
    service = SageMakerEvaluation(jobs, SilentProgress(), StoredBucket())
    run_to_end(jobs, service.start(_recipe(), {"package": made_package(folder, key)}, key), SilentProgress())


def _transform() -> None:
    from nexus_llm.cloud.launcher import run_to_end
    from nexus_llm.cloud.sagemaker import StoredBucket
    from nexus_llm.cloud.sagemaker_transform import TransformJobs, model_body, transform_job, upload_package
    from nexus_llm.ports import SilentProgress

    jobs = TransformJobs(launching())
    with tempfile.TemporaryDirectory() as scratch:
        package = made_package(Path(scratch), f"{time.monotonic_ns():016x}")
        plan = _transform_plan(package)
        upload_package(package, plan.model_data, bucket=StoredBucket())
    jobs.make_model(model_body(_recipe(), plan))
    run_to_end(jobs, jobs.submit(transform_job(_recipe(), plan, instance_type="ml.m5.2xlarge")), SilentProgress())


def _transform_plan(package: Artifact) -> TransformPlan:
    from nexus_llm.cloud.sagemaker_transform import plan_transform

    places = {"source": f"s3://{BUCKET}/questions/", "target": f"s3://{BUCKET}/answers/"}
    return plan_transform(_recipe(), package, image="serve:1", run=1, **places)


def _pipeline() -> None:
    from nexus_llm.cloud.sagemaker import StoredBucket, upload_recipe
    from nexus_llm.cloud.sagemaker_pipeline import recipe_prefix

    upload_recipe(_recipe(), recipe_prefix(_recipe()), bucket=StoredBucket())


def _list() -> None:
    from nexus_llm.cloud.job_search import our_jobs

    kinds = {full_id.partition("/")[0] for full_id, _ in our_jobs(launching())}
    assert kinds >= {"training", "processing", "transform", "glue"}, kinds


def _stop() -> None:
    from nexus_llm.cloud.job_search import launcher_of
    from nexus_llm.cloud.sagemaker_processing import evaluation_job

    evaluation = evaluation_job(_recipe(), {}, "running")["ProcessingJobName"]
    transform = _transform_plan(_package("running")).name
    jobs = (f"training/{RUNNING_JOB}", f"processing/{evaluation}", f"transform/{transform}", "batch/8f1c",
            f"emr-serverless/{APPLICATION}/{RUN}", "glue/nexus-data-demo/jr_1")  # fmt: skip
    for job in jobs:
        launcher, name = launcher_of(job, launching())
        launcher.stop(name)


def _recipe() -> Recipe:
    from nexus_llm.recipe import Recipe

    jobs = {"bucket": BUCKET, "role_arn": role("sagemaker"), "image_uri": "train:1"}
    train = {"launcher": "sagemaker", "sagemaker": jobs}
    return Recipe.model_validate({"name": "demo", "platform": NAME, "train": train})


def made_package(folder: Path, key: str) -> Artifact:
    """A package with some weights."""
    from nexus_llm.artifacts import ArtifactStore

    with ArtifactStore(folder / "made").draft("package", key, stage_version=1, recipe={}, inputs={}) as draft:
        (draft.folder / "weights.bin").write_bytes(b"0" * 64)
        return draft.finish(facts={})


def _package(key: str) -> Artifact:
    """One of which only the name counts."""
    from nexus_llm.artifacts import Artifact, Manifest

    return Artifact(Path(), Manifest(kind="package", key=key, id="id", inputs={}, recipe={}, files=(), facts={}))


def _training_jobs() -> Any:
    from nexus_llm.cloud.sagemaker_training import TrainingJobs

    return TrainingJobs(launching())


def _training_body(name: str) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "RoleArn": role("sagemaker"),
        "AlgorithmSpecification": {"TrainingImage": "train:1", "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "Tags": [{"Key": "project", "Value": "nexus-llm"}, {"Key": "platform", "Value": NAME}],
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
