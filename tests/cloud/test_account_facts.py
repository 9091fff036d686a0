"""What an account is asked: of an emulator, of refusing clients; and the fake of Service Quotas against AWS' model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

boto3 = pytest.importorskip("boto3", reason="needs the aws extra: pip install boto3")
moto = pytest.importorskip("moto", reason="needs the dev extra: pip install 'moto[s3]'")

from botocore.exceptions import ClientError  # noqa: E402
from botocore.session import get_session  # noqa: E402
from botocore.stub import Stubber  # noqa: E402
from botocore.validate import validate_parameters  # noqa: E402

from nexus_llm.cloud.account import Account, open_account  # noqa: E402
from nexus_llm.cloud.account_facts import asked, gather, not_known  # noqa: E402
from nexus_llm.cloud.emulated_quotas import EmulatedQuotas  # noqa: E402
from nexus_llm.deploy import quotas  # noqa: E402
from nexus_llm.deploy.facts import Caller, Facts, MachineFact, NotKnown, QuotaFact  # noqa: E402
from nexus_llm.deploy.needs import Needs, Platform, needs_of  # noqa: E402
from nexus_llm.deploy.preflight import Local, preflight  # noqa: E402
from nexus_llm.errors import StorageError  # noqa: E402
from nexus_llm.recipe import Recipe  # noqa: E402

REGION = "eu-central-1"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
USER = "User: arn:aws:sts::123456789012:assumed-role/developer/ana is not authorized to perform: "
RECIPE = Recipe.model_validate(
    {
        "name": "demo",
        "serve": {"engine": "vllm"},
        "train": {"launcher": "sagemaker", "sagemaker": {"bucket": "models", "instance_type": "ml.g5.2xlarge"}},
    }
)
SPOT = quotas.training_quota("ml.g5.2xlarge", is_spot=True)
PATIENT = 250.0  # the emulator reads megabytes first, and test machines are shared
LOCAL = Local("folder", True, 200, 100.0)


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, no configuration and no metadata service of this machine."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                 "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.fixture
def emulator(keys: None) -> Iterator[None]:
    with moto.mock_aws():
        yield


def refusal(code: str, message: str, operation: str = "DescribeX") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


class Answering:
    """A client whose methods give what they are told, or raise it."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            answer = self._answers[method]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


SIGNED_IN = Answering(get_caller_identity={"Account": "123456789012", "Arn": "arn:aws:iam::123456789012:user/ana"})


def refusing(error: Exception, **stand_ins: Any) -> Account:
    """An account in which EC2, S3, SSM and Service Quotas answer every call with `error`."""
    calls = ("describe_regions", "describe_availability_zones", "describe_instance_types", "get_paginator",
             "get_service_quota", "get_parameter", "head_bucket", "describe_subnets")  # fmt: skip
    bad = Answering(**dict.fromkeys(calls, error))
    services = dict.fromkeys(("ec2", "s3", "ssm", "service-quotas"), bad)
    return open_account(REGION, stand_ins={"sts": SIGNED_IN, **services, **stand_ins})


def emulated(needs: Needs, value: float = 1000) -> EmulatedQuotas:
    return EmulatedQuotas({need.quota: value for need in needs.quotas})


# Everything, against the emulator.


def test_an_emulated_account_answers_every_question(emulator: None) -> None:
    ec2, ecr = boto3.client("ec2", region_name=REGION), boto3.client("ecr", region_name=REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    ecr.create_repository(repositoryName="nexus-small/serve")
    url = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/nexus-small/serve"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="models")
    platform = Platform("nexus-small", REGION, "123456789012", (subnet, "subnet-gone"), {"serve": url, "train": url})
    needs = needs_of(RECIPE, "small", platform=platform, serving_variables={"gateway_version": ":1.0.0"})

    account = open_account(needs.region, stand_ins={"service-quotas": emulated(needs)})
    facts = gather(needs, account, now=lambda: NOW, limit_seconds=PATIENT)

    assert facts.caller == Caller("123456789012", "arn:aws:sts::123456789012:user/moto")
    assert facts.region_status[REGION] == "opt-in-not-required"  # type: ignore[index]
    assert facts.zones == ("eu-central-1a", "eu-central-1b", "eu-central-1c")
    assert facts.machines["g6.xlarge"] == MachineFact(4, 1)  # type: ignore[index]
    assert "eu-central-1a" in facts.offered["g6.xlarge"]  # type: ignore[index]
    assert [(one.id, one.free_addresses) for one in facts.subnets] == [(subnet, 251)]  # type: ignore[union-attr]
    assert str(facts.image_id).startswith("ami-")
    assert facts.images == {f"{url}:1.0.0": False}
    assert facts.buckets == {"models": True}
    assert {one.quota for one in needs.quotas} == set(facts.quotas)
    assert all(isinstance(one, QuotaFact) and one.value == 1000 for one in facts.quotas.values())

    rows = {one.name: one for one in preflight(needs, facts, LOCAL)}
    assert rows["subnet addresses"].found == "subnet-gone does not exist"
    assert not [one for one in rows.values() if one.verdict == "unknown"]


def test_what_is_missing_is_told_apart_from_what_is_not_known(emulator: None) -> None:
    needs = needs_of(RECIPE, "small", region=REGION)
    account = open_account(REGION, stand_ins={"service-quotas": EmulatedQuotas({})})
    facts = gather(needs, account, now=lambda: NOW, limit_seconds=PATIENT)
    assert facts.buckets == {"models": False}
    assert set(facts.quotas.values()) == {None}
    fail = {one.name for one in preflight(needs, facts, LOCAL) if one.verdict == "fail"}
    assert {"bucket models", f"train job: {SPOT.name}"} <= fail


# Who asks.


def test_without_credentials_nothing_else_is_asked() -> None:
    needs = needs_of(RECIPE, "small", region=REGION)
    facts = gather(needs, open_account(REGION))
    assert isinstance(facts.caller, NotKnown)
    assert not facts.is_signed_in
    rows = preflight(needs, facts, LOCAL)
    assert (rows[0].name, rows[0].verdict) == ("credentials", "fail")
    assert "aws sso login" in rows[0].fix
    assert {one.verdict for one in rows if "not asked" in one.found} == {"unknown"}


def test_an_expired_token_says_how_to_renew_it(keys: None) -> None:
    expired = Answering(get_caller_identity=refusal("ExpiredToken", "The security token included is expired"))
    facts = gather(needs_of(RECIPE, "small"), open_account(REGION, stand_ins={"sts": expired}))
    assert not facts.is_signed_in
    assert isinstance(facts.caller, NotKnown)
    assert "expired" in facts.caller.why
    assert "renew the credentials" in facts.caller.fix


def test_a_role_behind_mfa_is_refused_before_anybody_is_prompted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(
        "[profile work]\nrole_arn = arn:aws:iam::123456789012:role/deploy\nsource_profile = base\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/ana\nregion = eu-west-1\n"
        "[profile base]\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "work")
    account = open_account()
    assert account.region == "eu-west-1"
    with pytest.raises(StorageError, match="only with a code of arn:aws:iam::123456789012:mfa/ana") as refused:
        account.caller()
    assert "aws configure export-credentials --profile work" in refused.value.fix


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "wrok")
    with pytest.raises(StorageError, match="wrok"):
        open_account(REGION)


def test_the_region_comes_from_the_option_then_from_aws_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    assert (open_account("eu-north-1").region, open_account().region) == ("eu-north-1", "eu-west-3")
    assert open_account("cn-northwest-1").home_region == "cn-north-1"


def test_in_a_region_that_does_not_exist_nothing_is_asked(keys: None) -> None:
    facts = gather(needs_of(RECIPE, "small"), open_account("eu-centrl-1", stand_ins={"sts": SIGNED_IN}))
    assert isinstance(facts.zones, NotKnown)
    rows = {one.name: one for one in preflight(needs_of(RECIPE, "small"), facts, LOCAL)}
    assert rows["region"].fix == "--region eu-central-1"


# Refusals.


def facts_of(error: Exception) -> Facts:
    return gather(needs_of(RECIPE, "small", region=REGION), refusing(error), now=lambda: NOW)


def test_a_denied_call_names_the_action_and_where_to_add_it(keys: None) -> None:
    action = "ec2:DescribeAvailabilityZones"
    facts = facts_of(refusal("UnauthorizedOperation", f"{USER}{action} because …", "DescribeAvailabilityZones"))
    assert isinstance(facts.zones, NotKnown)
    assert facts.zones.fix == f"give the caller the action {action}, in a policy of the role developer"
    assert isinstance(facts.quotas[SPOT], NotKnown)


@pytest.mark.parametrize("policy", ["service control policy", "permissions boundary"])
def test_a_call_that_a_policy_forbids_is_not_to_be_allowed_elsewhere(policy: str) -> None:
    message = f"{USER}s3:ListBucket with an explicit deny in a {policy}"
    found = not_known(refusal("AccessDenied", message, "HeadBucket"), "s3", "bucket models")
    assert found.fix == f"s3:ListBucket is forbidden by a {policy}: ask its owner to except this caller"


def test_a_denial_without_words_still_names_iams_action() -> None:
    found = not_known(refusal("403", "Forbidden", "HeadBucket"), "s3", "bucket models")
    assert found.fix == "give the caller the action s3:ListBucket"


def test_throttling_leaves_rows_unknown_and_never_ends_the_command(keys: None) -> None:
    facts = facts_of(refusal("RequestLimitExceeded", "Request limit exceeded."))
    rows = preflight(needs_of(RECIPE, "small", region=REGION), facts, LOCAL)
    assert not [one for one in rows if one.verdict == "fail"]
    found = next(one for one in rows if one.name == "availability zones")
    assert (found.verdict, found.fix) == ("unknown", "run the same command again later")


def test_a_page_of_html_is_no_message() -> None:
    found = not_known(refusal("500", "<!doctype html>\n<title>Oops</title>"), "ec2", "zones")
    assert found.why == "ec2:DescribeX of zones: AWS is busy or out of reach (HTTP 500)"


def test_a_question_that_hangs_does_not_hold_up_the_others() -> None:
    never = threading.Event()
    answers = asked({"slow": ("ec2", never.wait), "fast": ("ec2", lambda: 1)}, seconds=0.2)
    assert answers["fast"] == 1
    assert isinstance(answers["slow"], NotKnown)
    never.set()


def test_our_own_mistakes_are_not_hidden_as_unknown() -> None:
    def mistake() -> None:
        raise KeyError("QuotaCode")

    with pytest.raises(KeyError):
        asked({"one": ("ec2", mistake)}, seconds=5)


# Service Quotas: our fake and our reading of the real client, held against botocore's model.


def test_the_fake_quotas_speak_as_aws_model_does() -> None:
    model = get_session().get_service_model("service-quotas")
    fake = EmulatedQuotas({quotas.FARGATE: 6, SPOT: 1}, defaults={quotas.VPCS: 5})
    for operation, method, quota in (
        ("GetServiceQuota", fake.get_service_quota, quotas.FARGATE),
        ("GetAWSDefaultServiceQuota", fake.get_aws_default_service_quota, quotas.VPCS),
    ):
        shapes = model.operation_model(operation)
        request = {"ServiceCode": quota.service, "QuotaCode": quota.code}
        validate_parameters(request, shapes.input_shape)
        validate_parameters(method(**request), shapes.output_shape)
        with pytest.raises(ClientError) as refused:
            method(ServiceCode="ec2", QuotaCode="L-NONE")
        assert refused.value.response["Error"]["Code"] in {one.name for one in shapes.error_shapes}
    client = boto3.client("service-quotas", region_name=REGION)
    for operation in ("ListServiceQuotas", "ListAWSDefaultServiceQuotas"):
        method_name = {"ListServiceQuotas": "list_service_quotas"}.get(operation, "list_aws_default_service_quotas")
        assert client.can_paginate(method_name)
        for page in fake.get_paginator(method_name).paginate(ServiceCode="sagemaker"):
            validate_parameters(page, model.operation_model(operation).output_shape)


def stubbed(service: str, *answers: tuple[str, dict[str, Any], dict[str, Any] | str]) -> Any:
    """A real client that expects these calls; a text is the code of a refusal."""
    client = boto3.client(service, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b")
    stubber = Stubber(client)
    for method, request, answer in answers:
        if isinstance(answer, str):
            stubber.add_client_error(method, answer, expected_params=request)
        else:
            stubber.add_response(method, answer, request)
    stubber.activate()
    return client


def test_a_quota_that_was_never_changed_is_aws_default_and_its_use_is_cloudwatchs_last_value() -> None:
    fargate = {"ServiceCode": "fargate", "QuotaCode": "L-3032A538"}
    metric = {
        "MetricNamespace": "AWS/Usage",
        "MetricName": "ResourceCount",
        "MetricDimensions": {"Type": "Resource", "Service": "Fargate", "Resource": "vCPU", "Class": "None"},
        "MetricStatisticRecommendation": "Maximum",
    }
    entry = {"QuotaName": quotas.FARGATE.name, "Value": 6.0, "Adjustable": True, "UsageMetric": metric} | fargate
    service = stubbed(
        "service-quotas",
        ("get_service_quota", fargate, "NoSuchResourceException"),
        ("get_aws_default_service_quota", fargate, {"Quota": entry}),
    )
    points = [
        {"Timestamp": NOW.replace(hour=11, minute=minute), "Maximum": value} for minute, value in ((55, 4.0), (50, 9.0))
    ]
    usage = {
        "Namespace": "AWS/Usage",
        "MetricName": "ResourceCount",
        "Dimensions": [
            {"Name": "Class", "Value": "None"},
            {"Name": "Resource", "Value": "vCPU"},
            {"Name": "Service", "Value": "Fargate"},
            {"Name": "Type", "Value": "Resource"},
        ],
        "StartTime": NOW.replace(hour=11),
        "EndTime": NOW,
        "Period": 300,
        "Statistics": ["Maximum"],
    }
    watch = stubbed("cloudwatch", ("get_metric_statistics", usage, {"Datapoints": points}))
    account = refusing(refusal("AccessDenied", "no"), **{"service-quotas": service, "cloudwatch": watch})
    plain = needs_of(Recipe.model_validate({"name": "demo"}), "small", region=REGION)
    only = [one for one in plain.quotas if one.quota == quotas.FARGATE][:1]
    facts = gather(replace(plain, quotas=tuple(only)), account, now=lambda: NOW)
    assert facts.quotas[quotas.FARGATE] == QuotaFact("L-3032A538", quotas.FARGATE.name, 6.0, 4.0)


def test_quotas_by_name_take_the_accounts_value_before_aws_default() -> None:
    other = quotas.training_quota("ml.p5.48xlarge", is_spot=True)
    third = quotas.training_quota("ml.trn9.huge", is_spot=True)
    fake = EmulatedQuotas({SPOT: 2, quotas.ENDPOINTS: 1}, defaults={SPOT: 0, other: 7})
    plain = needs_of(RECIPE, "small", region=REGION)
    train = next(one for one in plain.quotas if one.quota == SPOT)
    wanted = tuple(replace(train, quota=quota) for quota in (SPOT, other, third))
    account = refusing(refusal("AccessDenied", "no"), **{"service-quotas": fake})
    facts = gather(replace(plain, quotas=wanted), account, now=lambda: NOW)
    assert {one: fact and fact.value for one, fact in facts.quotas.items()} == {SPOT: 2, other: 7, third: None}  # type: ignore[union-attr]
