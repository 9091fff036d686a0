"""What a rehearsal runs on: services that run what they are sent, faults, and the balancer. All on the emulator."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")

from nexus_llm.cli import run_command
from nexus_llm.cloud.account import Account, Watch, open_account
from nexus_llm.cloud.aws_errors import error_code
from nexus_llm.cloud.emptying import emptied, holders, refuse_data
from nexus_llm.cloud.emulator import ACCOUNT, REGION, Emulator, entered, running_emulator
from nexus_llm.cloud.emulator_patches import PatchedApplication
from nexus_llm.cloud.launcher import follow
from nexus_llm.cloud.leftovers import rescan
from nexus_llm.cloud.rehearsal_balancer import running_balancer
from nexus_llm.cloud.rehearsal_data import put_sources
from nexus_llm.cloud.rehearsal_faults import Fault, met
from nexus_llm.cloud.rehearsal_jobs import RunningJobs
from nexus_llm.cloud.sagemaker_training import TrainingJobs
from nexus_llm.cloud.stack_life import regional_clients
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.errors import DeploymentError, UsageError
from nexus_llm.ports import SilentProgress
from nexus_llm.recipe import Recipe, default_recipe, recipe_yaml

pytestmark = [pytest.mark.xdist_group("emulated")]

BUCKET = "nexus-small-models"
# A train image that saves when it is told to end, and goes on where its checkpoints are.
IMAGE = """
import json, os, signal, sys, time
from pathlib import Path
root = Path(os.environ["NEXUS_OPT_ML"]); work = root / "checkpoints" / "key" / "checkpoints"
work.mkdir(parents=True, exist_ok=True)
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
whole = [one for one in sorted(work.glob("step-*")) if (one / "b").exists()]
step = int(whole[-1].name[5:]) if whole else 0
assert (root / "input/data/data/shard.bin").read_bytes() == b"tokens"
end = step + 2 if whole else 1000
while step < end:
    step += 1
    print(f"nexus-metrics step={step} loss={3 - step / 1000}", flush=True)
    time.sleep(0.05 if whole else 0.2)
    if step % 2 == 0 or told:
        (work / f"step-{step:08d}").mkdir(exist_ok=True)
        for name in "ab":
            (work / f"step-{step:08d}" / name).write_text("x" * 10)
    if told:
        sys.exit(75)
(root / "model" / "weights").write_text("w")
"""


@pytest.fixture
def image(tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "image.py"
    file.write_text(IMAGE)
    return (sys.executable, str(file))


@pytest.fixture
def jobs(tmp_path: Path, image: tuple[str, ...]) -> RunningJobs:
    return RunningJobs(tmp_path / "jobs", REGION, image)


@pytest.fixture
def faults() -> list[Fault]:
    return [
        Fault("denied", "kms", "CreateKey", "it is named"),
        Fault("throttled", "ec2", "CreateVpc", "it waits"),
        Fault("denied", "s3", "PutLifecycleConfiguration", "it is named", r"PUT /[^/?]+\?lifecycle"),
        Fault("silent", "sagemaker", "DescribeTrainingJob", "it asks again", after=1),
    ]


@pytest.fixture
def emulator(jobs: RunningJobs, faults: list[Fault]) -> Iterator[Emulator]:
    def wrap(app: Any) -> Any:
        return PatchedApplication(jobs.wrap(app), [one.patch(sleep=lambda seconds: None) for one in faults])

    with running_emulator(wrap=wrap) as running, entered(running):
        yield running
        jobs.stop()


def put(key: str, content: bytes) -> str:
    regional_clients("s3", REGION).put_object(Bucket=BUCKET, Key=key, Body=content)
    return f"s3://{BUCKET}/{key}"


def account(**watch: Any) -> Account:
    return replace(open_account(REGION), watch=Watch(sleep=lambda seconds: time.sleep(0.1), **watch))


def body(name: str) -> dict[str, Any]:
    def channel(kind: str) -> dict[str, Any]:
        source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in/{kind}/"}
        return {"ChannelName": kind, "DataSource": {"S3DataSource": source}}

    return {
        "TrainingJobName": name,
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/nexus",
        "AlgorithmSpecification": {"TrainingImage": "train:1", "TrainingInputMode": "File"},
        "InputDataConfig": [channel("recipe"), channel("data")],
        "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/checkpoints/", "LocalPath": "/opt/ml/checkpoints"},
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }


def test_a_spot_machine_is_taken_away_and_the_job_goes_on_from_what_s3_kept(
    emulator: Emulator, jobs: RunningJobs, faults: list[Fault]
) -> None:
    regional_clients("s3", REGION).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    put("in/recipe/recipe.yaml", recipe_yaml(default_recipe("demo")).encode())
    put("in/data/shard.bin", b"tokens")
    lines: list[str] = []
    launcher = TrainingJobs(account(show_line=lines.append))
    state = follow(launcher, launcher.submit(body("demo-1")), SilentProgress())

    assert (state.outcome, state.loss) == ("done", None), state.reason
    seen = jobs.interruption
    assert seen["exit_code"] == 75
    # The newest checkpoint lost a file on its way to S3: the second machine begins behind the one before it.
    before, after = jobs.losses
    last = max(before)
    again = last if last % 2 else last - 1
    assert last >= 4
    assert list(after) == [again, again + 1]
    assert after[again] == before[again]
    assert [one.rpartition("/")[2] for one in seen["missing_after_copy"]] == ["b"]
    answer = regional_clients("s3", REGION).get_object(Bucket=BUCKET, Key="out/demo-1/output/model.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(answer["Body"].read())) as tar:
        assert tar.getnames() == ["weights"]
    assert met(faults)[3].times == 1  # and whoever watched did not notice


def test_a_job_that_fails_is_told_as_sagemaker_tells_it(emulator: Emulator) -> None:
    regional_clients("s3", REGION).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    put("in/recipe/recipe.yaml", b"nonsense: [")
    launcher = TrainingJobs(account())
    state = follow(launcher, launcher.submit(body("demo-2")), SilentProgress())
    assert state.outcome == "failed"
    assert "RecipeError" in state.reason


def test_a_denied_call_is_denied_once_and_a_throttled_one_is_asked_again(
    emulator: Emulator, faults: list[Fault]
) -> None:
    kms = regional_clients("kms", REGION)
    with pytest.raises(kms.exceptions.ClientError) as refused:
        kms.create_key()
    assert error_code(refused.value) == "AccessDeniedException"
    assert "kms:CreateKey" in str(refused.value)
    kms.create_key()
    regional_clients("ec2", REGION).create_vpc(CidrBlock="10.0.0.0/16")  # boto3 itself asks again
    s3, rule = (
        regional_clients("s3", REGION),
        {"ID": "old", "Status": "Enabled", "Filter": {}, "Expiration": {"Days": 9}},
    )
    s3.create_bucket(Bucket="ruled", CreateBucketConfiguration={"LocationConstraint": REGION})
    with pytest.raises(s3.exceptions.ClientError, match="not authorized to perform: s3:PutLifecycleConfiguration"):
        s3.put_bucket_lifecycle_configuration(Bucket="ruled", LifecycleConfiguration={"Rules": [rule]})
    s3.put_bucket_lifecycle_configuration(Bucket="ruled", LifecycleConfiguration={"Rules": [rule]})
    assert [one.times for one in met(faults)] == [1, 1, 1, 0]


class Slow(BaseHTTPRequestHandler):
    """A task that streams its port; `/open` waits until it is let go."""

    let_go = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/open":
            Slow.let_go.wait(10)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.server.server_address[1]).encode())

    def log_message(self, *words: Any) -> None:
        """Nothing."""


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_task_that_leaves_gets_no_new_request_and_keeps_its_open_one() -> None:
    Slow.let_go.clear()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Slow) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    with running_balancer() as balancer:
        with pytest.raises(urllib.error.HTTPError, match="503"):
            ask(balancer.url)
        balancer.add(urls[0])
        held: list[str] = []
        waiting = threading.Thread(target=lambda: held.append(ask(f"{balancer.url}/open")))
        waiting.start()
        while not balancer.served[urls[0]]:
            time.sleep(0.01)
        balancer.add(urls[1])
        leaving = threading.Thread(target=balancer.remove, args=(urls[0],))
        leaving.start()
        time.sleep(0.1)
        assert {ask(balancer.url) for _ in range(4)} == {str(servers[1].server_port)}
        assert leaving.is_alive()
        Slow.let_go.set()
        waiting.join(10)
        leaving.join(10)
        assert held == [str(servers[0].server_port)]
        assert balancer.served == {urls[0]: 1, urls[1]: 4}
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_first_of_a_source_goes_to_the_bucket_and_what_lies_on_aws_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": "x" * 1000}) + "\n" for _ in range(5000)))
    own = {"type": "files", "path": str(tmp_path / "text.jsonl"), "name": "own", "text_field": "text"}
    recipe = Recipe.model_validate({"name": "demo", "data": {"sources": [own]}})
    placed, taken = put_sources(recipe, f"file://{tmp_path}/bucket", tmp_path / "cut")
    assert placed[0] | {"path": ""} == recipe.data.sources[0].model_dump(mode="json") | {"path": ""}
    rows = (tmp_path / "bucket" / "own" / "0000-text.jsonl").read_text().splitlines()
    assert 1000 < len(rows) < 1100
    assert all(json.loads(row) for row in rows)
    assert taken == {"own": "1 files, 1.0 MB"}
    far = Recipe.model_validate({"name": "demo", "data": {"sources": [own | {"path": "s3://theirs/text/"}]}})
    with pytest.raises(UsageError, match="which no rehearsal can read"):
        put_sources(far, f"file://{tmp_path}/bucket", tmp_path / "cut")


def test_without_terraform_two_lines_say_what_is_missing_and_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_command(["aws", "rehearse", "recipe.yaml", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "terraform is not on the PATH" in said[0]
    assert "NEXUS_TERRAFORM_PLUGINS" in said[1]
    assert list(tmp_path.iterdir()) == []


def test_a_group_of_models_goes_only_when_its_versions_are_gone(emulator: Emulator) -> None:
    sagemaker = regional_clients("sagemaker", REGION)
    sagemaker.create_model_package_group(ModelPackageGroupName="models")
    formats = {"SupportedContentTypes": ["a/b"], "SupportedResponseMIMETypes": ["a/b"]}
    sagemaker.create_model_package(
        ModelPackageGroupName="models", InferenceSpecification={"Containers": [{"Image": "serve:1"}], **formats}
    )
    with pytest.raises(sagemaker.exceptions.ClientError, match="still contains model packages"):
        sagemaker.delete_model_package_group(ModelPackageGroupName="models")
    arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package-group/models"
    change = {"actions": ["delete"], "before": {"model_package_group_name": "models", "arn": arn}}
    plan = {"resource_changes": [{"type": "aws_sagemaker_model_package_group", "change": change}]}
    (group,) = holders(plan, region=REGION)
    with pytest.raises(DeploymentError, match="model group models: data in it would be lost"):
        refuse_data([group], regional_clients)
    assert emptied(group, regional_clients) == 1
    sagemaker.delete_model_package_group(ModelPackageGroupName="models")
    assert sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"] == []


def test_what_was_deleted_is_no_leftover_on_the_emulator_and_what_was_not_is(emulator: Emulator) -> None:
    def left() -> list[str]:
        pricing = Pricing(PriceTable.shipped(), "us-east-1")
        return [one.kind for one in rescan("nexus-small", [REGION], regional_clients, pricing).left]

    glue, ecs = regional_clients("glue", REGION), regional_clients("ecs", REGION)
    tags = {"platform": "nexus-small"}
    network = {"Name": "network", "ConnectionType": "NETWORK", "ConnectionProperties": {}}
    glue.create_database(DatabaseInput={"Name": "data"}, Tags=tags)
    glue.create_connection(ConnectionInput=network, Tags=tags)
    ecs.create_cluster(clusterName="nexus-small", tags=[{"key": "platform", "value": "nexus-small"}])
    task = {"name": "gateway", "image": "serve:1", "memory": 10}
    ecs.register_task_definition(family="api", containerDefinitions=[task])
    ecs.create_service(cluster="nexus-small", serviceName="nexus-small-api", taskDefinition="api", desiredCount=0)
    assert left() == ["ECS service", "ecs:cluster", "glue:connection", "glue:database"]
    glue.delete_connection(ConnectionName="network")
    ecs.delete_service(cluster="nexus-small", service="nexus-small-api")
    ecs.delete_cluster(cluster="nexus-small")
    assert left() == ["glue:database"]
