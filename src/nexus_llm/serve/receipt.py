"""Which weights gave an answer: read from the manifest beside them, told in the header `x-nexus-receipt`.

    x-nexus-receipt: a92dceeb37893d66; engine=openvino; weights=sha256:94f2988bebb56600

The first value is the id of the package artifact; `nexus lineage` follows it to the training, the data and its sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FINGERPRINT_LENGTH = 16  # hex digits, as an artifact's id


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a manifest tells of the model beside it. Nothing here says where on a disk it lies or who made it."""

    artifact: str
    """Id of the package."""
    key: str | None
    engine: str
    weights: str
    """`sha256:` and the first 16 hex digits: of the file that the engine reads, or of the list of its files."""
    run: str | None
    """Name of the recipe that made it."""
    made_of: dict[str, str]
    """Artifacts that went into it: `data`, `train`, `model` → id."""
    version: str | None
    """Of nexus-llm-platform, when it was made."""
    git_commit: str | None

    def header(self, *, adapter: str | None = None) -> str:
        """The header's value; `adapter` is the LoRA adapter that answered."""
        named = "" if adapter is None else f"; adapter={adapter}"
        return f"{self.artifact}; engine={self.engine}; weights={self.weights}{named}"

    def document(self) -> dict[str, Any]:
        """The same and its lineage, for `GET /v1/models/{id}`."""
        return asdict(self)


def read_receipt(manifest: Mapping[str, Any], *, engine: str, weights: str | None) -> Receipt | None:
    """The receipt of a package by its manifest; None where that names no artifact or none of the weights.

    `weights` is the file that the engine reads, None where it reads all `*.safetensors`.
    """
    files = {str(entry.get("path")): str(entry.get("sha256")) for entry in manifest.get("files") or ()}
    read = {path: sha for path, sha in files.items() if path == weights or (not weights and path.endswith(_TENSORS))}
    if not manifest.get("id") or not read:
        return None
    listed = "".join(f"{sha} {path}\n" for path, sha in sorted(read.items()))
    sha = next(iter(read.values())) if len(read) == 1 else hashlib.sha256(listed.encode()).hexdigest()
    provenance = manifest.get("provenance") or {}
    return Receipt(
        artifact=str(manifest["id"]),
        key=manifest.get("key"),
        engine=engine,
        weights=f"sha256:{sha[:FINGERPRINT_LENGTH]}",
        run=(manifest.get("recipe") or {}).get("name"),
        made_of=dict(manifest.get("inputs") or {}),
        version=provenance.get("version"),
        git_commit=provenance.get("git_commit"),
    )


def read_header(header: str) -> dict[str, str]:
    """The parts of a header's value.

    >>> read_header("a92d; engine=openvino; weights=sha256:94f2; adapter=law")
    {'artifact': 'a92d', 'engine': 'openvino', 'weights': 'sha256:94f2', 'adapter': 'law'}
    """
    artifact, *parts = (part.strip() for part in header.split(";"))
    named = (part.partition("=") for part in parts)
    return {"artifact": artifact, **{name: value for name, _, value in named}}


def has_weights(manifest: Mapping[str, Any], weights: str) -> bool:
    """Whether `sha256:…` of a receipt is of this package: of one of its files, or of all its tensors."""
    paths = (None, *(str(entry["path"]) for entry in manifest.get("files") or ()))
    found = (read_receipt(manifest, engine="", weights=path) for path in paths)
    return any(one is not None and one.weights == weights for one in found)


_TENSORS = ".safetensors"
