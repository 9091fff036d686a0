"""What a download decides, without a network: names, resuming, retrying, verifying, planning, receipts.

The rules of HTTP are those of RFC 9110 (ranges: section 14; If-Range and entity tags: 13.1.5 and 8.8.3; Retry-After:
10.2.3). The edge that talks to hosts implements `Remote` (nexus_llm.cloud.downloads).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol
from urllib.parse import unquote, urlsplit

from nexus_llm.errors import DataError, UsageError

PIECE_BYTES = 2**20
MAX_BACKOFF_SECONDS = 60.0
MAX_RETRY_AFTER_SECONDS = 300.0  # a host that asks for more is better asked again by a person
RECEIPT_NAME = "fetch.json"
MAX_NAME_BYTES = 200  # 255 is the limit of most file systems, and `.part.json` comes behind

_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<total>\d+|\*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HUB_NAME = re.compile(r"hf:(?P<dataset>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")


class TransientError(Exception):
    """The host or the line failed in a way that the same request may survive."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class WantedFile:
    """One file to fetch: where it is, and the name that it gets. Size and sha256 (hex) where somebody states them."""

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One version of a file as its host describes it; None where the host is silent."""

    size: int | None
    etag: str | None
    last_modified: str | None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PartialFile:
    """Which version of which file the bytes of a `NAME.part` belong to."""

    url: str
    size: int | None
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One line of a receipt: a file that is here whole and verified. No time stands in it."""

    name: str
    url: str
    bytes: int
    sha256: str
    etag: str | None = None
    licence: str | None = None


class Answer(Protocol):
    """A host's answer whose body has not been read."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""

    def pieces(self) -> Iterator[bytes]:
        """The body as it is on the wire, in pieces of at most about 1 MiB.

        Raises:
            TransientError: the line broke before the end.
        """


class Remote(Protocol):
    """Hosts of files: HTTP, or a bucket."""

    def describe(self, url: str) -> RemoteFile:
        """What the host says about a file.

        Raises:
            TransientError: it did not answer, or asked to come back later.
            DataError: it refuses.
        """

    def open(self, url: str, headers: Mapping[str, str]) -> AbstractContextManager[Answer]:
        """The answer to a request for the file's bytes."""


Verdict = Literal["append", "fresh", "complete", "discard", "retry", "refuse"]


def remote_file(headers: Mapping[str, str], *, status: int = 200) -> RemoteFile:
    """What response headers (lower-case names) say of a file. For a 206 the size is the whole file's.

    The hub puts the sha256 of a large file into `x-linked-etag`, and its size into `x-linked-size`.
    """
    linked = headers.get("x-linked-etag", "").strip('"')
    if status == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        length = found["total"] if found else ""
    else:
        length = headers.get("x-linked-size") or headers.get("content-length", "")
    return RemoteFile(
        size=int(length) if length.isdigit() else None,
        etag=headers.get("etag"),
        last_modified=headers.get("last-modified"),
        sha256=linked if _SHA256.fullmatch(linked) else None,
    )


def resume_headers(state: PartialFile | None, have_bytes: int, *, is_hash_known: bool) -> dict[str, str] | None:
    """The headers that ask for the rest of a file, or None where the rest could not be told from another version's.

    A weak entity tag may not stand in If-Range; the date may, and a tag or a known hash is compared afterwards anyway.
    """
    if state is None or have_bytes == 0:
        return None
    if not (state.etag or state.last_modified or is_hash_known):
        return None
    headers = {"range": f"bytes={have_bytes}-"}
    strong = state.etag if state.etag and not state.etag.startswith("W/") else None
    if validator := strong or state.last_modified:
        headers["if-range"] = validator
    return headers


def judge_answer(
    status: int, headers: Mapping[str, str], *, state: PartialFile | None, have_bytes: int, is_hash_known: bool
) -> Verdict:
    """What to do with an answer.

    `append`: its body continues what is here. `fresh`: its body is the whole file. `complete`: nothing is missing.
    `discard`: what is here belongs to another version; ask again from the first byte. `retry`: later. `refuse`: never.
    """
    if status == 200:
        return "fresh"
    if status == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        remote = remote_file(headers, status=206)
        fits = found is not None and int(found["first"]) == have_bytes and state is not None
        return "append" if fits and state and is_same_version(state, remote, is_hash_known=is_hash_known) else "discard"
    if status == 416 and have_bytes:
        return "complete" if state is not None and state.size == have_bytes else "discard"
    if status in (408, 425, 429) or status >= 500:
        return "retry"
    return "refuse"


def is_same_version(state: PartialFile, remote: RemoteFile, *, is_hash_known: bool = False) -> bool:
    """Whether an answer is of the version that the bytes here belong to."""
    if None not in (state.size, remote.size) and state.size != remote.size:
        return False
    if state.etag and remote.etag:
        return state.etag == remote.etag
    if state.last_modified and remote.last_modified:
        return state.last_modified == remote.last_modified
    return is_hash_known


def backoff_seconds(attempt: int, share: float) -> float:
    """How long to wait after failed attempt number `attempt` (from 0); `share` in 0–1 is the jitter.

    >>> [backoff_seconds(attempt, 1.0) for attempt in (0, 1, 2, 9)]
    [1.0, 2.0, 4.0, 60.0]
    """
    return min(MAX_BACKOFF_SECONDS, 2.0 ** min(attempt, 30)) * (0.5 + share / 2)


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """What a Retry-After header asks for (seconds or an HTTP date), between 0 and five minutes; None without a sense.

    >>> retry_after_seconds("7", datetime(2026, 11, 1, tzinfo=UTC))
    7.0
    >>> retry_after_seconds("Sun, 01 Nov 2026 00:00:30 GMT", datetime(2026, 11, 1, tzinfo=UTC))
    30.0
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        seconds = float(value.strip())
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def mismatch(*, size: int, sha256: str, wanted_size: int | None, wanted_sha256: str | None) -> str | None:
    """What is wrong with a file that arrived, in words, or None."""
    if wanted_size is not None and size != wanted_size:
        return f"{size} bytes instead of {wanted_size}"
    if wanted_sha256 is not None and sha256 != wanted_sha256.lower():
        return f"sha256 {sha256} instead of {wanted_sha256.lower()}"
    return None


def sidecar_sha256(content: bytes, name: str) -> str | None:
    """The hash that a `.sha256` file states for `name`: a bare hash, or the line of `sha256sum` that ends with it.

    >>> sidecar_sha256(b"0" * 64 + b"  ./a.txt", "a.txt") == "0" * 64
    True
    """
    for line in content.decode("utf-8", "replace").splitlines():
        words = line.split()
        is_ours = len(words) == 1 or (len(words) == 2 and words[1].lstrip("*").rsplit("/", maxsplit=1)[-1] == name)
        if is_ours and _SHA256.fullmatch(words[0].lower()):
            return words[0].lower()
    return None


def hub_name(what: str) -> tuple[str, str] | None:
    """(data set, revision) of `hf:ORG/NAME[@REVISION]`, or None for another text.

    >>> hub_name("hf:allenai/c4@main"), hub_name("hf:squad"), hub_name("c4")
    (('allenai/c4', 'main'), ('squad', 'main'), None)
    """
    found = _HUB_NAME.fullmatch(what)
    return (found["dataset"], found["revision"] or "main") if found else None


def url_list(text: str, place: str) -> list[str]:
    """The URLs of a list, one a line; blank lines and lines that start with `#` are skipped.

    Raises:
        DataError: a line is no http(s) or s3 URL, or there is none at all.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    found = [(number, line) for number, line in lines if line and not line.startswith("#")]
    for number, line in found:
        if urlsplit(line).scheme not in ("http", "https", "s3"):
            raise DataError(f"{place}:{number} is no URL: {line[:80]!r}", fix="write one http(s):// URL a line")
    if not found:
        raise DataError(f"{place} names no URL", fix="write one http(s):// URL a line")
    return list(dict.fromkeys(line for _, line in found))


def file_name(url: str) -> str:
    """The name that a URL's file gets: the last part of its path.

    Raises:
        DataError: the part is empty or hidden, leads out of the folder, is too long, or is one that we use ourselves.

    >>> file_name("https://host/a/b%20c.jsonl.gz?token=1")
    'b c.jsonl.gz'
    """
    return _allowed_name(unquote(urlsplit(url).path.rsplit("/", maxsplit=1)[-1]), url)


def names_for(urls: Sequence[str]) -> list[str]:
    """A name for each URL, all different: the last part of the path, with its folders in front where that is needed.

    Raises:
        DataError: two URLs differ only in host or query, or one has no usable name.
    """
    names = [file_name(url) for url in urls]
    if len(set(names)) == len(names):
        return names
    paths = [unquote(urlsplit(url).path).strip("/").split("/") for url in urls]
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    longer = [_allowed_name("--".join(path[shared:]), url) for path, url in zip(paths, urls, strict=True)]
    name, times = Counter(longer).most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} of the URLs would all become {name}", fix="fetch them into several folders")
    return longer


def byte_amount(text: str) -> int:
    """A number of bytes from `1500`, `20MB` (10^6), `3 GiB` (2^30) …

    >>> byte_amount("20MB"), byte_amount("3 GiB"), byte_amount("1500")
    (20000000, 3221225472, 1500)
    """
    found = _AMOUNT.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is no amount of bytes", fix="write it as 500MB, 20GB or 1TiB")
    power = " kmgt".index(found["unit"].lower() or " ")
    return int(float(found["number"]) * (1024 if found["binary"] else 1000) ** power)


def partial_document(state: PartialFile) -> bytes:
    """The content of `NAME.part.json`."""
    return json.dumps(asdict(state), indent=2).encode()


def parse_partial(content: bytes) -> PartialFile | None:
    """The state that `NAME.part.json` holds; None where a crash or somebody else left something else."""
    try:
        return PartialFile(**json.loads(content))
    except (ValueError, TypeError):
        return None


def receipt_document(fetched: Mapping[str, FetchedFile]) -> bytes:
    """The content of `fetch.json`: the same files give the same bytes."""
    rows = [asdict(fetched[name]) for name in sorted(fetched)]
    return json.dumps({"version": 1, "files": rows}, indent=2, ensure_ascii=False).encode() + b"\n"


def parse_receipt(content: bytes, place: str) -> dict[str, FetchedFile]:
    """The files of a `fetch.json` by name.

    Raises:
        DataError: it is not one of ours.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(content)["files"]
        # A receipt in a bucket may be anybody's, and its names become paths.
        return {_allowed_name(row["name"], place): FetchedFile(**row) for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{place} is no receipt of nexus data fetch", fix="choose another folder") from error


def settle_names(wanted: Sequence[WantedFile], receipt: Mapping[str, FetchedFile], place: str) -> list[WantedFile]:
    """The wanted files under the names that earlier fetches into the same folder gave them.

    Raises:
        DataError: a name is taken by a file from another URL.
    """
    by_url = {entry.url: entry.name for entry in receipt.values()}
    settled = [replace(one, name=by_url.get(one.url, one.name)) for one in wanted]
    for one in settled:
        other = receipt.get(one.name)
        if other is not None and other.url != one.url:
            raise DataError(f"{place}/{one.name} was fetched from {other.url}", fix="fetch into another folder")
    return settled


def _allowed_name(name: str, url: str) -> str:
    is_ours = name == RECEIPT_NAME or name.endswith((".part", ".part.json", ".bad"))
    is_unsafe = name.startswith((".", "-", "~")) or any(mark in name for mark in "/\\:\0\n\r") or ".." in name
    if not name or is_ours or is_unsafe or len(name.encode()) > MAX_NAME_BYTES:
        raise DataError(f"{url} gives no usable file name ({name[:60]!r})", fix="fetch it by hand, or from another URL")
    return name
