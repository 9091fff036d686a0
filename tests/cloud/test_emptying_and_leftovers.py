"""What is emptied is what the plan destroys, all versions of it; what is left is asked of every service."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from nexus_llm.cloud.emptying import Holder, emptied, holders, refuse_data
from nexus_llm.cloud.leftovers import last_snapshot, rescan
from nexus_llm.cloud.taking_down import TakingDown
from nexus_llm.cloud.terraform import Planned
from nexus_llm.cost.money import Unit
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.deploy.stack import STAGES, Deployment, Stage
from nexus_llm.errors import DeploymentError

if TYPE_CHECKING:
    from nexus_llm.cloud.stack_life import StackLife
    from nexus_llm.deploy.receipt import Receipt

REGION = "us-east-1"
PRICING = Pricing(PriceTable.shipped(), REGION)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    moto = pytest.importorskip("moto", reason="needs the dev extra")
    import boto3

    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        session = boto3.session.Session()
        yield functools.cache(lambda service, region: session.client(service, region_name=region))


def destroys(*resources: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "resource_changes": [
            {"type": kind, "address": "x", "change": {"actions": ["delete"], "before": values, "after": None}}
            for kind, values in resources
        ]
    }


def test_only_what_the_plan_destroys_can_be_emptied_each_in_its_own_region() -> None:
    plan = destroys(
        ("aws_s3_bucket", {"bucket": "copy", "region": "eu-west-1", "arn": "arn:aws:s3:::copy"}),
        ("aws_ecr_repository", {"name": "train", "arn": "arn:aws:ecr:eu-central-1:123456789012:repository/train"}),
        ("aws_backup_vault", {"name": "v", "arn": "arn:aws:backup:eu-west-1:123456789012:backup-vault:v"}),
        ("aws_sns_topic", {"name": "t"}),
        ("aws_rds_cluster", {"final_snapshot_identifier": "keys-final", "arn": "arn:aws:rds:eu-central-1:1:cluster:k"}),
        ("aws_rds_cluster", {"final_snapshot_identifier": None, "arn": "arn:aws:rds:eu-central-1:1:cluster:m"}),
    )
    kept = {"type": "aws_s3_bucket", "change": {"actions": ["update"], "before": {"bucket": "kept"}}}
    plan["resource_changes"].append(kept)
    assert holders(plan, region="eu-central-1") == [
        Holder("bucket", "copy", "eu-west-1"),
        Holder("last snapshot", "keys-final", "eu-central-1"),
        Holder("repository", "train", "eu-central-1"),
        Holder("vault", "v", "eu-west-1"),
    ]


def test_a_bucket_is_empty_only_without_its_old_versions_and_markers(clients: Any) -> None:
    s3 = clients("s3", REGION)
    s3.create_bucket(Bucket="data")
    s3.put_bucket_versioning(Bucket="data", VersioningConfiguration={"Status": "Enabled"})
    for _ in range(2):
        s3.put_object(Bucket="data", Key="corpus", Body=b"text")
    s3.delete_object(Bucket="data", Key="corpus")
    holder = Holder("bucket", "data", REGION)
    with pytest.raises(DeploymentError, match="bucket data: data in it would be lost, so nothing was destroyed"):
        refuse_data([holder], clients)
    assert emptied(holder, clients) == 3
    assert emptied(holder, clients) == 0
    s3.delete_bucket(Bucket="data")


def test_an_object_that_is_locked_is_named_and_not_passed_over(clients: Any) -> None:
    class Locked:
        def __init__(self) -> None:
            self.real = clients("s3", REGION)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def delete_objects(self, **_: Any) -> Any:
            return {"Errors": [{"Key": "trail/1", "Code": "AccessDenied", "Message": "object is WORM protected"}]}

    clients("s3", REGION).create_bucket(Bucket="audit")
    clients("s3", REGION).put_bucket_versioning(Bucket="audit", VersioningConfiguration={"Status": "Enabled"})
    clients("s3", REGION).put_object(Bucket="audit", Key="trail/1", Body=b"")
    with pytest.raises(DeploymentError, match=r"bucket audit: trail/1 cannot be deleted \(object is WORM protected\)"):
        emptied(Holder("bucket", "audit", REGION), lambda service, region: Locked())


def test_images_go_with_their_repository(clients: Any) -> None:
    import json

    ecr = clients("ecr", REGION)
    ecr.create_repository(repositoryName="train")
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {"digest": "sha256:1"}, "layers": []}
    ecr.put_image(repositoryName="train", imageManifest=json.dumps(manifest), imageTag="0.1.0")
    assert emptied(Holder("repository", "train", REGION), clients) == 1
    assert emptied(Holder("repository", "train", REGION), clients) == 0


def test_leftovers_are_priced_by_the_hour_and_a_key_that_waits_costs_nothing(clients: Any) -> None:
    ours = [{"Key": "platform", "Value": "nexus-small"}]
    ec2 = clients("ec2", REGION)
    volume = ec2.create_volume(
        AvailabilityZone=f"{REGION}a", Size=730, VolumeType="gp3",
        TagSpecifications=[{"ResourceType": "volume", "Tags": ours}],
    )["VolumeId"]  # fmt: skip
    ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8)  # somebody else's
    kms = clients("kms", REGION)
    gone, kept = (kms.create_key(Tags=[{"TagKey": "platform", "TagValue": "nexus-small"}]) for _ in range(2))
    kms.schedule_key_deletion(KeyId=gone["KeyMetadata"]["KeyId"], PendingWindowInDays=30)
    clients("logs", REGION).create_log_group(logGroupName="/nexus-small/api")
    clients("logs", REGION).create_log_group(logGroupName="/nexus-smaller/api")
    topic = clients("sns", REGION).create_topic(Name="any", Tags=ours)["TopicArn"]

    found = rescan("nexus-small", [REGION], clients, PRICING)
    left = {one.id: one.usd_per_hour for one in found.left}
    assert left[volume] == pytest.approx(PRICING.line("disk", "ebs", "gp3", 1, Unit.GB_MONTH).usd)  # 730 GiB
    assert left[kept["KeyMetadata"]["Arn"]] == pytest.approx(1 / 730)
    assert left[topic] is None
    assert [one.note for one in found.left if one.kind == "log group"] == ["0 bytes"]
    assert len(left) == 4
    assert [one.id for one in found.pending] == [gone["KeyMetadata"]["Arn"]]
    assert found.not_asked == []


def test_a_job_that_runs_is_left_over_and_one_that_ended_is_not(clients: Any) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.sagemaker.models import sagemaker_backends

    sagemaker, machines = clients("sagemaker", REGION), {"InstanceType": "ml.g5.12xlarge", "InstanceCount": 2}
    for name, owner in (("running", "nexus-small"), ("ended", "nexus-small"), ("of-others", "nexus-smaller")):
        sagemaker.create_training_job(
            TrainingJobName=name,
            RoleArn="arn:aws:iam::123456789012:role/r",
            AlgorithmSpecification={"TrainingImage": "train:1", "TrainingInputMode": "File"},
            OutputDataConfig={"S3OutputPath": "s3://models/out"},
            ResourceConfig={**machines, "VolumeSizeInGB": 30},
            StoppingCondition={"MaxRuntimeInSeconds": 3600},
            Tags=[{"Key": "platform", "Value": owner}],
        )
    for name in ("running", "of-others"):  # moto's jobs are finished when they begin
        sagemaker_backends[DEFAULT_ACCOUNT_ID][REGION].training_jobs[name].training_job_status = "InProgress"
    clients("glue", REGION).create_job(
        Name="data", Role="r", Command={"Name": "glueetl"}, Tags={"platform": "nexus-small"}
    )
    workers = {"WorkerType": "G.2X", "NumberOfWorkers": 5}
    runs = [{"Id": "jr_1", "JobRunState": "SUCCEEDED", **workers}, {"Id": "jr_2", "JobRunState": "RUNNING", **workers}]

    class Glue:  # moto's runs end when somebody asks for them
        def __getattr__(self, name: str) -> Any:
            return getattr(clients("glue", REGION), name)

        def get_job_runs(self, JobName: str, **_: Any) -> Any:
            return {"JobRuns": runs if JobName == "data" else []}

    def account(service: str, region: str) -> Any:
        return Glue() if service == "glue" else clients(service, region)

    left = {one.id: one for one in rescan("nexus-small", [REGION], account, PRICING).left}
    assert {one.kind for one in left.values()} == {"training job", "Glue run"}
    assert len(left) == 2
    (job,) = (one for one in left.values() if one.kind == "training job")
    assert (job.id.rpartition("/")[2], job.note) == ("running", "InProgress: nexus jobs stop training/running")
    hourly = PRICING.table.lookup("sagemaker", "ml.g5.12xlarge training", REGION).usd
    assert job.usd_per_hour == pytest.approx(2 * hourly)
    assert left["data/jr_2"].usd_per_hour == pytest.approx(10 * 0.44)


def test_a_service_that_refuses_to_answer_is_named_and_the_others_are_asked(clients: Any) -> None:
    from botocore.exceptions import ClientError

    def some(service: str, region: str) -> Any:
        if service == "rds":
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeDBInstances")
        return clients(service, region)

    clients("ec2", REGION).allocate_address(
        TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": [{"Key": "platform", "Value": "nexus-small"}]}]
    )
    found = rescan("nexus-small", [REGION], some, PRICING)
    assert [one.kind for one in found.left] == ["public address"]
    assert [one.split(":")[1] for one in found.not_asked] == [
        "DescribeDBInstances in us-east-1",
        "DescribeDBClusters in us-east-1",
        "DescribeDBClusterSnapshots in us-east-1",
    ]


class ServingAlone:
    """A platform of one database, whose Terraform destroys as modules/serving-database does."""

    def __init__(self, clients: Any) -> None:
        self.deployment = Deployment("nexus-small", "small", "123456789012", REGION, (f"{REGION}a",))
        self.rds = clients("rds", REGION)
        tags = [{"Key": "platform", "Value": "nexus-small"}]
        self.rds.create_db_cluster(
            DBClusterIdentifier="nexus-small-keys", Engine="aurora-postgresql", MasterUsername="nexus",
            MasterUserPassword="not-a-secret", Tags=tags, CopyTagsToSnapshot=True,
        )  # fmt: skip

    def kept(self) -> list[Stage]:
        return [STAGES[2]]

    def addresses(self, stage: Stage) -> list[str]:
        return [one["DBClusterIdentifier"] for one in self.rds.describe_db_clusters()["DBClusters"]]

    def plan(self, stage: Stage, *, destroy: bool) -> Planned:
        cluster = {
            "final_snapshot_identifier": last_snapshot("nexus-small"),
            "arn": f"arn:aws:rds:{REGION}:1:cluster:k",
        }
        return Planned(Path(), destroys(("aws_rds_cluster", cluster)))

    def apply(self, stage: Stage, planned: Planned) -> None:
        last = {"SkipFinalSnapshot": False, "FinalDBSnapshotIdentifier": last_snapshot("nexus-small")}
        self.rds.delete_db_cluster(DBClusterIdentifier="nexus-small-keys", **last)
        for one in self.rds.describe_db_cluster_snapshots(SnapshotType="automated")["DBClusterSnapshots"]:
            moto_keeps = one["DBClusterSnapshotIdentifier"]
            self.rds.delete_db_cluster_snapshot(DBClusterSnapshotIdentifier=moto_keeps)


def taken_down(life: ServingAlone, clients: Any, *, may_delete_data: bool) -> Receipt:
    work = TakingDown(cast("StackLife", life), clients, may_delete_data=may_delete_data)
    return work.run(work.plan(()), pricing=PRICING)


def test_the_databases_last_snapshot_is_kept_with_its_price_until_its_data_may_go(clients: Any) -> None:
    life = ServingAlone(clients)
    (kept,) = taken_down(life, clients, may_delete_data=False).left
    assert (kept.kind, kept.id.rpartition(":")[2]) == ("database snapshot", "nexus-small-keys-final")
    assert kept.usd_per_hour == pytest.approx(0.021 / 730)  # 1 GiB
    assert "kept while its key is: --yes-delete-data deletes it" in kept.note

    # The same command with the word for it, when all else is gone.
    receipt = taken_down(life, clients, may_delete_data=True)
    assert (receipt.left, receipt.not_asked) == ([], [])
    assert "last snapshot nexus-small-keys-final: 1 deleted" in receipt.lines()
    assert life.rds.describe_db_cluster_snapshots()["DBClusterSnapshots"] == []


def test_a_snapshot_of_an_earlier_life_stops_a_second_end_before_it_begins_or_goes_with_it(clients: Any) -> None:
    taken_down(ServingAlone(clients), clients, may_delete_data=False)
    life = ServingAlone(clients)
    with pytest.raises(DeploymentError, match="last snapshot nexus-small-keys-final: data in it would be lost"):
        taken_down(life, clients, may_delete_data=False)
    assert life.addresses(STAGES[2])  # nothing was destroyed
    receipt = taken_down(life, clients, may_delete_data=True)
    assert (receipt.left, receipt.emptied) == ([], {"last snapshot nexus-small-keys-final": 2})


def test_a_snapshot_that_may_not_be_deleted_is_left_and_the_receipt_names_the_action(clients: Any) -> None:
    from botocore.exceptions import ClientError

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return getattr(clients("rds", REGION), name)

        def delete_db_cluster_snapshot(self, **_: Any) -> Any:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DeleteDBClusterSnapshot")

    life = ServingAlone(clients)
    receipt = taken_down(life, lambda service, region: Refusing() if service == "rds" else clients(service, region),
                         may_delete_data=True)  # fmt: skip
    assert [one.kind for one in receipt.left] == ["database snapshot"]
    assert "not allowed: rds:DeleteDBClusterSnapshot" in receipt.not_asked[0]


def test_the_last_snapshot_is_called_as_terraform_calls_it() -> None:
    module = (Path(__file__).parents[2] / "infra/modules/serving-database/database.tf").read_text(encoding="utf-8")
    assert f'final_snapshot_identifier       = "{last_snapshot("${var.platform.name}")}"' in module
