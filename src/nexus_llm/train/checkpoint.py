"""Checkpoints that are there or not there, and known to be whole.

    <folder>/step-00000040/           tensors.safetensors, state.json (last written: names and sha256 of the rest)
    <folder>/.partial-step-00000060/  being written; ignored and removed
    <folder>/quarantine/step-…/       found broken; `reason` says why

A checkpoint is written to a partial folder, flushed to the disk, and renamed; the rename is flushed too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

STATE, TENSORS, REASON = "state.json", "tensors.safetensors", "reason"
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A training run after `step` steps."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class BrokenCheckpoint:
    """One that was set aside."""

    name: str
    reason: str


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes a checkpoint so that a kill or a power cut leaves all of it or nothing, then removes all but the newest
    `keep`.

    Raises:
        OSError: the disk is full or refuses.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    partial = folder / f"{_PARTIAL}{target.name}"
    partial.mkdir(parents=True)
    write_tensors(checkpoint.tensors, partial / TENSORS)
    body = {"step": checkpoint.step, "state": checkpoint.state, "files": {TENSORS: _fingerprint(partial / TENSORS)}}
    (partial / STATE).write_text(json.dumps({**body, "sha256": _digest(body)}, sort_keys=True), encoding="utf-8")
    for path in (partial / TENSORS, partial / STATE, partial):
        _flush(path)
    partial.rename(target)
    _flush(folder)
    for old in _finished(folder)[:-keep]:
        _remove(old)
    return target


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None. Broken ones are moved to quarantine; partial ones are removed."""
    for partial in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial)
    for candidate in reversed(_finished(folder)):
        try:
            return _load(candidate)
        except _BrokenError as error:
            _quarantine(candidate, str(error))
    return None


def broken_checkpoints(folder: Path) -> list[BrokenCheckpoint]:
    """All that were set aside so far, by name."""
    found = sorted((folder / "quarantine").glob(f"*/{REASON}"))
    return [BrokenCheckpoint(path.parent.name, path.read_text(encoding="utf-8")) for path in found]


def write_tensors(tensors: Mapping[str, Tensor], target: Path) -> None:
    """Writes a safetensors file.

    Raises:
        OSError: the disk is full or refuses. (safetensors itself raises a kind of its own and hides the number.)
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), target, metadata={"format": "pt"})
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from error
        raise


class _BrokenError(Exception):
    """The reason why a checkpoint cannot be used."""


def _load(path: Path) -> Checkpoint:
    from safetensors.torch import load_file

    try:
        body = dict(json.loads((path / STATE).read_bytes()))
        promised = body.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _BrokenError(f"{STATE} cannot be read: {error}") from error
    if _digest(body) != promised:
        raise _BrokenError(f"{STATE} was altered")
    for name, expected in body["files"].items():
        if not (path / name).is_file():
            raise _BrokenError(f"{name} is missing")
        found = _fingerprint(path / name)
        if found["bytes"] != expected["bytes"]:
            raise _BrokenError(f"{name} has {found['bytes']} bytes instead of {expected['bytes']}")
        if found != expected:
            raise _BrokenError(f"{name} was altered: its sha256 begins with {found['sha256'][:12]}")
    return Checkpoint(body["step"], load_file(path / TENSORS), body["state"])


def _quarantine(path: Path, reason: str) -> None:
    place = path.parent / "quarantine"
    place.mkdir(exist_ok=True)
    earlier = len(list(place.glob(f"{path.name}*")))
    (path / REASON).write_text(reason, encoding="utf-8")
    path.rename(place / (f"{path.name}-{earlier + 1}" if earlier else path.name))


def _remove(path: Path) -> None:
    # Renamed first: a kill in the middle must not leave something that looks like a broken checkpoint.
    doomed = path.with_name(f"{_PARTIAL}{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
