"""What has to be empty before AWS lets it go: buckets with all versions, repositories, vaults, groups of models.

What there is comes from the plan that destroys it, so nothing else can be emptied by mistake. A database has to leave a
last snapshot, and cannot where an earlier one has that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_llm.cloud.aws_errors import explained
from nexus_llm.errors import DeploymentError

Clients = Callable[[str, str], Any]
"""Service and region → boto3's client."""
LAST_SNAPSHOT = "last snapshot"
_KINDS = {
    "aws_s3_bucket": ("bucket", "bucket"),
    "aws_ecr_repository": ("repository", "name"),
    "aws_backup_vault": ("vault", "name"),
    "aws_sagemaker_model_package_group": ("model group", "model_package_group_name"),
    "aws_rds_cluster": (LAST_SNAPSHOT, "final_snapshot_identifier"),
}
_Request = tuple[str, str, str, str, Callable[[Any], list[Any]]]
"""Service, paginator, its argument for the name, IAM's action, and what a page holds."""
_LISTS: Mapping[str, _Request] = {
    "bucket": (
        "s3", "list_object_versions", "Bucket", "s3:ListBucketVersions",
        lambda page: [
            {"Key": one["Key"], "VersionId": one["VersionId"]}
            for one in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
        ],
    ),
    "repository": ("ecr", "list_images", "repositoryName", "ecr:ListImages", lambda page: list(page["imageIds"])),
    "vault": (
        "backup", "list_recovery_points_by_backup_vault", "BackupVaultName", "backup:ListRecoveryPointsByBackupVault",
        lambda page: [one["RecoveryPointArn"] for one in page["RecoveryPoints"]],
    ),
    "model group": (
        "sagemaker", "list_model_packages", "ModelPackageGroupName", "sagemaker:ListModelPackages",
        lambda page: [one["ModelPackageArn"] for one in page["ModelPackageSummaryList"]],
    ),
    LAST_SNAPSHOT: (
        "rds", "describe_db_cluster_snapshots", "Filters", "rds:DescribeDBClusterSnapshots",
        lambda page: [one["DBClusterSnapshotIdentifier"] for one in page["DBClusterSnapshots"]],
    ),
}  # fmt: skip
_AT_ONCE = {"bucket": 1000, "repository": 100}  # what S3 and ECR delete in one request


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Something that keeps data and is about to be destroyed."""

    kind: str
    """`bucket`, `repository`, `vault`, `model group` or `last snapshot` (of a database)."""
    name: str
    region: str


def holders(plan: Mapping[str, Any], *, region: str) -> list[Holder]:
    """What a destroying plan (`terraform show -json`) would destroy that may hold data, sorted.

    `region` is the one of everything whose ARN names none.
    """
    found = []
    for one in plan.get("resource_changes", []):
        if one["type"] in _KINDS and "delete" in one["change"]["actions"]:
            kind, name = _KINDS[one["type"]]
            values = one["change"]["before"]
            if not values.get(name):  # a database that leaves no snapshot
                continue
            # A bucket's ARN names no region, but the bucket does.
            place = values.get("region") or next(iter(str(values.get("arn")).split(":")[3:4]), "")
            found.append(Holder(kind, str(values[name]), place or region))
    return sorted(found)


def refuse_data(found: list[Holder], clients: Clients) -> None:
    """Nothing, where all of them are empty: asked before anything is destroyed."""
    full = [one for one in found if any(_batches(one, clients))]
    if full:
        names = ", ".join(f"{one.kind} {one.name}" for one in full)
        raise DeploymentError(
            f"{names}: data in {'it' if len(full) == 1 else 'them'} would be lost, so nothing was destroyed",
            fix="copy what you need, then add --yes-delete-data",
        )


def emptied(holder: Holder, clients: Clients) -> int:
    """How many versions, images, recovery points or snapshots were deleted; it is empty afterwards."""
    count = 0
    for batch in _batches(holder, clients):
        count += _delete(holder, batch, clients)
    return count


def _batches(holder: Holder, clients: Clients) -> Iterator[list[Any]]:
    """What it holds, in as many pieces as one request may delete."""
    service, call, argument, action, held = _LISTS[holder.kind]
    asked: dict[str, Any] = {argument: holder.name, "PaginationConfig": {"PageSize": _AT_ONCE.get(holder.kind)}}
    if holder.kind == "model group":
        asked["ModelPackageType"] = "Versioned"
    if holder.kind == LAST_SNAPSHOT:  # one that is not there is an error where it is asked for by its id
        asked[argument] = [{"Name": "db-cluster-snapshot-id", "Values": [holder.name]}]
    with explained(action, holder.name):
        pages = clients(service, holder.region).get_paginator(call).paginate(**asked)
        yield from (batch for page in pages if (batch := held(page)))


def _delete(holder: Holder, batch: list[Any], clients: Clients) -> int:
    refused: list[dict[str, Any]] = []
    client = clients(_LISTS[holder.kind][0], holder.region)
    if holder.kind == "bucket":
        with explained("s3:DeleteObjectVersion", holder.name):
            answer = client.delete_objects(Bucket=holder.name, Delete={"Objects": batch, "Quiet": True})
        refused = answer.get("Errors", [])
    elif holder.kind == "repository":
        with explained("ecr:BatchDeleteImage", holder.name):
            answer = client.batch_delete_image(repositoryName=holder.name, imageIds=batch)
        # An index is deleted before the images in it: those of the next page go then.
        refused = [
            {"Key": one["imageId"], "Message": one["failureReason"]}
            for one in answer.get("failures", [])
            if one["failureCode"] != "ImageReferencedByManifestList"
        ]
    elif holder.kind == "model group":
        for version in batch:
            with explained("sagemaker:DeleteModelPackage", version):
                client.delete_model_package(ModelPackageName=version)
    elif holder.kind == LAST_SNAPSHOT:
        for snapshot in batch:
            with explained("rds:DeleteDBClusterSnapshot", snapshot):
                client.delete_db_cluster_snapshot(DBClusterSnapshotIdentifier=snapshot)
    else:
        for point in batch:
            with explained("backup:DeleteRecoveryPoint", point):
                client.delete_recovery_point(BackupVaultName=holder.name, RecoveryPointArn=point)
    if refused:
        first = refused[0]
        raise DeploymentError(
            f"{holder.kind} {holder.name}: {first['Key']} cannot be deleted ({first.get('Message')})",
            fix="wait until its lock has run out, then run the same command again",
        )
    return len(batch)
