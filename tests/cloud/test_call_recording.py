"""Requests that botocore makes are read back as the operations that they are, in every protocol."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("boto3", reason="needs the aws extra: pip install boto3")

import boto3

from call_needs import Call
from heard_calls import RecordingApp, call_of, refusal

REGION = "eu-central-1"
ROLE = "arn:aws:iam::123456789012:role/nexus-glue"


class CaughtError(Exception):
    """Raised in place of sending a request, which it carries."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


def catch(request: Any, **_: Any) -> None:
    raise CaughtError(request)


def environ_of(service: str, operation: str, **parameters: Any) -> tuple[dict[str, Any], bytes]:
    """What a WSGI server would hand on for a call of boto3."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    client = boto3.client(service, region_name=REGION, endpoint_url="http://127.0.0.1:1", **keys)
    client.meta.events.register("before-send", catch)
    with pytest.raises(CaughtError) as caught:
        getattr(client, operation)(**parameters)
    request = caught.value.request
    address = urlsplit(request.url)
    body = request.body or b""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "RAW_URI": address.path + (f"?{address.query}" if address.query else ""),
        "PATH_INFO": address.path,
        "CONTENT_LENGTH": str(len(body)) if isinstance(body, bytes) else "0",
    }
    for name, value in request.headers.items():
        text = value.decode() if isinstance(value, bytes) else value
        environ["HTTP_" + name.upper().replace("-", "_")] = text
    environ["CONTENT_TYPE"] = environ.get("HTTP_CONTENT_TYPE")
    return environ, body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else b""


BUCKET = {"Bucket": "b"}
OBJECT = {"Bucket": "b", "Key": "a/c d"}
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("s3", "list_objects_v2", BUCKET, "ListObjectsV2"),
    ("s3", "head_bucket", BUCKET, "HeadBucket"),
    ("s3", "get_bucket_lifecycle_configuration", BUCKET, "GetBucketLifecycleConfiguration"),
    ("s3", "get_object", OBJECT, "GetObject"),
    ("s3", "put_object", OBJECT, "PutObject"),
    ("s3", "copy_object", OBJECT | {"CopySource": "b/x"}, "CopyObject"),
    ("s3", "upload_part", OBJECT | {"PartNumber": 1, "UploadId": "u"}, "UploadPart"),
    ("s3", "create_multipart_upload", OBJECT, "CreateMultipartUpload"),
    ("s3", "delete_objects", BUCKET | {"Delete": {"Objects": [{"Key": "k"}]}}, "DeleteObjects"),
    ("s3", "list_buckets", {}, "ListBuckets"),
    ("ec2", "describe_vpcs", {}, "DescribeVpcs"),
    ("iam", "get_role", {"RoleName": "r"}, "GetRole"),
    ("glue", "start_job_run", {"JobName": "j"}, "StartJobRun"),
    ("sagemaker", "describe_training_job", {"TrainingJobName": "t"}, "DescribeTrainingJob"),
    ("batch", "describe_jobs", {"jobs": ["j"]}, "DescribeJobs"),
    ("backup", "list_tags", {"ResourceArn": "arn:aws:backup:eu-central-1:1:backup-plan:x"}, "ListTags"),
    ("emr-serverless", "get_job_run", {"applicationId": "a", "jobRunId": "r"}, "GetJobRun"),
    ("elbv2", "describe_load_balancers", {}, "DescribeLoadBalancers"),
    ("cloudwatch", "describe_alarms", {}, "DescribeAlarms"),
    ("resourcegroupstaggingapi", "get_resources", {}, "GetResources"),
    ("sts", "get_caller_identity", {}, "GetCallerIdentity"),
]
PREFIXES = {"elbv2": "elasticloadbalancing", "resourcegroupstaggingapi": "tag"}


@pytest.mark.parametrize(("service", "method", "parameters", "operation"), CASES, ids=[one[3] for one in CASES])
def test_a_request_is_read_back(service: str, method: str, parameters: dict[str, Any], operation: str) -> None:
    call = call_of(*environ_of(service, method, **parameters))
    assert call is not None
    assert (call.service, call.operation, call.region) == (PREFIXES.get(service, service), operation, REGION)


def test_parameters_keep_their_names_and_lose_their_positions() -> None:
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "platform", "Value": "n"}]}]
    vpc = call_of(*environ_of("ec2", "create_vpc", CidrBlock="10.0.0.0/16", TagSpecifications=tags))
    assert vpc is not None
    assert list(vpc.values("ResourceType")) == ["vpc"]
    assert ("TagSpecification.Tag.Key", "platform") in vpc.parameters
    job = call_of(*environ_of("glue", "create_job", Name="j", Role=ROLE, Command={"Name": "glueetl"}))
    assert job is not None
    assert list(job.values("Name")) == ["j", "glueetl"]
    key = call_of(*environ_of("s3", "get_object", Bucket="b", Key="a/c d"))
    assert key is not None
    assert set(key.parameters) >= {("Bucket", "b"), ("Key", "a/c d")}
    copies = {"Role": ROLE, "Rules": [{"Status": "Enabled", "Destination": {"Bucket": "arn:aws:s3:::c"}, "Prefix": ""}]}
    role = call_of(*environ_of("s3", "put_bucket_replication", Bucket="b", ReplicationConfiguration=copies))
    assert role is not None
    assert list(role.values("Role")) == [ROLE]


def test_what_nobody_signed_is_nobodys_call() -> None:
    assert call_of({"REQUEST_METHOD": "GET", "PATH_INFO": "/moto-api/data"}, b"") is None


def test_the_next_reader_finds_the_body_that_the_ear_has_read() -> None:
    environ, body = environ_of("glue", "start_job_run", JobName="j")
    heard: list[Call] = []

    def behind(inner: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return [inner["wsgi.input"].read()]

    answer = RecordingApp(behind, heard.append)(environ | {"wsgi.input": io.BytesIO(body)}, lambda *_: None)
    assert list(answer) == [body]
    assert [one.operation for one in heard] == ["StartJobRun"]


@pytest.mark.parametrize(
    ("service", "method", "parameters"),
    [
        ("s3", "get_object", OBJECT),
        ("ec2", "describe_vpcs", {}),
        ("iam", "get_role", {"RoleName": "r"}),
        ("glue", "start_job_run", {"JobName": "j"}),
        ("batch", "describe_jobs", {"jobs": ["j"]}),
    ],
)
def test_botocore_understands_every_refusal(service: str, method: str, parameters: dict[str, Any]) -> None:
    from botocore.parsers import create_parser

    environ, body = environ_of(service, method, **parameters)
    call = call_of(environ, body)
    assert call is not None
    status, headers, answer = refusal(environ, call, f"{service}:Thing")
    client = boto3.client(service, region_name=REGION, aws_access_key_id="testing", aws_secret_access_key="testing")
    model = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[method])
    parser = create_parser(client.meta.service_model.protocol)
    given = {"body": answer, "headers": dict(headers), "status_code": int(status.split()[0])}
    error = parser.parse(given, model.output_shape)["Error"]
    assert error["Code"] in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
    assert f"perform: {service}:Thing" in error["Message"]
