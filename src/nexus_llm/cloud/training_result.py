"""What a training job left, taken over as if it had been made here: unpacked with suspicion, then checked."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from nexus_llm import storage
from nexus_llm.artifacts import MANIFEST, Artifact, Manifest, altered_files, load
from nexus_llm.errors import ArtifactError, TrainingError

# Weights shrink by a third at most under gzip; text by ten. A thousandfold is gzip's own limit, and somebody's joke.
MAX_UNPACKED_FACTOR = 50
ALWAYS_UNPACKED_BYTES = 64 * 2**20
_PIECE_BYTES = 2**20


def unpack(archive: Path, target: Path) -> list[str]:
    """Unpacks a model.tar.gz below `target`; gives the paths of its files, sorted.

    Links, devices, absolute paths and `..` are refused, and so is what would fill the disk: whoever may write to the
    bucket must not be able to write elsewhere on this machine. Modes and owners of the archive are ignored.

    Raises:
        TrainingError: it is no such archive, or holds one of these.
    """
    room = max(ALWAYS_UNPACKED_BYTES, MAX_UNPACKED_FACTOR * archive.stat().st_size)
    names: list[str] = []
    try:
        with storage.explained(str(target)), tarfile.open(archive, mode="r:*") as tar:
            for member in tar:
                name = _safe_name(member, archive)
                if member.isdir():
                    continue
                if name in names:
                    raise _refusal(archive, f"holds {name} twice")
                room -= member.size
                if room < 0:
                    raise _refusal(archive, f"unpacks to more than {MAX_UNPACKED_FACTOR} times its own size")
                _write(tar, member, target / name)
                names.append(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the archive
        raise _refusal(archive, f"is cut off or no archive ({error})") from error
    return sorted(names)


def adopt(made: Path, folder: Path, *, key: str | None, made_by: str) -> Manifest:
    """Moves the files of a finished train artifact from `made` to `folder`, but for its manifest, and gives that.

    A `key` of None takes any.

    Raises:
        TrainingError: it is not finished, of another key, or not what its manifest says.
    """
    artifact = _finished(made, made_by)
    if (artifact.kind, artifact.key) != ("train", artifact.key if key is None else key):
        raise TrainingError(
            f"{made_by} made {artifact.kind} {artifact.key}, not train {key or ''}".rstrip(),
            fix="let the image have this version of the package; delete that result and run the same command again",
        )
    if altered := altered_files(artifact):
        raise TrainingError(
            f"{made_by}: {', '.join(altered[:3])} is not the file that the manifest names ({len(altered)} files)",
            fix="delete the job's output in the bucket and run the same command again",
        )
    with storage.explained(str(folder)):
        for path in sorted(made.rglob("*")):
            name = path.relative_to(made)
            if path.is_dir() or name.as_posix() == MANIFEST:
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, folder / name)
    return artifact.manifest


def _finished(made: Path, made_by: str) -> Artifact:
    try:
        return load(made)
    except ArtifactError as error:
        raise TrainingError(
            f"{made_by} ended, but left no finished artifact ({error.what})",
            fix="run the same command again: it continues at the last checkpoint",
        ) from error


def _safe_name(member: tarfile.TarInfo, archive: Path) -> str:
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()):
        raise _refusal(archive, f"holds {member.name}, which is no plain file")
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise _refusal(archive, f"holds {member.name}, which would land elsewhere")
    return path.as_posix()


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None, "plain files have content"
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("xb") as stream:
        shutil.copyfileobj(source, stream, _PIECE_BYTES)


def _refusal(archive: Path, why: str) -> TrainingError:
    return TrainingError(
        f"{archive.name} {why}; nothing of it was used",
        fix="look who may write to the bucket; to train again, delete it and run the same command",
    )
