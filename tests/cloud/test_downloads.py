"""One file at a time from a real server on this machine that cuts, lies, stalls and changes its mind."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lying_server import LyingServer, Trick, lying_server
from nexus_llm.cloud.downloads import HttpRemote, Patience, download_file, http_client
from nexus_llm.cloud.growing_file import forget_partial
from nexus_llm.data.catalogue.download import FetchedFile, PartialFile, WantedFile, partial_document
from nexus_llm.errors import DataError, StorageError, TryAgainError

CONTENT = bytes(range(256)) * 1_200  # 300 kB: several reads of a socket
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]


@pytest.fixture
def server() -> Iterator[LyingServer]:
    with lying_server() as one:
        yield one


@dataclass
class Run:
    """One download, without a real wait."""

    folder: Path
    waits: list[float] = field(default_factory=list)
    seen: int = 0

    def get(self, url: str, **options: Any) -> FetchedFile:
        timeout = options.pop("timeout_seconds", 5.0)
        wanted = WantedFile(url, options.pop("name", "f"), options.pop("size", None), options.pop("sha256", None))
        patience = Patience(attempts=options.pop("attempts", 4), sleep=self.waits.append, jitter=lambda: 1.0)
        with http_client(connections=2, timeout_seconds=timeout, tokens=options.pop("tokens", None)) as client:
            remote = HttpRemote(client)
            described = remote.describe(url) if options.pop("head", False) else None
            return download_file(
                remote, wanted, self.folder, described=described, patience=patience, on_bytes=self._hear, **options
            )

    def _hear(self, count: int) -> None:
        self.seen += count

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    @property
    def content(self) -> bytes:
        return (self.folder / "f").read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "to"
    folder.mkdir()
    return Run(folder)


def test_an_honest_file_arrives(server: LyingServer, run: Run) -> None:
    done = run.get(server.add("/f", CONTENT), head=True)
    assert run.content == CONTENT
    assert (done.bytes, done.sha256, run.seen, run.waits) == (len(CONTENT), SHA256, len(CONTENT), [])
    assert run.names == {"f", "f.part.json"}  # the note goes when a receipt names the file
    forget_partial(run.folder, "f")
    assert run.names == {"f"}


def test_an_empty_file_arrives(server: LyingServer, run: Run) -> None:
    assert run.get(server.add("/f", b"")).bytes == 0
    assert run.content == b""


@pytest.mark.parametrize("cut", [0, 1, 70_000, len(CONTENT) - 1])
def test_a_line_that_breaks_is_continued_where_it_broke(server: LyingServer, run: Run, cut: int) -> None:
    url = server.add("/f", CONTENT, tricks=[Trick(cut_after=cut)])
    assert run.get(url).sha256 == SHA256
    assert run.content == CONTENT
    assert run.waits == [1.0]
    assert run.seen == len(CONTENT)
    again = server.gets("/f")[1]
    assert again.get("range") == (f"bytes={cut}-" if cut else None)
    assert again.get("if-range") == (server.pages["/f"].etag if cut else None)


def test_a_line_that_always_breaks_gives_up_and_keeps_what_came(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, tricks=[Trick(cut_after=10)] * 4)
    with pytest.raises(TryAgainError, match="failed 4 times at byte 40"):
        run.get(url)
    assert run.waits == [1.0, 2.0, 4.0]
    assert (run.folder / "f.part").read_bytes() == CONTENT[:40]
    assert run.get(url).sha256 == SHA256
    assert server.gets("/f")[-1]["range"] == "bytes=40-"


def test_a_long_file_may_break_often_as_long_as_it_grows(server: LyingServer, run: Run) -> None:
    content = CONTENT * 28  # 8.6 MB
    url = server.add("/f", content, tricks=[Trick(cut_after=2**20 + 1)] * 6)
    assert run.get(url, attempts=2).bytes == len(content)
    assert run.content == content


def test_a_host_that_is_silent_is_left_and_asked_again(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, tricks=[Trick(stall_after=100_000)])
    assert run.get(url, timeout_seconds=0.3).sha256 == SHA256
    assert server.gets("/f")[1]["range"] == "bytes=100000-"


def test_a_busy_host_is_waited_for_as_long_as_it_says(server: LyingServer, run: Run) -> None:
    tricks = [
        Trick(status=429, headers={"retry-after": "17"}),
        Trick(status=500),
        Trick(status=503, headers={"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}),
    ]
    assert run.get(server.add("/f", CONTENT, tricks=tricks)).sha256 == SHA256
    assert run.waits == [17.0, 2.0, 0.0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_repeated(server: LyingServer, run: Run, status: int) -> None:
    url = server.add("/f", CONTENT, tricks=[Trick(status=status)])
    with pytest.raises(DataError, match=str(status)):
        run.get(url)
    assert len(server.gets("/f")) == 1
    assert run.names == set()


def test_a_host_without_ranges_starts_again(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, tricks=[Trick(cut_after=1000), Trick(ignores_range=True)])
    assert run.get(url).sha256 == SHA256
    assert run.content == CONTENT
    assert run.seen == len(CONTENT)


def test_a_file_that_changes_half_way_is_never_a_mixture(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, tricks=[Trick(cut_after=1000)], changes_to=OTHER)
    run.get(url)
    assert run.content == OTHER


def test_a_change_that_the_host_hides_from_if_range_is_seen_in_its_tag(server: LyingServer, run: Run) -> None:
    # A weak tag may not stand in If-Range, so the host sends a rest: of another version.
    url = server.add("/f", CONTENT, etag='W/"1"', tricks=[Trick(cut_after=1000)], changes_to=OTHER)
    run.get(url)
    assert run.content == OTHER


def test_without_any_tag_or_date_nothing_is_glued(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, etag=None, tricks=[Trick(cut_after=1000)])
    assert run.get(url).sha256 == SHA256
    assert "range" not in server.gets("/f")[1]


def test_without_a_tag_but_with_a_hash_a_wrong_glue_is_fetched_anew(server: LyingServer, run: Run) -> None:
    (run.folder / "f.part").write_bytes(b"x" * 1000)
    url = server.add("/f", CONTENT, etag=None)
    (run.folder / "f.part.json").write_bytes(partial_document(PartialFile(url, len(CONTENT), None, None)))
    assert run.get(url, sha256=SHA256).sha256 == SHA256
    assert [one.get("range") for one in server.gets("/f")] == ["bytes=1000-", None]
    assert run.content == CONTENT


def test_bytes_of_unknown_origin_are_not_continued(server: LyingServer, run: Run) -> None:
    (run.folder / "f.part").write_bytes(b"x" * 1000)
    url = server.add("/f", CONTENT)
    run.get(url)
    assert run.content == CONTENT
    assert "range" not in server.gets("/f")[0]


def test_bytes_of_another_url_are_not_continued_even_with_the_same_tag(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT)
    (run.folder / "f.part").write_bytes(b"x" * 1000)
    other = PartialFile(f"{server.url}/other/f", len(CONTENT), server.pages["/f"].etag, None)
    (run.folder / "f.part.json").write_bytes(partial_document(other))
    run.get(url)
    assert run.content == CONTENT


def test_less_than_announced_is_continued_and_in_the_end_refused(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, etag=None, tricks=[Trick(announce=len(CONTENT) + 5)] * 4)
    with pytest.raises(TryAgainError, match=f"at byte {len(CONTENT)}"):
        run.get(url)
    assert "f" not in run.names


def test_a_head_that_says_less_than_the_body_is_caught(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, head_size=1000, tricks=[Trick(chunked=True)] * 4)
    with pytest.raises(TryAgainError, match="sends more than the 1000 bytes that it announced"):
        run.get(url, head=True)
    assert "f" not in run.names


def test_a_head_that_says_more_than_the_body_is_caught(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, head_size=len(CONTENT) + 9, tricks=[Trick(chunked=True)])
    with pytest.raises(
        TryAgainError, match=f"announced {len(CONTENT) + 9} bytes and sends {len(CONTENT)}|it ended after"
    ):
        run.get(url, head=True)


def test_a_body_longer_than_its_content_length_never_passes_a_hash(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, tricks=[Trick(announce=1000)] * 4)
    with pytest.raises(DataError, match="sha256"):
        run.get(url, sha256=SHA256)
    with pytest.raises(TryAgainError, match="announced"):
        run.get(server.add("/g", CONTENT, tricks=[Trick(announce=1000)] * 4), name="g", head=True)


def test_a_body_of_unknown_length_arrives(server: LyingServer, run: Run) -> None:
    assert run.get(server.add("/f", CONTENT, tricks=[Trick(chunked=True)])).sha256 == SHA256


def test_an_encoded_body_is_refused_but_for_files_that_are_archives(server: LyingServer, run: Run) -> None:
    trick = Trick(headers={"content-encoding": "gzip"})
    with pytest.raises(DataError, match="comes encoded as gzip"):
        run.get(server.add("/f", CONTENT, tricks=[trick]))
    assert run.get(server.add("/f.gz", CONTENT, tricks=[trick]), name="f.gz").sha256 == SHA256
    assert server.gets("/f")[0]["accept-encoding"] == "identity"


def test_a_wrong_hash_puts_the_file_aside(server: LyingServer, run: Run) -> None:
    with pytest.raises(DataError, match=f"sha256 {SHA256} instead of {'0' * 64}"):
        run.get(server.add("/f", CONTENT), sha256="0" * 64)
    assert run.names == {"f.bad"}


def test_the_hubs_hash_in_its_redirect_counts(server: LyingServer, run: Run) -> None:
    target = server.add("/real", CONTENT)
    linked = {"x-linked-etag": f'"{"0" * 64}"', "x-linked-size": str(len(CONTENT))}
    url = server.add("/f", b"", tricks=[Trick(redirect=target, headers=linked)])
    with pytest.raises(DataError, match=f"instead of {'0' * 64}"):
        run.get(url)


def test_a_stated_size_counts(server: LyingServer, run: Run) -> None:
    with pytest.raises(DataError, match=f"{len(CONTENT)} bytes instead of 7"):
        run.get(server.add("/f", CONTENT), size=7)


def test_more_bytes_than_allowed_are_not_written(server: LyingServer, run: Run) -> None:
    with pytest.raises(DataError, match="larger than 1000 bytes"):
        run.get(server.add("/f", CONTENT, tricks=[Trick(chunked=True)]), max_bytes=1000)
    assert run.names == set()


def test_a_redirect_is_followed_but_not_to_another_scheme(server: LyingServer, run: Run) -> None:
    target = server.add("/real", CONTENT)
    assert run.get(server.add("/f", b"", tricks=[Trick(redirect=target)])).sha256 == SHA256
    with pytest.raises(DataError, match="redirects to file://"):
        run.get(server.add("/g", b"", tricks=[Trick(redirect="file:///etc/passwd")]), name="g")


def test_https_is_not_left() -> None:
    import httpx

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "http://plain.example/f"})

    client = http_client(connections=1, transport=httpx.MockTransport(answer))
    with client, pytest.raises(DataError, match=r"redirects to http://plain\.example"):
        HttpRemote(client).describe("https://safe.example/f")


def test_a_token_goes_to_its_host_only(server: LyingServer, run: Run) -> None:
    with lying_server() as other:
        target = other.add("/real", CONTENT)
        url = server.add("/f", b"", tricks=[Trick(redirect=target)])
        run.get(url, tokens={server.url: "secret"})
        assert server.gets("/f")[0]["authorization"] == "Bearer secret"
        assert "authorization" not in other.gets("/real")[0]


def test_a_host_without_head_is_asked_for_one_byte(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT, head_status=405)
    with http_client(connections=1) as client:
        assert HttpRemote(client).describe(url).size == len(CONTENT)


def test_a_file_that_is_not_ours_is_not_overwritten(server: LyingServer, run: Run) -> None:
    (run.folder / "f").write_bytes(b"mine")
    with pytest.raises(DataError, match="is there already"):
        run.get(server.add("/f", CONTENT))
    assert run.content == b"mine"


def test_a_crash_between_the_name_and_the_receipt_costs_no_second_download(server: LyingServer, run: Run) -> None:
    url = server.add("/f", CONTENT)
    first = run.get(url)
    assert run.get(url) == first
    assert len(server.gets("/f")) == 1


def test_a_stop_between_pieces_keeps_what_came(server: LyingServer, run: Run) -> None:
    def stop() -> None:
        raise TryAgainError("stopped", fix="again")

    url = server.add("/f", CONTENT)
    with pytest.raises(TryAgainError):
        run.get(url, check_stop=stop)
    have = (run.folder / "f.part").stat().st_size
    assert 0 < have < len(CONTENT)
    assert run.get(url).sha256 == SHA256
    assert server.gets("/f")[1]["range"] == f"bytes={have}-"


def test_a_full_disk_is_said_in_words(server: LyingServer, run: Run) -> None:
    def stop() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="no space left"):
        run.get(server.add("/f", CONTENT), check_stop=stop)
