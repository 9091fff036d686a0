"""Checkpoints that are there or not there, and known to be whole.

    <folder>/step-00000040/           tensors.safetensors, or tensors-00000-of-00002.safetensors … of several processes;
                                      state.json (last written: names, sizes and sha256 of the rest, and of itself)
    <folder>/.partial-step-00000060/  being written; ignored and removed
    <folder>/quarantine/step-…/       found broken; `reason` says why

A checkpoint is written to a partial folder, flushed to the disk, and renamed; the rename is flushed too. A folder that
was copied file by file (SageMaker's sync to S3) may come back in half, or half old: its hashes tell.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nexus_llm.train.disk import explained, flush

STATE, TENSORS, REASON = "state.json", "tensors.safetensors", "reason"
FORMAT = 2
"""Of state.json; checkpoints of another format are set aside."""
_PARTIAL = ".partial-"
_NAME = re.compile(r"step-(\d{8})")
_WRITTEN = ".written"  # beside a tensor file of a partial folder: its size and sha256, for the process that publishes


@dataclass(frozen=True)
class Found:
    """A whole checkpoint on the disk; every hash was right."""

    path: Path
    step: int
    state: dict[str, Any]
    run: dict[str, Any]
    """Whose it is, as `publish` was told."""
    files: tuple[str, ...] = field(default=(TENSORS,))
    """The tensor files, in the order of the ranks that wrote them."""

    def tensors(self, part: int = 0) -> dict[str, Tensor]:
        """The tensors of one process."""
        from safetensors.torch import load_file

        loaded: dict[str, Tensor] = load_file(self.path / self.files[part])
        return loaded


@dataclass(frozen=True)
class BrokenCheckpoint:
    """One that was set aside."""

    name: str
    reason: str


def tensors_name(part: int, parts: int) -> str:
    """The file of one process's tensors.

    >>> tensors_name(1, 4)
    'tensors-00001-of-00004.safetensors'
    """
    return TENSORS if parts == 1 else f"tensors-{part:05d}-of-{parts:05d}.safetensors"


def write_part(folder: Path, step: int, tensors: Mapping[str, Tensor], *, part: int = 0, parts: int = 1) -> None:
    """Writes one process's tensors into the partial folder of a step; nothing exists before `publish`.

    Raises:
        StorageError: the disk is full or refuses; what was written of the step is removed.
    """
    partial = _partial(folder, step)
    with explained(partial), _RemovedOnError(partial):
        partial.mkdir(parents=True, exist_ok=True)
        target = partial / tensors_name(part, parts)
        write_tensors(tensors, target)
        flush(target)
        Path(f"{target}{_WRITTEN}").write_text(json.dumps(_fingerprint(target)), encoding="utf-8")


def publish(folder: Path, step: int, *, state: Mapping[str, Any], run: Mapping[str, Any], parts: int = 1) -> Path:
    """Makes a step whose parts are all written a checkpoint: state.json, and one rename.

    Raises:
        StorageError: the disk is full or refuses; what was written of the step is removed.
    """
    partial, target = _partial(folder, step), folder / _name(step)
    with explained(partial), _RemovedOnError(partial):
        files = {}
        for part in range(parts):
            written = partial / f"{tensors_name(part, parts)}{_WRITTEN}"
            files[tensors_name(part, parts)] = json.loads(written.read_bytes())
            written.unlink()
        body = {"format": FORMAT, "step": step, "state": dict(state), "run": dict(run), "files": files}
        (partial / STATE).write_text(json.dumps({**body, "sha256": _digest(body)}, sort_keys=True), encoding="utf-8")
        flush(partial / STATE)
        flush(partial)
        partial.rename(target)
        flush(folder)
    return target


def prune(folder: Path, *, keep: int, every: int = 1, spare: Iterable[int] = ()) -> None:
    """Removes all checkpoints but the newest, those of the steps in `spare`, and the newest `keep` of the steps that
    are multiples of `every`.

    A checkpoint that an interruption left between two multiples so never decides which others exist.
    """
    steps = saved_steps(folder)
    kept = {*steps[-1:], *[step for step in steps if step % every == 0][-keep:], *spare}
    with explained(folder):
        for step in set(steps) - kept:
            # Renamed first: a kill in the middle must not leave something that looks like a broken checkpoint.
            doomed = _partial(folder, step)
            (folder / _name(step)).rename(doomed)
            shutil.rmtree(doomed)


def remove_partial(folder: Path) -> None:
    """Removes what a killed process was writing."""
    with explained(folder):
        for partial in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(partial)


def saved_steps(folder: Path) -> list[int]:
    """Steps of all checkpoints, whole or not, ascending."""
    found = (_NAME.fullmatch(path.name) for path in folder.glob("step-*") if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def find_newest(folder: Path, *, refusal: Callable[[Found], str | None] = lambda _: None) -> Found | None:
    """The newest checkpoint that is whole and of which `refusal` says None; all newer ones are moved to quarantine."""
    for step in reversed(saved_steps(folder)):
        found = find(folder, step)
        reason = refusal(found) if found else None
        if found and reason is None:
            return found
        if reason is not None:
            _quarantine(folder / _name(step), reason)
    return None


def find(folder: Path, step: int) -> Found | None:
    """The checkpoint of a step; None where there is none or it is broken: then it is moved to quarantine."""
    path = folder / _name(step)
    if not path.is_dir():
        return None
    try:
        return _verified(path)
    except _BrokenError as error:
        _quarantine(path, str(error))
        return None


def newest_files(folder: Path) -> dict[str, Any]:
    """`step` and `files` (name → sha256) of the newest checkpoint, as its own list of files says."""
    found = open_step(folder, saved_steps(folder)[-1])
    body = json.loads((found.path / STATE).read_bytes())
    return {"step": found.step, "files": {name: one["sha256"] for name, one in sorted(body["files"].items())}}


def open_step(folder: Path, step: int) -> Found:
    """The checkpoint of a step that another process has just found whole."""
    path = folder / _name(step)
    return _found(path, json.loads((path / STATE).read_bytes()))


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


def _verified(path: Path) -> Found:
    if not (path / STATE).is_file():
        raise _BrokenError(f"{STATE} is missing: the folder arrived in part, or was never finished")
    try:
        body = dict(json.loads((path / STATE).read_bytes()))
        promised = body.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _BrokenError(f"{STATE} cannot be read: {error}") from error
    if _digest(body) != promised:
        raise _BrokenError(f"{STATE} was altered")
    if body.get("format") != FORMAT:
        raise _BrokenError(f"{STATE} has format {body.get('format', 1)}, and this version reads {FORMAT}")
    if _name(body["step"]) != path.name:
        raise _BrokenError(f"{STATE} is of step {body['step']}")
    for name, expected in body["files"].items():
        if not (path / name).is_file():
            raise _BrokenError(f"{name} is missing: the folder arrived in part")
        found = _fingerprint(path / name)
        if found["bytes"] != expected["bytes"]:
            raise _BrokenError(f"{name} has {found['bytes']} bytes instead of {expected['bytes']}")
        if found != expected:
            raise _BrokenError(f"{name} is not the file that {STATE} names: sha256 {found['sha256'][:12]}…")
    return _found(path, body)


def _found(path: Path, body: Mapping[str, Any]) -> Found:
    return Found(path, body["step"], body["state"], body["run"], tuple(sorted(body["files"])))


def _quarantine(path: Path, reason: str) -> None:
    place = path.parent / "quarantine"
    with explained(path):
        place.mkdir(exist_ok=True)
        earlier = len(list(place.glob(f"{path.name}*")))
        (path / REASON).write_text(reason, encoding="utf-8")
        path.rename(place / (f"{path.name}-{earlier + 1}" if earlier else path.name))


class _RemovedOnError:
    """Removes a folder when the block raises: on a full disk, half a checkpoint takes the space that is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _partial(folder: Path, step: int) -> Path:
    return folder / f"{_PARTIAL}{_name(step)}"


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
