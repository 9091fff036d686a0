"""`nexus train attach` and `stop` with the real S3 client, SageMaker's and CloudWatch's, on an emulator on loopback."""

from __future__ import annotations

import json
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import typer
from typer.testing import CliRunner

boto3 = pytest.importorskip("boto3", reason="needs the aws extra: pip install boto3")
server = pytest.importorskip("moto.server", reason="needs the dev extra: pip install 'moto[s3]' flask")

from nexus_llm.artifacts import Artifact, ArtifactStore, load  # noqa: E402
from nexus_llm.cli import train_remote  # noqa: E402
from nexus_llm.cloud.sagemaker import SageMakerTrainService, StoredBucket  # noqa: E402
from nexus_llm.errors import TrainingError  # noqa: E402
from nexus_llm.ports import NeverInterrupted, SilentProgress  # noqa: E402
from nexus_llm.recipe import Recipe  # noqa: E402

KEY = "0123456789abcdef"
RECIPE = Recipe.model_validate(
    {
        "name": "demo",
        "train": {
            "launcher": "sagemaker",
            "sagemaker": {
                "bucket": "models",
                "role_arn": "arn:aws:iam::123456789012:role/nexus-train",
                "image_uri": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/train:1",
            },
        },
    }
)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    emulator = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    emulator.start()
    host, port = emulator.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="models")
    fsspec.filesystem("s3").clear_instance_cache()
    yield
    emulator.stop()


def made(root: Path, kind: str, key: str) -> Artifact:
    with ArtifactStore(root).draft(kind, key, stage_version=1, recipe={}, inputs={}) as draft:
        (draft.folder / "content.txt").write_text(kind)
        return draft.finish(facts={"steps": 100})


@pytest.mark.usefixtures("account")
def test_a_job_is_started_asked_to_stop_and_its_result_imported_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the commands take signals over; pytest keeps its own
    jobs = train_remote.training_jobs(None, NeverInterrupted())
    service = SageMakerTrainService(lambda _: jobs, SilentProgress(), StoredBucket())
    name = service.start(RECIPE, {kind: made(tmp_path, kind, kind) for kind in ("model", "data")}, KEY, jobs)
    description = jobs.state(name).answer
    uploaded = boto3.client("s3").list_objects_v2(Bucket="models")["Contents"]
    assert sorted(Path(one["Key"]).name for one in uploaded) == ["content.txt"] * 2 + ["manifest.json"] * 2 + [
        "recipe.yaml"
    ]
    there = made(tmp_path, "train", KEY)
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        for path in there.folder.iterdir():
            tar.add(path, arcname=path.name)
    StoredBucket().upload(tmp_path / "model.tar.gz", description["ModelArtifacts"]["S3ModelArtifacts"])

    app = typer.Typer()
    train_remote.register(app)
    stopped = CliRunner().invoke(app, ["stop", name])
    assert f"{name} was Completed already" in stopped.output
    attached = CliRunner().invoke(app, ["attach", name, "--json", "--root", str(tmp_path / "here")])
    document = json.loads(attached.stdout)
    assert (document["id"], document["key"]) == (there.id, KEY)
    assert document["job"]["name"] == name
    assert load(Path(document["path"])).id == there.id
    missing = CliRunner().invoke(app, ["stop", "nobody"])
    assert isinstance(missing.exception, TrainingError)
