"""Asks an AWS account what a preflight needs to know: all questions at once, none longer than a few seconds.

A question that is denied, throttled or not answered in time becomes a `NotKnown` with the action that is missing; the
others go on. Nothing is made and nothing costs: all calls only read.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from nexus_llm.cloud.account import Account
from nexus_llm.cloud.aws_errors import error_code, error_of
from nexus_llm.deploy.facts import NOT_ASKED, Caller, Facts, MachineFact, NotKnown, QuotaFact, SubnetFact
from nexus_llm.deploy.needs import Needs
from nexus_llm.deploy.quotas import ELASTIC_IPS, VPCS, Quota
from nexus_llm.errors import NexusError, TryAgainError

LIMIT_SECONDS = 20.0
_USE_WINDOW = timedelta(hours=1)
_USE_PERIOD_SECONDS = 300  # AWS/Usage has a value every five minutes (Service Quotas user guide, read 2026-11)
_ECR_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/"
    r"(?P<repository>[a-z0-9._/-]+)(?::(?P<tag>[\w.-]+)|@(?P<digest>sha256:[0-9a-f]{64}))?"
)
# IAM's name of a call, where it is another one.
_ACTIONS = {"s3:HeadBucket": "s3:ListBucket"}
_MISSING = frozenset(
    {"404", "ImageNotFoundException", "NoSuchBucket", "NoSuchResourceException", "ParameterNotFound",
     "RepositoryNotFoundException"}
)  # fmt: skip

Question = tuple[str, Callable[[], Any]]
"""IAM's prefix of the service, and the calls."""


def gather(
    needs: Needs,
    account: Account,
    *,
    limit_seconds: float = LIMIT_SECONDS,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Facts:
    """What the account says about everything that `needs` names.

    Raises:
        NexusError: none for what AWS refuses; that is a `NotKnown` in the answer.
    """
    known, region = account.known_regions, account.region
    started = time.monotonic()
    caller, is_signed_in = _caller(account, limit_seconds)
    if not is_signed_in or region not in known:
        return Facts(region, known, caller, is_signed_in)
    by_code = [one.quota for one in needs.quotas if one.quota.code]
    by_name: dict[str, list[Quota]] = {}
    for need in needs.quotas:
        if need.quota.code is None:
            by_name.setdefault(need.quota.service, []).append(need.quota)
    questions = _questions(needs, account)
    questions |= {f"quota {one.code}": ("servicequotas", partial(_quota, account, one, now)) for one in by_code}
    for service, quotas in by_name.items():
        questions[f"quotas {service}"] = ("servicequotas", partial(_named_quotas, account, quotas, now))
    answers = asked(questions, seconds=limit_seconds - (time.monotonic() - started))
    found: dict[Quota, Any] = {one: answers[f"quota {one.code}"] for one in by_code}
    for service, quotas in by_name.items():
        answer = answers[f"quotas {service}"]
        found |= {one: answer if isinstance(answer, NotKnown) else answer.get(one) for one in quotas}
    single = ("region_status", "zones", "machines", "offered", "subnets", "image_id")
    return Facts(
        region,
        known,
        caller,
        quotas=found,
        images={one: answers[f"image {one}"] for one in needs.images},
        buckets={one: answers[f"bucket {one}"] for one in needs.buckets},
        **{name: answers.get(name, NOT_ASKED) for name in single},
    )


def asked(questions: Mapping[str, Question], *, seconds: float) -> dict[str, Any]:
    """Answers by name; what had none after `seconds` is a `NotKnown`, and so is what AWS refused."""
    answers: dict[str, Any] = {}
    failures: list[BaseException] = []

    def ask(name: str, prefix: str, question: Callable[[], Any]) -> None:
        try:
            answers[name] = asked_here(prefix, question, name)
        except Exception as own:  # noqa: BLE001 - raised on the caller's thread
            failures.append(own)

    # Daemons: one that waits for a dead host must not keep the process from ending.
    threads = [
        threading.Thread(target=ask, args=(name, prefix, question), daemon=True)
        for name, (prefix, question) in questions.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    if failures:
        raise failures[0]
    late = NotKnown(f"no answer within {seconds:.0f} s", "run this again; --seconds waits longer")
    return {name: answers.get(name, late) for name in questions}


def not_known(error: Exception, prefix: str, name: str) -> NotKnown:
    """Why a question has no answer. What is not AWS' is raised again."""
    action = f"{prefix}:{getattr(error, 'operation_name', '*')}"
    explained = error if isinstance(error, NexusError) else error_of(error, _ACTIONS.get(action, action), name)
    return NotKnown(explained.what, explained.fix)


def _caller(account: Account, seconds: float) -> tuple[Caller | NotKnown, bool]:
    """Who asks, and whether it is worth going on."""
    is_worth = True

    def ask() -> Caller:
        nonlocal is_worth
        try:
            return account.caller()
        except NexusError as error:
            is_worth = isinstance(error, TryAgainError)
            raise

    answer = asked({"caller": ("sts", ask)}, seconds=seconds)["caller"]
    return answer, is_worth


def _questions(needs: Needs, account: Account) -> dict[str, Question]:
    """Everything but the quotas."""
    machines = sorted(needs.machines)
    found: dict[str, Question] = {
        "region_status": ("ec2", partial(_regions, account)),
        "zones": ("ec2", partial(_zones, account)),
        "offered": ("ec2", partial(_offered, account, machines)),
    }
    if needs.serving.engine == "vllm":
        found["machines"] = ("ec2", partial(_machines, account, machines))
    if needs.image_parameter:
        found["image_id"] = ("ssm", partial(_parameter, account, needs.image_parameter))
    if needs.platform:
        subnets = list(needs.platform.private_subnet_ids)
        found["subnets"] = ("ec2", partial(_subnets, account, subnets))
    found |= {f"image {one}": ("ecr", partial(_has_image, account, one)) for one in needs.images}
    return found | {f"bucket {one}": ("s3", partial(_has_bucket, account, one)) for one in needs.buckets}


def _regions(account: Account) -> dict[str, str]:
    answer = account.client("ec2", region=account.home_region).describe_regions(AllRegions=True)
    return {one["RegionName"]: one.get("OptInStatus", "opt-in-not-required") for one in answer["Regions"]}


def _zones(account: Account) -> tuple[str, ...]:
    answer = account.client("ec2").describe_availability_zones()["AvailabilityZones"]
    return tuple(
        sorted(
            one["ZoneName"]
            for one in answer
            if one.get("State") == "available" and one.get("ZoneType", "availability-zone") == "availability-zone"
        )
    )


def _offered(account: Account, machines: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    pages = account.client("ec2").get_paginator("describe_instance_type_offerings")
    wanted = [{"Name": "instance-type", "Values": machines}]
    for page in pages.paginate(LocationType="availability-zone", Filters=wanted):
        for one in page["InstanceTypeOfferings"]:
            found.setdefault(one["InstanceType"], set()).add(one["Location"])
    return {machine: tuple(sorted(zones)) for machine, zones in sorted(found.items())}


def _machines(account: Account, machines: list[str]) -> dict[str, MachineFact]:
    # By filter, not by name: one misspelt name would fail the whole call.
    wanted = [{"Name": "instance-type", "Values": machines}]
    answer = account.client("ec2").describe_instance_types(Filters=wanted)["InstanceTypes"]
    return {
        one["InstanceType"]: MachineFact(
            int(one["VCpuInfo"]["DefaultVCpus"]),
            sum(int(card.get("Count", 0)) for card in one.get("GpuInfo", {}).get("Gpus", [])),
        )
        for one in answer
    }


def _subnets(account: Account, subnets: list[str]) -> tuple[SubnetFact, ...]:
    answer = account.client("ec2").describe_subnets(Filters=[{"Name": "subnet-id", "Values": subnets}])["Subnets"]
    found = (
        SubnetFact(one["SubnetId"], one["AvailabilityZone"], int(one["AvailableIpAddressCount"])) for one in answer
    )
    return tuple(sorted(found, key=lambda one: one.id))


def _parameter(account: Account, name: str) -> str | None:
    answer = _or_none(lambda: account.client("ssm").get_parameter(Name=name))
    return None if answer is None else str(answer["Parameter"]["Value"])


def _has_image(account: Account, image: str) -> bool | NotKnown:
    place = _ECR_IMAGE.fullmatch(image)
    if not place:
        return NotKnown("not asked: it is not in ECR", f"docker manifest inspect {image}")
    wanted = {"imageTag": place["tag"]} if place["tag"] else {"imageDigest": place["digest"]}
    request: dict[str, Any] = {"imageIds": [wanted]} if place["tag"] or place["digest"] else {"maxResults": 1}
    registry = account.client("ecr", region=place["region"])
    answer = _or_none(
        lambda: registry.describe_images(registryId=place["account"], repositoryName=place["repository"], **request)
    )
    return bool(answer and answer["imageDetails"])


def _has_bucket(account: Account, bucket: str) -> bool:
    return _or_none(lambda: account.client("s3").head_bucket(Bucket=bucket)) is not None


def _quota(account: Account, quota: Quota, now: Callable[[], datetime]) -> QuotaFact | None:
    service = account.client("service-quotas")
    asked_for = {"ServiceCode": quota.service, "QuotaCode": quota.code}
    # An account that was never given another value has none of its own: then AWS' default holds.
    answer = _or_none(lambda: service.get_service_quota(**asked_for)) or _or_none(
        lambda: service.get_aws_default_service_quota(**asked_for)
    )
    return None if answer is None else _quota_fact(account, quota, answer["Quota"], now)


def _named_quotas(account: Account, quotas: list[Quota], now: Callable[[], datetime]) -> dict[Quota, QuotaFact]:
    """Those that exist; the account's own values before AWS' defaults."""
    service = account.client("service-quotas")
    entries: dict[str, Any] = {}
    for method in ("list_service_quotas", "list_aws_default_service_quotas"):
        if all(entries.keys() & set(one.names) for one in quotas):
            break
        for page in service.get_paginator(method).paginate(ServiceCode=quotas[0].service):
            entries = {one["QuotaName"]: one for one in page["Quotas"]} | entries
    found: dict[Quota, QuotaFact] = {}
    for quota in quotas:
        if name := next((one for one in quota.names if one in entries), None):
            found[quota] = _quota_fact(account, quota, entries[name], now)
    return found


def _quota_fact(account: Account, quota: Quota, entry: Mapping[str, Any], now: Callable[[], datetime]) -> QuotaFact:
    prefix = "ec2" if quota in (ELASTIC_IPS, VPCS) else "cloudwatch"
    used = asked_here(prefix, lambda: _used(account, quota, entry, now), f"use of {entry['QuotaName']}")
    return QuotaFact(
        entry["QuotaCode"], entry["QuotaName"], float(entry["Value"]), used, bool(entry.get("Adjustable", True))
    )


def asked_here(prefix: str, question: Callable[[], Any], name: str) -> Any:
    """The answer on this thread, or why there is none."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - what is not AWS' is raised again
        return not_known(error, prefix, name)


def _used(account: Account, quota: Quota, entry: Mapping[str, Any], now: Callable[[], datetime]) -> float | None:
    """What counts against it now."""
    if quota == ELASTIC_IPS:
        return float(len(account.client("ec2").describe_addresses()["Addresses"]))
    if quota == VPCS:
        pages = account.client("ec2").get_paginator("describe_vpcs").paginate()
        return float(sum(len(page["Vpcs"]) for page in pages))
    metric = entry.get("UsageMetric")
    if not metric:
        return None
    statistic = metric.get("MetricStatisticRecommendation", "Maximum")
    moment = now()
    points = account.client("cloudwatch").get_metric_statistics(
        Namespace=metric["MetricNamespace"],
        MetricName=metric["MetricName"],
        Dimensions=[{"Name": name, "Value": value} for name, value in sorted(metric["MetricDimensions"].items())],
        StartTime=moment - _USE_WINDOW,
        EndTime=moment,
        Period=_USE_PERIOD_SECONDS,
        Statistics=[statistic],
    )["Datapoints"]
    # Where nothing runs, nothing is published.
    return float(max(points, key=lambda one: one["Timestamp"])[statistic]) if points else 0.0


def _or_none(call: Callable[[], Any]) -> Any:
    """The answer, or None where AWS says that there is no such thing."""
    try:
        return call()
    except Exception as error:
        if error_code(error) in _MISSING:
            return None
        raise
