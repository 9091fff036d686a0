"""What the first container of a serving task runs: brings a packaged model from the bucket, whole and unaltered.

    python -m nexus_llm.cli.fetch_model s3://BUCKET/package/KEY /model

Exit codes: 0 the model lies in the folder · 1 it does not · 2 called wrongly · 75 the bucket did not answer: try again.
The manifest arrives last: a folder without one was never finished, and the engine does not start on it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nexus_llm.cli.console import print_error
from nexus_llm.errors import ArtifactError, NexusError, UsageError

PARALLEL_FILES = 8
"""One stream from S3 brings about 100 MB/s; the shards of a large model come side by side."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends the process with the exit code of the fetch."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """The exit code; one line on stderr tells what came, or two what went wrong."""
    try:
        if len(arguments) != 2:
            raise UsageError(
                f"fetch_model was given {len(arguments)} words", fix="fetch_model s3://BUCKET/package/KEY FOLDER"
            )
        started = time.monotonic()
        files, size = fetch_model(arguments[0].rstrip("/"), Path(arguments[1]))
        seconds = time.monotonic() - started
        print(f"fetched {files} files, {size / 1e6:.1f} MB in {seconds:.1f} s", file=sys.stderr, flush=True)
    except NexusError as error:
        print_error(error, as_json=False)
        return error.exit_code
    return 0


def fetch_model(source: str, folder: Path) -> tuple[int, int]:
    """Number and bytes of the files that lie in `folder` afterwards, each with the hash that its manifest names."""
    from concurrent.futures import ThreadPoolExecutor

    from nexus_llm import storage
    from nexus_llm.artifacts import MANIFEST, Artifact, Manifest, altered_files

    text = storage.read_bytes(f"{source}/{MANIFEST}")
    manifest = Manifest.from_json(text.decode("utf-8"), place=f"{source}/{MANIFEST}")
    names = [entry.path for entry in manifest.files]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactError(
                f"{source}/{MANIFEST} names {name!r}, outside its folder", fix="package the model again"
            )
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        for _ in pool.map(lambda name: storage.copy_to(f"{source}/{name}", folder / name), names):
            pass
    if altered := altered_files(Artifact(folder, manifest)):
        raise ArtifactError(
            f"{source}/{altered[0]} is not the file that was packaged ({len(altered)} files differ)",
            fix="upload the package again: its manifest goes last",
        )
    storage.write_atomically(folder / MANIFEST, text)
    return len(names), sum(entry.bytes for entry in manifest.files)


if __name__ == "__main__":
    main()
