"""What is still in an account after all was taken down: asked of each service that costs, and by tag of all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nexus_llm.cloud.aws_errors import error_of
from nexus_llm.cloud.data_jobs import dpus
from nexus_llm.cost.money import HOURS_PER_MONTH, Unit
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.deploy.receipt import Leftover
from nexus_llm.errors import CostError, NexusError

Clients = Callable[[str, str], Any]
"""Service and region → boto3's client."""
DATABASE = "database cluster"
# Kinds that the tagging API still lists when they are gone or cost nothing for ever, and why.
_NOTHING = {
    "ecs:task-definition": "deregistered ones stay listed and cost nothing",
    "ec2:security-group-rule": "goes with its group",
    "batch:job": "AWS terminates it when its queue is deleted (Batch API reference, DeleteJobQueue, read 2026-11)",
    "sagemaker:model": "names an image and files in a bucket; it costs nothing by itself",
}
_UNDER_WAY = ("InProgress", "Stopping")  # of SageMaker's jobs; the record of one that ended stays and costs nothing
_GLUE_UNDER_WAY = frozenset({"RUNNING", "STARTING", "STOPPING", "WAITING"})
_NEWEST_RUNS = 20


@dataclass(frozen=True, slots=True)
class _Found:
    """One thing as its service describes it."""

    id: str
    note: str = ""
    price: tuple[str, str, float, Unit] | None = None
    """Service, SKU, amount and unit of one hour of it; None: not known here."""
    is_free: bool = False


@dataclass(frozen=True, slots=True)
class _Search:
    """How one service is asked."""

    kind: str
    service: str
    call: str
    arns: str
    """`service:type` of its ARNs: what the tagging API says of them is not needed."""
    ask: Callable[[Any, str], Iterable[_Found]]


@dataclass
class Rescan:
    """What was found."""

    left: list[Leftover] = field(default_factory=list)
    pending: list[Leftover] = field(default_factory=list)
    """Keys that wait for their deletion."""
    not_asked: list[str] = field(default_factory=list)


def last_snapshot(name: str) -> str:
    """What a platform's database leaves when it goes; named in modules/serving-database."""
    return f"{name}-keys-final"


def rescan(name: str, regions: Iterable[str], clients: Clients, pricing: Pricing) -> Rescan:
    """Everything of platform `name` that is still in these regions."""
    result = Rescan()
    for region in sorted(set(regions)):
        for search in _SEARCHES:
            try:
                found = list(search.ask(clients(search.service, region), name))
            except Exception as error:  # noqa: BLE001 - whatever a service says, the others are asked, and it is named
                result.not_asked.append(f"{search.call} in {region}: {_words(error, search.call, name)}")
                continue
            result.left += [Leftover(search.kind, one.id, _usd(one, pricing), one.note) for one in found]
        _by_tag(name, region, clients, result)
    result.left.sort()
    result.pending.sort()
    return result


def _by_tag(name: str, region: str, clients: Clients, result: Rescan) -> None:
    """Adds what no search of a service covers."""
    covered = {search.arns for search in _SEARCHES}
    try:
        pages = clients("resourcegroupstaggingapi", region).get_paginator("get_resources")
        found = [
            one["ResourceARN"]
            for page in pages.paginate(TagFilters=[{"Key": "platform", "Values": [name]}])
            for one in page["ResourceTagMappingList"]
        ]
        for arn in sorted(found):
            kind = _kind(arn)
            if kind == "kms:key":
                _add_key(arn, clients("kms", region), result)
            elif kind not in covered and kind not in _NOTHING:
                result.left.append(Leftover(kind, arn, None, "found by its tag"))
    except Exception as error:  # noqa: BLE001
        call = "tag:GetResources"
        result.not_asked.append(f"{call} in {region}: {_words(error, call, name)}")


def _add_key(arn: str, kms: Any, result: Rescan) -> None:
    described = kms.describe_key(KeyId=arn)["KeyMetadata"]
    if described["KeyState"] in {"PendingDeletion", "PendingReplicaDeletion"}:
        date = described.get("DeletionDate")
        result.pending.append(Leftover("KMS key", arn, 0.0, f"gone on {date:%Y-%m-%d}" if date else ""))
    else:
        result.left.append(Leftover("KMS key", arn, 1.0 / HOURS_PER_MONTH, "1 USD a month (AWS KMS pricing, 2026-11)"))


def _kind(arn: str) -> str:
    """`ec2:natgateway` of an ARN.

    >>> _kind("arn:aws:ec2:eu-central-1:123456789012:natgateway/nat-1"), _kind("arn:aws:sns:eu-central-1:1:alerts")
    ('ec2:natgateway', 'sns')
    """
    _, _, service, _, _, rest = arn.split(":", 5)
    kind = rest.replace(":", "/").strip("/").split("/")[0]  # EMR Serverless' begin with a slash
    return service if kind == rest else f"{service}:{kind}"


def _usd(found: _Found, pricing: Pricing) -> float | None:
    if found.is_free:
        return 0.0
    if found.price is None:
        return None
    service, sku, amount, unit = found.price
    try:
        return pricing.line(sku, service, sku, amount, unit).usd
    except CostError:
        return None


def _words(error: Exception, call: str, name: str) -> str:
    """What the service said, in one line, without a stack."""
    try:
        explained = error if isinstance(error, NexusError) else error_of(error, call, name)
    except Exception as other:  # noqa: BLE001 - error_of raises again what is not AWS'
        return f"{type(other).__name__}"
    return explained.what


def _pages(client: Any, call: str, key: str, **arguments: Any) -> Iterator[Any]:
    if client.can_paginate(call):
        for page in client.get_paginator(call).paginate(**arguments):
            yield from page[key]
    else:
        yield from getattr(client, call)(**arguments)[key]


def _tagged(name: str) -> list[dict[str, Any]]:
    return [{"Name": "tag:platform", "Values": [name]}]


def _nat_gateways(ec2: Any, name: str) -> Iterator[_Found]:
    for one in _pages(ec2, "describe_nat_gateways", "NatGateways", Filters=_tagged(name)):
        if one["State"] not in {"deleted", "deleting", "failed"}:
            yield _Found(one["NatGatewayId"], price=("nat", "hour", 1, Unit.HOUR))


def _addresses(ec2: Any, name: str) -> Iterator[_Found]:
    for one in ec2.describe_addresses(Filters=_tagged(name))["Addresses"]:
        yield _Found(one["AllocationId"], one["PublicIp"], ("public-ipv4", "hour", 1, Unit.HOUR))


def _volumes(ec2: Any, name: str) -> Iterator[_Found]:
    for one in _pages(ec2, "describe_volumes", "Volumes", Filters=_tagged(name)):
        gib_months = one["Size"] / HOURS_PER_MONTH
        yield _Found(one["VolumeId"], f"{one['Size']} GiB", ("ebs", one["VolumeType"], gib_months, Unit.GB_MONTH))


def _interfaces(ec2: Any, name: str) -> Iterator[_Found]:
    for one in _pages(ec2, "describe_network_interfaces", "NetworkInterfaces", Filters=_tagged(name)):
        yield _Found(one["NetworkInterfaceId"], one.get("Description", ""), is_free=True)


def _instances(ec2: Any, name: str) -> Iterator[_Found]:
    for reservation in _pages(ec2, "describe_instances", "Reservations", Filters=_tagged(name)):
        for one in reservation["Instances"]:
            if one["State"]["Name"] in {"pending", "running"}:
                purchase = "spot" if one.get("InstanceLifecycle") == "spot" else "on-demand"
                price = ("ec2", f"{one['InstanceType']} {purchase}", 1.0, Unit.HOUR)
                yield _Found(one["InstanceId"], one["InstanceType"], price)
            elif one["State"]["Name"] in {"stopping", "stopped"}:
                yield _Found(one["InstanceId"], "stopped: its disks cost", is_free=True)


def _vpc_endpoints(ec2: Any, name: str) -> Iterator[_Found]:
    for one in _pages(ec2, "describe_vpc_endpoints", "VpcEndpoints", Filters=_tagged(name)):
        if one["State"].lower() in {"deleted", "deleting"}:
            continue
        zones = len(one.get("SubnetIds", [])) or 1
        is_free = one.get("VpcEndpointType") == "Gateway"
        yield _Found(one["VpcEndpointId"], one["ServiceName"], ("vpc-endpoint", "hour", zones, Unit.HOUR), is_free)


def _load_balancers(elb: Any, name: str) -> Iterator[_Found]:
    for one in _pages(elb, "describe_load_balancers", "LoadBalancers"):
        if _is_ours(one["LoadBalancerName"], name):
            yield _Found(one["LoadBalancerArn"], price=("alb", "hour", 1, Unit.HOUR))


def _services(ecs: Any, name: str) -> Iterator[_Found]:
    for cluster in _pages(ecs, "list_clusters", "clusterArns"):
        if _is_ours(cluster.rpartition("/")[2], name):
            for arn in _pages(ecs, "list_services", "serviceArns", cluster=cluster):
                yield _Found(arn, "its tasks cost by the hour")


def _endpoints(sagemaker: Any, name: str) -> Iterator[_Found]:
    for one in _pages(sagemaker, "list_endpoints", "Endpoints", NameContains=name):
        if _is_ours(one["EndpointName"], name):
            yield _Found(one["EndpointArn"], "its machines cost by the hour")


def _applications(emr: Any, name: str) -> Iterator[_Found]:
    for one in _pages(emr, "list_applications", "applications"):
        if _is_ours(one.get("name", ""), name) and one["state"] != "TERMINATED":
            is_started = one["state"] == "STARTED"
            yield _Found(one["arn"], one["state"].lower(), is_free=not is_started)


def _jobs(word: str) -> Callable[[Any, str], Iterator[_Found]]:
    """SageMaker's jobs of one kind that still run. They are named after recipes, so their tags say whose they are."""

    def ask(sagemaker: Any, name: str) -> Iterator[_Found]:
        kind = word.lower()
        for status in _UNDER_WAY:
            for one in _pages(sagemaker, f"list_{kind}_jobs", f"{word}JobSummaries", StatusEquals=status):
                arn, job = one[f"{word}JobArn"], one[f"{word}JobName"]
                if {"Key": "platform", "Value": name} not in _pages(sagemaker, "list_tags", "Tags", ResourceArn=arn):
                    continue
                found = getattr(sagemaker, f"describe_{kind}_job")(**{f"{word}JobName": job})
                machines = found.get("ResourceConfig") or found.get(f"{word}Resources", {})
                machines = machines.get("ClusterConfig", machines)
                sku, count = f"{machines.get('InstanceType')} {kind}", float(machines.get("InstanceCount", 1))
                yield _Found(arn, f"{status}: nexus jobs stop {kind}/{job}", ("sagemaker", sku, count, Unit.HOUR))

    return ask


def _glue_runs(glue: Any, name: str) -> Iterator[_Found]:
    """Runs that have not ended. A job's definition stays and costs nothing: `nexus data` makes one for each recipe."""
    for job in _pages(glue, "list_jobs", "JobNames", Tags={"platform": name}):
        for run in glue.get_job_runs(JobName=job, MaxResults=_NEWEST_RUNS)["JobRuns"]:
            if run["JobRunState"] in _GLUE_UNDER_WAY:
                price = ("glue", "dpu", dpus(run), Unit.DPU_HOUR)
                yield _Found(f"{job}/{run['Id']}", f"nexus jobs stop glue/{job}/{run['Id']}", price)


def _databases(rds: Any, name: str) -> Iterator[_Found]:
    for one in _pages(rds, "describe_db_instances", "DBInstances"):
        if _is_ours(one["DBInstanceIdentifier"], name):
            yield _Found(one["DBInstanceArn"], one["DBInstanceClass"])


def _database_clusters(rds: Any, name: str) -> Iterator[_Found]:
    for one in _pages(rds, "describe_db_clusters", "DBClusters"):
        if _is_ours(one["DBClusterIdentifier"], name):
            yield _Found(one["DBClusterArn"], "its storage costs")


def _database_snapshots(rds: Any, name: str) -> Iterator[_Found]:
    for one in _pages(rds, "describe_db_cluster_snapshots", "DBClusterSnapshots"):
        if _is_ours(one["DBClusterIdentifier"], name):
            note = f"{one['AllocatedStorage']} GiB"
            if one["DBClusterSnapshotIdentifier"] == last_snapshot(name):
                note += ", kept while its key is: --yes-delete-data deletes it"
            price = ("aurora", "backup-storage", one["AllocatedStorage"] / HOURS_PER_MONTH, Unit.GB_MONTH)
            yield _Found(one["DBClusterSnapshotArn"], note, price)


def _log_groups(logs: Any, name: str) -> Iterator[_Found]:
    for one in _pages(logs, "describe_log_groups", "logGroups"):
        if any(_is_ours(part, name) for part in one["logGroupName"].split("/")):
            gib_months = one.get("storedBytes", 0) / 1e9 / HOURS_PER_MONTH
            price = ("cloudwatch", "log-storage", gib_months, Unit.GB_MONTH)
            yield _Found(one["arn"], f"{one.get('storedBytes', 0)} bytes", price, is_free=not one.get("storedBytes"))


def _is_ours(found: str, name: str) -> bool:
    """Whether a name is the platform's or begins with it: `nexus-small-api`, but not `nexus-smaller`.

    >>> _is_ours("nexus-small-api", "nexus-small"), _is_ours("nexus-smaller", "nexus-small")
    (True, False)
    """
    return found == name or found.startswith(f"{name}-")


_SEARCHES = (
    _Search("NAT gateway", "ec2", "ec2:DescribeNatGateways", "ec2:natgateway", _nat_gateways),
    _Search("public address", "ec2", "ec2:DescribeAddresses", "ec2:elastic-ip", _addresses),
    _Search("instance", "ec2", "ec2:DescribeInstances", "ec2:instance", _instances),
    _Search("disk", "ec2", "ec2:DescribeVolumes", "ec2:volume", _volumes),
    _Search("network interface", "ec2", "ec2:DescribeNetworkInterfaces", "ec2:network-interface", _interfaces),
    _Search("VPC endpoint", "ec2", "ec2:DescribeVpcEndpoints", "ec2:vpc-endpoint", _vpc_endpoints),
    _Search(
        "load balancer", "elbv2", "elasticloadbalancing:DescribeLoadBalancers",
        "elasticloadbalancing:loadbalancer", _load_balancers,
    ),
    _Search("ECS service", "ecs", "ecs:ListServices", "ecs:service", _services),
    _Search("SageMaker endpoint", "sagemaker", "sagemaker:ListEndpoints", "sagemaker:endpoint", _endpoints),
    _Search("training job", "sagemaker", "sagemaker:ListTrainingJobs", "sagemaker:training-job", _jobs("Training")),
    _Search(
        "processing job", "sagemaker", "sagemaker:ListProcessingJobs", "sagemaker:processing-job", _jobs("Processing")
    ),
    _Search("transform job", "sagemaker", "sagemaker:ListTransformJobs", "sagemaker:transform-job", _jobs("Transform")),
    _Search("Glue run", "glue", "glue:ListJobs", "glue:job", _glue_runs),
    _Search(
        "EMR application", "emr-serverless", "emr-serverless:ListApplications",
        "emr-serverless:applications", _applications,
    ),
    _Search("database", "rds", "rds:DescribeDBInstances", "rds:db", _databases),
    _Search(DATABASE, "rds", "rds:DescribeDBClusters", "rds:cluster", _database_clusters),
    _Search(
        "database snapshot", "rds", "rds:DescribeDBClusterSnapshots", "rds:cluster-snapshot", _database_snapshots
    ),
    _Search("log group", "logs", "logs:DescribeLogGroups", "logs:log-group", _log_groups),
)  # fmt: skip
