"""Puts into a bucket what a cloud job needs, and what it made."""

from __future__ import annotations

from pathlib import Path

from nexus_llm.artifacts import MANIFEST, Artifact, Manifest, file_sha256
from nexus_llm.errors import NexusError
from nexus_llm.storage import copy_to, explained, filesystem_of


def upload_file(path: Path, url: str) -> str:
    """Puts one local file at `url` and gives that back."""
    filesystem, target = filesystem_of(url)
    with explained(url):
        # A bucket has no folders; asked for one, s3fs would make the bucket where it may not see it.
        if not url.startswith("s3://"):
            filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        filesystem.put_file(str(path), target)
    return url


def fetch_files(manifest: Manifest, url: str, folder: Path, *, error: type[NexusError]) -> None:
    """Brings the files of the artifact at `url` into `folder`.

    Raises:
        NexusError: an `error`, where one is not the file that the manifest names.
    """
    for entry in manifest.files:
        if file_sha256(copy_to(f"{url}/{entry.path}", folder / entry.path)) != entry.sha256:
            raise error(
                f"{url}/{entry.path} is not the file that its manifest names",
                fix="delete that prefix and run the same command again",
            )


def upload_artifact(artifact: Artifact, prefix: str) -> str:
    """Puts an artifact below `prefix` as `<kind>/<key>/…` and gives its URL; the manifest goes last, as on a disk."""
    url = f"{prefix.rstrip('/')}/{artifact.kind}/{artifact.key}"
    for entry in artifact.manifest.files:
        upload_file(artifact.folder / entry.path, f"{url}/{entry.path}")
    upload_file(artifact.folder / MANIFEST, f"{url}/{MANIFEST}")
    return url
