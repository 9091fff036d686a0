"""Files over HTTP: the edge, and the loop that brings one file home whole.

A file grows as `NAME.part`, with `NAME.part.json` saying which version it is of; only what was verified gets its name.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nexus_llm
from nexus_llm.cloud.growing_file import GrowingFile
from nexus_llm.data.catalogue.download import (
    PIECE_BYTES,
    Answer,
    FetchedFile,
    Remote,
    RemoteFile,
    TransientError,
    WantedFile,
    backoff_seconds,
    judge_answer,
    remote_file,
    resume_headers,
    retry_after_seconds,
)
from nexus_llm.errors import DataError, TryAgainError
from nexus_llm.storage import explained

if TYPE_CHECKING:
    import httpx

TIMEOUT_SECONDS = 30.0  # without a single byte; a slow line is fine, a dead one is not
_MAX_PAGE_BYTES = 65_536
_LINKED = ("x-linked-etag", "x-linked-size")  # the hub says them only in its redirect


@dataclass(frozen=True)
class Patience:
    """How often a download tries without progress, and how it waits in between."""

    attempts: int = 6
    sleep: Callable[[float], object] = time.sleep
    jitter: Callable[[], float] = field(default_factory=lambda: random.Random(17).random)  # noqa: S311 - not a secret
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def http_client(
    *,
    connections: int,
    timeout_seconds: float = TIMEOUT_SECONDS,
    tokens: Mapping[str, str] | None = None,
    transport: Any = None,
) -> httpx.Client:
    """A client that opens at most `connections`, follows no redirect away from https, and asks for bytes as they are.

    `tokens` are bearer tokens by `scheme://host`: each is sent to that host only.
    """
    import httpx

    def authorize(request: httpx.Request) -> None:
        token = (tokens or {}).get(f"{request.url.scheme}://{request.url.netloc.decode()}")
        if token:
            request.headers["authorization"] = f"Bearer {token}"

    return httpx.Client(
        timeout=timeout_seconds,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        follow_redirects=True,
        headers={"accept-encoding": "identity", "user-agent": f"nexus-llm/{nexus_llm.__version__}"},
        event_hooks={"request": [authorize], "response": [_refuse_unsafe_redirect]},
        transport=transport,
    )


class HttpRemote:
    """The `nexus_llm.data.catalogue.download.Remote` of http and https."""

    def __init__(self, client: httpx.Client, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._client = client
        self._now = now

    def describe(self, url: str) -> RemoteFile:
        with _explained_transport(url):
            answer = self._client.head(url)
            if 200 <= answer.status_code < 300:
                return remote_file(_headers(answer))
            if answer.status_code in (400, 403, 405, 501):  # signed links and simple servers know only GET
                with self._client.stream("GET", url, headers={"range": "bytes=0-0"}) as first:
                    if first.status_code in (200, 206):
                        return remote_file(_headers(first), status=first.status_code)
                    answer = first
            raise refusal(answer.status_code, answer.headers, url, now=self._now())

    @contextlib.contextmanager
    def open(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        with _explained_transport(url), self._client.stream("GET", url, headers=dict(headers)) as answer:
            length = answer.headers.get("content-length", "")
            if answer.status_code not in (200, 206) and length.isdecimal() and int(length) <= _MAX_PAGE_BYTES:
                answer.read()  # an error page that is read to its end leaves the connection usable
            yield _HttpAnswer(answer.status_code, _headers(answer), answer)


@dataclass(frozen=True, slots=True)
class _HttpAnswer:
    status: int
    headers: Mapping[str, str]
    response: Any

    def pieces(self) -> Iterator[bytes]:
        # No chunk size: httpx would hold back, and lose with the line, what does not fill a chunk.
        with _explained_transport(str(self.response.url)):
            yield from self.response.iter_raw()


def refusal(status: int, headers: Mapping[str, str], url: str, *, now: datetime) -> DataError | TransientError:
    """The error for a status that is not success."""
    if judge_answer(status, headers, state=None, have_bytes=0, is_hash_known=False) == "retry":
        return TransientError(
            f"HTTP {status}", retry_after_seconds=retry_after_seconds(headers.get("retry-after"), now)
        )
    if status in (401, 403):
        return DataError(
            f"{url} is not given to this user (HTTP {status})", fix="accept its terms, and set HF_TOKEN for the hub"
        )
    return DataError(f"{url} answered HTTP {status}", fix="check the URL")


def download_file(
    remote: Remote,
    wanted: WantedFile,
    folder: Path,
    *,
    described: RemoteFile | None = None,
    max_bytes: int | None = None,
    patience: Patience | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
    check_stop: Callable[[], None] = lambda: None,
) -> FetchedFile:
    """Puts one file into `folder`, whole and verified, continuing what an earlier attempt or process left.

    `on_bytes` hears of bytes that arrived (negative where some had to be thrown away); `check_stop` is called between
    pieces and may raise. `NAME.part.json` stays beside the file until a receipt names it (`forget_partial`).

    Raises:
        DataError: the host refuses or lies, or the hash is wrong (the file is then kept as `NAME.bad`).
        TryAgainError: the line failed too often without progress; the same call continues.
        StorageError: the disk is full.
    """
    patience = patience or Patience()
    with explained(str(folder / wanted.name)):
        growing = GrowingFile(folder, wanted, on_bytes)
        if growing.is_whole_already():
            return growing.finish()
        failures = 0
        try:
            while True:
                before = growing.received
                try:
                    _attempt(remote, growing, described, max_bytes=max_bytes, check_stop=check_stop, now=patience.now)
                    if not growing.is_worth_another_try():
                        return growing.finish()
                except TransientError as error:
                    # A line that breaks every few MB still ends some day; one that brings nothing does not.
                    failures = 1 if growing.received - before >= PIECE_BYTES else failures + 1
                    if failures >= patience.attempts:
                        raise TryAgainError(
                            f"{wanted.url} failed {failures} times at byte {growing.have} ({error})",
                            fix="the same command continues",
                        ) from error
                    asked = error.retry_after_seconds
                    patience.sleep(backoff_seconds(failures - 1, patience.jitter()) if asked is None else asked)
                    check_stop()
        finally:
            growing.close()


def _attempt(
    remote: Remote,
    growing: GrowingFile,
    described: RemoteFile | None,
    *,
    max_bytes: int | None,
    check_stop: Callable[[], None],
    now: Callable[[], datetime],
) -> None:
    """One request, and what it brings. Returns when the file is complete."""
    url = growing.wanted.url
    is_hash_known = growing.sha256 is not None
    headers = resume_headers(growing.state, growing.have, is_hash_known=is_hash_known)
    if headers is None:
        growing.restart(None)
    with remote.open(url, headers or {}) as answer:
        verdict = judge_answer(
            answer.status, answer.headers, state=growing.state, have_bytes=growing.have, is_hash_known=is_hash_known
        )
        if verdict == "complete":
            return
        if verdict == "discard":
            growing.restart(None)
            raise TransientError("the file changed on its host", retry_after_seconds=0.0)
        if verdict in ("retry", "refuse"):
            raise refusal(answer.status, answer.headers, url, now=now())
        _begin(growing, answer, described, is_fresh=verdict == "fresh")
        _receive(growing, answer, max_bytes=max_bytes, check_stop=check_stop)


def _begin(growing: GrowingFile, answer: Answer, described: RemoteFile | None, *, is_fresh: bool) -> None:
    """Settles which version the coming bytes belong to."""
    found = remote_file(answer.headers, status=answer.status)
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity" and not growing.wanted.name.endswith((".gz", ".zst", ".br")):
        raise DataError(
            f"{growing.wanted.url} comes encoded as {encoding} although bytes as they are were asked for",
            fix="its length and hash could not be checked: fetch it from another host",
        )
    growing.sha256 = growing.sha256 or found.sha256 or (described.sha256 if described else None)
    if not is_fresh:
        growing.mark_pieced()
        return
    if described is not None and described.size is not None:
        is_changed = (described.etag, described.last_modified) != (found.etag, found.last_modified)
        if found.size is None:
            found = RemoteFile(described.size, found.etag, found.last_modified, found.sha256)
        elif found.size != described.size and not is_changed:
            growing.restart(None)
            raise TransientError(f"the host announced {described.size} bytes and sends {found.size}")
    growing.restart(found)


def _receive(growing: GrowingFile, answer: Answer, *, max_bytes: int | None, check_stop: Callable[[], None]) -> None:
    announced = growing.state.size if growing.state else None
    try:
        for piece in answer.pieces():
            growing.write(piece)
            if announced is not None and growing.have > announced:
                growing.restart(None)
                raise TransientError(f"the host sends more than the {announced} bytes that it announced")
            if max_bytes is not None and growing.have > max_bytes:
                growing.restart(None)
                raise DataError(f"{growing.wanted.url} is larger than {max_bytes} bytes", fix="raise --max-bytes")
            check_stop()
    finally:
        growing.close()
    if announced is not None and growing.have < announced:
        raise TransientError(f"it ended after {growing.have} of {announced} bytes")


def _refuse_unsafe_redirect(response: httpx.Response) -> None:
    if not response.has_redirect_location:
        return
    here, there = response.request.url, response.request.url.join(response.headers["location"])
    if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme != "https"):
        raise DataError(f"{here} redirects to {there.scheme}://{there.host}", fix="ask its host for an https URL")


@contextlib.contextmanager
def _explained_transport(url: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise DataError(f"{url} cannot be asked for ({error})", fix="check the URL") from error
    except httpx.TransportError as error:
        raise TransientError(f"{type(error).__name__}: {error}") from error


def _headers(answer: httpx.Response) -> dict[str, str]:
    """The answer's headers, with what the hub says of a large file in the redirect before."""
    found = {name: one.headers[name] for one in answer.history for name in _LINKED if name in one.headers}
    return {**found, **{name.lower(): value for name, value in answer.headers.items()}}
