"""Many files into a folder or a bucket: planned, in parallel, interruptible, with a receipt.

A bucket's files pass through a local staging folder one per worker, so that only verified files are uploaded and an
interrupted download continues.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from nexus_llm.cloud.downloads import Patience, download_file
from nexus_llm.cloud.growing_file import forget_partial
from nexus_llm.cloud.hub_datasets import DatasetPart, RowReader, rows_name, rows_url, write_rows
from nexus_llm.cloud.parallel import run_parallel
from nexus_llm.cloud.stored_files import read_stored, stored_size, upload_stored, write_stored
from nexus_llm.data.catalogue.download import (
    RECEIPT_NAME,
    FetchedFile,
    Remote,
    RemoteFile,
    TransientError,
    WantedFile,
    backoff_seconds,
    parse_receipt,
    receipt_document,
    settle_names,
    sidecar_sha256,
)
from nexus_llm.errors import DataError, StorageError, TryAgainError
from nexus_llm.ports import Interrupt, NeverInterrupted, Progress, SilentProgress
from nexus_llm.storage import explained, write_atomically

ASSUMED_BYTES_PER_SECOND = 50_000_000  # 400 Mbit/s; a plan says that it is assumed
SPARE_BYTES = 64 * 2**20  # a disk that is filled to the last byte breaks other programs
RECEIPT_INTERVAL_SECONDS = 1.0
_MAX_SIDECAR_BYTES = 65_536


@dataclass(frozen=True)
class Place:
    """Where files go: a local folder, or a bucket's prefix with a local folder for files on their way."""

    folder: Path
    bucket: str | None = None

    def __str__(self) -> str:
        return self.bucket or str(self.folder)

    def receipt(self) -> dict[str, FetchedFile]:
        """The receipt of earlier fetches; empty where there was none."""
        path = self.folder / RECEIPT_NAME
        if self.bucket:
            content = read_stored(f"{self.bucket}/{RECEIPT_NAME}")
        else:
            content = path.read_bytes() if path.exists() else None
        return {} if content is None else parse_receipt(content, f"{self}/{RECEIPT_NAME}")

    def write_receipt(self, fetched: dict[str, FetchedFile]) -> None:
        """Replaces the receipt."""
        if self.bucket:
            write_stored(f"{self.bucket}/{RECEIPT_NAME}", receipt_document(fetched))
        else:
            write_atomically(self.folder / RECEIPT_NAME, receipt_document(fetched))

    def has(self, entry: FetchedFile) -> bool:
        """Whether a file of the receipt is still there with its size."""
        if self.bucket:
            return stored_size(f"{self.bucket}/{entry.name}") == entry.bytes
        path = self.folder / entry.name
        return path.is_file() and path.stat().st_size == entry.bytes

    def deliver(self, name: str) -> None:
        """Brings a verified file from the local folder to where it belongs."""
        if self.bucket:
            upload_stored(self.folder / name, f"{self.bucket}/{name}")
            (self.folder / name).unlink()


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a plan. `have_bytes` lie here already."""

    wanted: WantedFile
    described: RemoteFile | None
    have_bytes: int
    is_finished: bool

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, where anybody said so."""
        return self.wanted.size if self.wanted.size is not None else (self.described.size if self.described else None)


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a fetch would do."""

    place: Place
    files: tuple[PlannedFile, ...]
    receipt: dict[str, FetchedFile]
    free_bytes: int

    @property
    def missing(self) -> list[PlannedFile]:
        """The files that are not here whole."""
        return [one for one in self.files if not one.is_finished]

    @property
    def bytes_left(self) -> int:
        """Bytes to download, as far as sizes are known."""
        return sum(max((one.size or 0) - one.have_bytes, 0) for one in self.missing)

    @property
    def unknown_sizes(self) -> int:
        """Files whose size nobody says."""
        return sum(one.size is None for one in self.missing)

    @property
    def seconds(self) -> float:
        """Time at the assumed rate."""
        return self.bytes_left / ASSUMED_BYTES_PER_SECOND


@dataclass(frozen=True)
class FetchOptions:
    """How a fetch behaves."""

    parallel: int = 4
    max_bytes: int | None = None
    patience: Patience | None = None
    """None waits on the clock, and stops waiting when the fetch is stopped."""
    progress: Progress = field(default_factory=SilentProgress)
    interrupt: Interrupt = field(default_factory=NeverInterrupted)


def plan_fetch(
    wanted: Sequence[WantedFile], place: Place, remote: Remote, options: FetchOptions, *, stop: threading.Event
) -> FetchPlan:
    """Asks hosts for the sizes that nobody stated, and looks at what is here.

    Raises:
        DataError: a host refuses, or a name is taken.
        TryAgainError: hosts do not answer, or somebody asked to stop.
    """
    receipt = place.receipt()
    settled = settle_names(wanted, receipt, str(place))
    with explained(str(place.folder)):
        place.folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(place.folder).free
    found: dict[str, PlannedFile] = {}

    def look(one: WantedFile) -> PlannedFile:
        entry = receipt.get(one.name)
        if entry is not None and place.has(entry) and one.sha256 in (None, entry.sha256):
            return PlannedFile(one, RemoteFile(entry.bytes, entry.etag, None), entry.bytes, True)
        part = place.folder / f"{one.name}.part"
        have = part.stat().st_size if part.exists() else 0
        described = None if one.size is not None else _describe(one.url, remote, options, stop)
        return PlannedFile(one, described, have, False)

    def keep(one: PlannedFile) -> None:
        found[one.wanted.name] = one

    tasks = [partial(look, one) for one in settled]
    run_parallel(tasks, keep, threads=options.parallel, interrupt=options.interrupt, stop=stop)
    return FetchPlan(place, tuple(found[one.name] for one in settled), receipt, free_bytes)


def check_plan(plan: FetchPlan, options: FetchOptions) -> None:
    """Nothing, where the files fit on the disk and below the user's limit.

    Raises:
        StorageError: the disk is too small.
        DataError: `max_bytes` is less than the files.
    """
    if options.max_bytes is not None and plan.bytes_left > options.max_bytes:
        raise DataError(
            f"{len(plan.missing)} files have {plan.bytes_left:,} bytes, more than --max-bytes {options.max_bytes:,}",
            fix="raise --max-bytes, or fetch fewer files",
        )
    needed = plan.bytes_left
    if plan.place.bucket:  # one file a worker lies in the staging folder
        largest = sorted(((one.size or 0) for one in plan.missing), reverse=True)[: options.parallel]
        needed = sum(largest)
    if needed + SPARE_BYTES > plan.free_bytes:
        raise StorageError(
            f"{plan.place.folder} has {plan.free_bytes:,} bytes free, the files need {needed + SPARE_BYTES:,}",
            fix="free some space, fetch to another disk or s3://, or take a sample (--max-documents)",
        )


def run_fetch(plan: FetchPlan, remote: Remote, options: FetchOptions, *, stop: threading.Event) -> list[FetchedFile]:
    """Fetches what is missing; returns the receipt's lines of all files of the plan, in its order.

    A file that fails does not stop the others. The receipt is written at least every second and at the end.

    Raises:
        NexusError: the first failure, when all other files are done.
        TryAgainError: somebody asked to stop; the same fetch continues.
    """
    receipt = dict(plan.receipt)
    ledger = _Ledger(plan.place, receipt)
    lock = threading.Lock()
    folders_without_sidecar: set[str] = set()

    def hear(count: int) -> None:
        with lock:
            options.progress.advance(count)

    def fetch(one: PlannedFile) -> FetchedFile:
        wanted = one.wanted
        if wanted.sha256 is None and not (one.described and one.described.sha256):
            wanted = replace(wanted, sha256=_sidecar(wanted, remote, folders_without_sidecar))
        done = download_file(
            remote,
            wanted,
            plan.place.folder,
            described=one.described,
            max_bytes=options.max_bytes,
            patience=_patience(options, stop),
            on_bytes=hear,
            check_stop=lambda: _check_stop(stop),
        )
        plan.place.deliver(wanted.name)
        return done

    total = sum(one.size or 0 for one in plan.missing)
    options.progress.start("fetch", total=total if not plan.unknown_sizes else None, unit="bytes")
    try:
        tasks = [partial(fetch, one) for one in plan.missing]
        run_parallel(tasks, ledger.add, threads=options.parallel, interrupt=options.interrupt, stop=stop)
    finally:
        ledger.flush()
    options.progress.finish()
    return [receipt[one.wanted.name] for one in plan.files]


def fetch_rows(
    parts: Sequence[DatasetPart], place: Place, options: FetchOptions, *, max_documents: int, read: RowReader
) -> list[FetchedFile]:
    """The first rows of each data set as jsonl, one after the other; what the receipt has is not read again.

    Raises:
        TryAgainError: somebody asked to stop; the data set that was being read begins anew.
        DataError: a data set cannot be read, or is larger than `max_bytes`.
    """
    receipt = place.receipt()
    fetched = []
    with explained(str(place.folder)):
        place.folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        entry = receipt.get(rows_name(part, max_documents))
        if entry is None or not place.has(entry) or entry.url != rows_url(part, max_documents):
            options.progress.start(f"rows of {part.dataset}", total=None, unit="bytes")
            entry = write_rows(
                part,
                place.folder,
                max_documents=max_documents,
                max_bytes=options.max_bytes,
                read=read,
                on_row=options.progress.advance,
                check_stop=lambda: _check_interrupt(options.interrupt),
            )
            options.progress.finish()
            place.deliver(entry.name)
            receipt[entry.name] = entry
            place.write_receipt(receipt)
        fetched.append(entry)
    return fetched


class _Ledger:
    """Finished files on their way into the receipt."""

    def __init__(self, place: Place, receipt: dict[str, FetchedFile]) -> None:
        self._place = place
        self._receipt = receipt
        self._pending: list[str] = []
        self._written = time.monotonic()

    def add(self, done: FetchedFile) -> None:
        self._receipt[done.name] = done
        self._pending.append(done.name)
        if time.monotonic() - self._written >= RECEIPT_INTERVAL_SECONDS:
            self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        self._place.write_receipt(self._receipt)
        for name in self._pending:  # only now: a crash before would leave files that nobody accounts for
            forget_partial(self._place.folder, name)
        self._pending.clear()
        self._written = time.monotonic()


def _describe(url: str, remote: Remote, options: FetchOptions, stop: threading.Event) -> RemoteFile:
    """What the host says of a file, asked as patiently as for its bytes."""
    patience = _patience(options, stop)
    for attempt in range(patience.attempts):
        try:
            return remote.describe(url)
        except TransientError as error:
            reason, asked = error, error.retry_after_seconds
        patience.sleep(backoff_seconds(attempt, patience.jitter()) if asked is None else asked)
        _check_stop(stop)
    raise TryAgainError(f"{url} did not answer {patience.attempts} times ({reason})", fix="try again later")


def _sidecar(wanted: WantedFile, remote: Remote, folders_without: set[str]) -> str | None:
    """The sha256 in a `.sha256` file beside the file. A folder that has none for one file is not asked again."""
    folder = wanted.url.rsplit("/", maxsplit=1)[0]
    if urlsplit(wanted.url).query or folder in folders_without:
        return None
    with contextlib.suppress(TransientError, DataError), remote.open(f"{wanted.url}.sha256", {}) as answer:
        if answer.status == 200:
            content = b""
            for piece in answer.pieces():
                content += piece
                if len(content) > _MAX_SIDECAR_BYTES:
                    break
            if found := sidecar_sha256(content, urlsplit(wanted.url).path.rsplit("/", maxsplit=1)[-1]):
                return found
    folders_without.add(folder)
    return None


def _patience(options: FetchOptions, stop: threading.Event) -> Patience:
    return options.patience or Patience(sleep=stop.wait)


def _check_stop(stop: threading.Event) -> None:
    if stop.is_set():
        raise TryAgainError("stopped", fix="the same command continues")


def _check_interrupt(interrupt: Interrupt) -> None:
    if reason := interrupt.requested():
        raise TryAgainError(f"stopped by {reason}", fix="the same command begins this data set anew")
