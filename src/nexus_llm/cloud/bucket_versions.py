"""A bucket's objects as they were at a moment, by the old versions that S3 keeps (`keep_versions_days` of infra/).

What was deleted loses its delete markers, which moves no byte; what was overwritten is copied over inside S3. Newer
objects stay. Source: S3 user guide, "Retrieving object versions", "Managing delete markers" (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from nexus_llm.cloud.aws_errors import explained
from nexus_llm.errors import StorageError

Change = Literal["undeleted", "put back", "newer, left alone"]


@dataclass(frozen=True, slots=True)
class Rewound:
    """What becomes of one object."""

    key: str
    change: Change
    version: str
    """The version that is in force again, or stays."""
    markers: tuple[str, ...] = ()
    """Delete markers that lie above it."""


def plan_rewind(s3: Any, bucket: str, prefix: str, *, moment: datetime) -> list[Rewound]:
    """What would have to happen so that every object is as it was at `moment` (aware), sorted by key.

    S3 tells times in whole seconds.

    Raises:
        StorageError: the bucket keeps no versions, is not there, or refuses.
    """
    with explained("s3:GetBucketVersioning", bucket):
        status = s3.get_bucket_versioning(Bucket=bucket).get("Status")
    if status is None:
        raise StorageError(f"{bucket} keeps no versions of its objects", fix="restore from a backup: nexus restore")
    entries: dict[str, list[dict[str, Any]]] = {}
    with explained("s3:ListBucketVersions", bucket):
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for kind in ("Versions", "DeleteMarkers"):
                for one in page.get(kind, []):
                    entries.setdefault(one["Key"], []).append({**one, "is_marker": kind == "DeleteMarkers"})
    found = (_rewound(key, versions, moment) for key, versions in sorted(entries.items()))
    return [one for one in found if one is not None]


def rewind(s3: Any, bucket: str, planned: Sequence[Rewound]) -> None:
    """Does what was planned."""
    for one in planned:
        if one.change == "undeleted":
            for marker in one.markers:
                with explained("s3:DeleteObjectVersion", f"{bucket}/{one.key}"):
                    s3.delete_object(Bucket=bucket, Key=one.key, VersionId=marker)
        elif one.change == "put back":
            source = {"Bucket": bucket, "Key": one.key, "VersionId": one.version}
            with explained("s3:GetObjectVersion", f"{bucket}/{one.key}"):
                s3.copy(source, bucket, one.key)  # in parts above what one request may copy (5 GB)


def _rewound(key: str, versions: list[dict[str, Any]], moment: datetime) -> Rewound | None:
    """None where the object is as it was, or was not there and is not there."""
    # Of one second's versions S3 lists the newer first; sorting keeps that order.
    newest_first = sorted(versions, key=lambda one: one["LastModified"], reverse=True)
    latest = next((one for one in newest_first if one["IsLatest"]), newest_first[0])
    wanted = next((one for one in newest_first if one["LastModified"] <= moment), None)
    if wanted is None or wanted["is_marker"]:
        return None if latest["is_marker"] else Rewound(key, "newer, left alone", latest["VersionId"])
    if wanted["VersionId"] == latest["VersionId"]:
        return None
    above = newest_first[: newest_first.index(wanted)]
    if all(one["is_marker"] for one in above):
        return Rewound(key, "undeleted", wanted["VersionId"], tuple(one["VersionId"] for one in above))
    return Rewound(key, "put back", wanted["VersionId"])
