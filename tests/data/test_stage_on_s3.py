"""The data stage on a bucket: the real S3 client against an emulator on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from nexus_llm.data.stage import STAGE
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe
from running_stages import folder_as_artifact, run_stage
from tiny_model import write_tiny_model


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="corpus")
    fsspec.filesystem("s3").clear_instance_cache()
    yield "corpus"
    server.stop()


def put(bucket: str, name: str, rows: range) -> None:
    lines = ('{"text": "' + " ".join(f"word{row * 1_000 + place}" for place in range(60)) + '"}' for row in rows)
    boto3.client("s3").put_object(Bucket=bucket, Key=f"text/{name}", Body="\n".join(lines).encode())


def test_text_in_a_bucket_becomes_the_same_tokens_as_on_a_disk(bucket: str, tmp_path: Path) -> None:
    put(bucket, "a.jsonl", range(20))
    put(bucket, "deep/b.jsonl", range(20, 30))
    model = folder_as_artifact("model", write_tiny_model(tmp_path / "model"))
    source = {"type": "files", "path": f"s3://{bucket}/text", "name": "own"}
    recipe = Recipe.model_validate({"name": "t", "data": {"sources": [source]}})
    made = run_stage(STAGE, recipe, {"model": model}, tmp_path)
    assert made.manifest.facts["read"] == made.manifest.facts["kept"] == 30
    places = [name for name in made.manifest.inputs if name.startswith("s3://")]
    assert places == [f"s3://{bucket}/text/a.jsonl", f"s3://{bucket}/text/deep/b.jsonl"]
    assert all(made.manifest.inputs[place].startswith("etag:") for place in places)
    assert not list(tmp_path.rglob("fetched"))


def test_a_changed_object_changes_what_the_stage_is_made_from(bucket: str, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {"name": "t", "data": {"sources": [{"type": "files", "path": f"s3://{bucket}/text", "name": "own"}]}}
    )
    put(bucket, "a.jsonl", range(5))
    before = STAGE.outside_inputs(recipe, Ports())
    put(bucket, "a.jsonl", range(6))
    fsspec.filesystem("s3").invalidate_cache()
    assert STAGE.outside_inputs(recipe, Ports()) != before
