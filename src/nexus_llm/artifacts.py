"""Artifacts: folders whose manifest is written last, with an identity known before and one known after.

    key = hash(kind, stage version, the recipe's part, the inputs' keys)   names the folder before anything runs
    id  = hash(key, the files' hashes)                                     says what came out; lineage cites it

A folder without `manifest.json` never happened. Times stay out of both identities. An artifact is reused only when
its key matches, its inputs' ids match, and every file still has the hash that the manifest names.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.errors import ArtifactError
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe

MANIFEST = "manifest.json"
KEY_LENGTH = 16  # hex digits = 64 bits: a collision is expected after about 5 billion artifacts


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact: path inside the folder, size in bytes, sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact is, what it was made from, and what was found while making it."""

    kind: str
    key: str
    id: str
    inputs: dict[str, str]
    """Name of each input → id of that artifact, or `sha256:…` of a file from outside."""
    recipe: dict[str, Any]
    """The resolved part of the recipe that this stage used."""
    files: tuple[FileEntry, ...]
    """Every file that counts towards the id, sorted by path."""
    facts: dict[str, Any]
    """Counts and metrics, for people and for later stages."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Package version, git commit, command line, hardware. Not part of the identity."""
    cost: dict[str, Any] = field(default_factory=dict)
    """Seconds that the last, finishing run took. Not part of the identity."""
    stage_version: int = 1

    def to_json(self) -> str:
        """The manifest as JSON with sorted keys, ending in a newline."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, place: str) -> Manifest:
        """The manifest in `text`; `place` is named in errors.

        Raises:
            ArtifactError: it is not a manifest.
        """
        try:
            values = json.loads(text)
            values["files"] = tuple(FileEntry(**entry) for entry in values["files"])
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{place} is not a readable manifest ({error})", fix="delete its folder and run the stage again"
            ) from error


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and manifest."""

    folder: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def id(self) -> str:
        return self.manifest.id

    def file(self, path: str) -> Path:
        """The local path of one of its files.

        Raises:
            ArtifactError: the manifest names no such file.
        """
        if all(entry.path != path for entry in self.manifest.files):
            raise ArtifactError(
                f"{self.folder} has no file {path}", fix="it may be of an older version: delete it and run again"
            )
        return self.folder / path


@dataclass(frozen=True)
class Estimate:
    """What making an artifact would take on this machine."""

    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Stage:
    """One step of the line: what it needs, what decides its key, and how it makes its artifact."""

    kind: str
    """Names the stage, its folder of artifacts, and it as an input of later stages."""
    version: int
    """Raised whenever the same inputs would give other files, so that old artifacts are not reused."""
    needs: tuple[str, ...]
    """Kinds of the artifacts that it reads."""
    recipe_part: Callable[[Recipe], dict[str, Any]]
    """The fields that change its result, as JSON values."""
    outside_inputs: Callable[[Recipe, Ports], dict[str, str]]
    """Files from outside that it reads: name → `sha256:…`. Raises where they are missing."""
    run: Callable[[Recipe, Mapping[str, Artifact], Draft, Ports], Artifact]
    """Makes the artifact in the draft's folder and finishes it."""
    estimate: Callable[[Recipe], Estimate]
    """Rough time and memory, for the plan."""


def artifact_key(kind: str, *, stage_version: int, recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The key of what a stage would make: 16 hex digits. `inputs` maps names to keys (or `sha256:…` from outside).

    Raises:
        TypeError: the recipe's part holds a value without a stable identity (a function, an object).
    """
    return stable_hash({"kind": kind, "stage_version": stage_version, "recipe": recipe, "inputs": inputs})


def stable_hash(value: object) -> str:
    """16 hex digits that depend on a JSON value only, not on the order of its keys.

    >>> stable_hash({"a": 1, "b": [2.0]}) == stable_hash({"b": [2.0], "a": 1})
    True
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]


def file_sha256(path: Path) -> str:
    """sha256 of a file's content in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Draft:
    """An artifact in the making: write files into `folder`, then `finish`. Without it, nothing happened.

    Files under `work/` are scratch (checkpoints, caches): they survive a killed run, so that a stage can continue
    there, and are removed by `finish`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: str,
        key: str,
        stage_version: int,
        recipe: dict[str, Any],
        inputs: dict[str, str],
        provenance: dict[str, Any],
    ) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.started_seconds = time.monotonic()
        self._head = {"kind": kind, "key": key, "stage_version": stage_version, "recipe": recipe, "inputs": inputs}
        self._provenance = provenance

    def made_of_the_same(self) -> Iterator[Artifact]:
        """Finished artifacts beside this one that the same stage made of the same inputs, and nobody altered since."""
        for path in sorted(self.folder.parent.glob(f"*/{MANIFEST}")):
            artifact = load(path.parent)
            is_same = all(getattr(artifact.manifest, name) == self._head[name] for name in ("stage_version", "inputs"))
            if is_same and not altered_files(artifact):
                yield artifact

    def finish(self, *, facts: dict[str, Any], logs: tuple[str, ...] = ()) -> Artifact:
        """Hashes every file, removes the scratch, and writes the manifest last: from now on the artifact exists.

        `logs` names files that hold times, such as `metrics.jsonl`: kept, but no part of the identity.
        """
        storage.remove(self.work)
        with storage.explained(str(self.folder)):
            paths = _content_files(self.folder, besides=logs)
            with ThreadPoolExecutor(os.cpu_count()) as threads:  # both let go of the interpreter
                files = tuple(threads.map(lambda path: _entry(self.folder, path), paths))
                list(threads.map(lambda path: storage.sync(self.folder / path), paths))
        key = str(self._head["key"])
        manifest = Manifest(
            **self._head,  # type: ignore[arg-type]
            id=stable_hash([key, [[entry.path, entry.sha256] for entry in files]]),
            files=files,
            facts=facts,
            provenance=self._provenance,
            cost={"seconds": round(time.monotonic() - self.started_seconds, 3)},
        )
        storage.write_atomically(self.folder / MANIFEST, manifest.to_json().encode())
        return Artifact(self.folder, manifest)


class ArtifactStore:
    """All artifacts below one folder: `<root>/<kind>/<key>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: str) -> Path:
        """Where the artifact lies, or would lie."""
        return self.root / kind / key

    def find(self, kind: str, key: str, *, inputs: Mapping[str, str] | None = None) -> Artifact | None:
        """The finished artifact of that key, or None where it was never made, was altered, or its inputs changed."""
        folder = self.folder(kind, key)
        if not (folder / MANIFEST).exists():
            return None
        artifact = load(folder)
        if inputs is not None and dict(inputs) != artifact.manifest.inputs:
            return None
        return None if altered_files(artifact) else artifact

    def all(self) -> list[Artifact]:
        """Every finished artifact, sorted by kind and key."""
        return [load(path.parent) for path in sorted(self.root.glob(f"*/*/{MANIFEST}"))]

    @contextlib.contextmanager
    def draft(
        self,
        kind: str,
        key: str,
        *,
        stage_version: int,
        recipe: dict[str, Any],
        inputs: dict[str, str],
        provenance: dict[str, Any] | None = None,
    ) -> Iterator[Draft]:
        """A folder to make the artifact in, locked against a second maker.

        What an interrupted run left is cleared, except its `work/` when that was made from the same inputs.

        Raises:
            ArtifactError: another process is making the same artifact.
        """
        folder = self.folder(kind, key)
        with storage.explained(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        with _exclusive(folder.with_name(f".{key}.lock"), what=f"{kind} {key}"), storage.explained(str(folder)):
            _clear_unfinished(folder, belongs_to=stable_hash(inputs))
            yield Draft(
                folder,
                kind=kind,
                key=key,
                stage_version=stage_version,
                recipe=recipe,
                inputs=inputs,
                provenance=provenance or {},
            )


def load(folder: Path) -> Artifact:
    """The finished artifact in `folder`.

    Raises:
        ArtifactError: the folder has no manifest, or it cannot be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise ArtifactError(
            f"{folder} has no {MANIFEST}, so the run that wrote it did not finish", fix="run the same command again"
        )
    return Artifact(folder, Manifest.from_json(path.read_text(encoding="utf-8"), place=str(path)))


def altered_files(artifact: Artifact) -> list[str]:
    """Paths of files that are gone or whose bytes are not those that were made; sizes are compared first."""
    altered = []
    for entry in artifact.manifest.files:
        path = artifact.folder / entry.path
        if not path.is_file() or path.stat().st_size != entry.bytes or file_sha256(path) != entry.sha256:
            altered.append(entry.path)
    return altered


def changed_fields(before: object, after: object, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted field, value before, value after) for every leaf that differs; an absent side is None.

    >>> changed_fields({"lr": 1, "lora": {"r": 8}}, {"lr": 1, "lora": {"r": 16}})
    [('lora.r', 8, 16)]
    """
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            row
            for name in sorted(before.keys() | after.keys())
            for row in changed_fields(before.get(name), after.get(name), f"{prefix}.{name}" if prefix else name)
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            row
            for index, pair in enumerate(zip(before, after, strict=True))
            for row in changed_fields(*pair, f"{prefix}.{index}")
        ]
    return [] if before == after else [(prefix, before, after)]


def _content_files(folder: Path, *, besides: tuple[str, ...]) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    relative = sorted(path.relative_to(folder) for path in files)
    return [path for path in relative if path.as_posix() not in (MANIFEST, *besides)]


def _entry(folder: Path, path: Path) -> FileEntry:
    whole = folder / path
    return FileEntry(path=path.as_posix(), bytes=whole.stat().st_size, sha256=file_sha256(whole))


def _clear_unfinished(folder: Path, *, belongs_to: str) -> None:
    """Empties a folder but for `work/` of the same inputs; the manifest goes first, so the artifact is gone at once."""
    (folder / MANIFEST).unlink(missing_ok=True)
    mark = folder / "work" / "inputs"
    if not (mark.exists() and mark.read_text() == belongs_to):
        storage.remove(folder / "work")
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
        elif path.name != "work":
            storage.remove(path)
    storage.write_atomically(mark, belongs_to.encode())


@contextlib.contextmanager
def _exclusive(path: Path, *, what: str) -> Iterator[None]:
    """Holds a lock that the kernel drops when the process dies, however it dies."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(
                f"another process is making {what} at this moment", fix="wait for it, or stop it, then run again"
            ) from error
        yield
