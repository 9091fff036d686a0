"""Puts into a bucket what a cloud job needs, and what it made."""

from __future__ import annotations

from pathlib import Path

from nexus_llm.artifacts import MANIFEST, Artifact
from nexus_llm.storage import explained, filesystem_of


def upload_file(path: Path, url: str) -> str:
    """Puts one local file at `url` and gives that back.

    Raises:
        StorageError: the bucket refuses.
    """
    filesystem, target = filesystem_of(url)
    with explained(url):
        # A bucket has no folders; asked for one, s3fs would make the bucket where it may not see it.
        if not url.startswith("s3://"):
            filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        filesystem.put_file(str(path), target)
    return url


def upload_artifact(artifact: Artifact, prefix: str) -> str:
    """Puts an artifact below `prefix` as `<kind>/<key>/…` and gives its URL; the manifest goes last, as on a disk.

    Raises:
        StorageError: the bucket refuses.
    """
    url = f"{prefix.rstrip('/')}/{artifact.kind}/{artifact.key}"
    for entry in artifact.manifest.files:
        upload_file(artifact.folder / entry.path, f"{url}/{entry.path}")
    upload_file(artifact.folder / MANIFEST, f"{url}/{MANIFEST}")
    return url
