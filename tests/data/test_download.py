"""What a download decides, as pure functions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.catalogue.download import (
    MAX_RETRY_AFTER_SECONDS,
    FetchedFile,
    PartialFile,
    RemoteFile,
    WantedFile,
    backoff_seconds,
    byte_amount,
    file_name,
    hub_name,
    is_same_version,
    judge_answer,
    mismatch,
    names_for,
    parse_partial,
    parse_receipt,
    partial_document,
    receipt_document,
    remote_file,
    resume_headers,
    retry_after_seconds,
    settle_names,
    sidecar_sha256,
    url_list,
)
from nexus_llm.errors import DataError, UsageError

NOW = datetime(2026, 11, 1, tzinfo=UTC)
STATE = PartialFile("https://h/f", 100, '"v1"', "Sun, 01 Nov 2026 00:00:00 GMT")
REST = {"content-range": "bytes 40-99/100", "etag": '"v1"'}


def verdict(status: int, headers: dict[str, str] | None = None, *, have: int = 40, hashed: bool = False) -> str:
    return judge_answer(status, headers or {}, state=STATE, have_bytes=have, is_hash_known=hashed)


def test_a_rest_of_the_same_version_is_appended() -> None:
    assert verdict(206, REST) == "append"


@pytest.mark.parametrize(
    "change",
    [
        {"content-range": "bytes 39-99/100"},
        {"content-range": "bytes 40-98/99"},
        {"content-range": "nonsense"},
        {"etag": '"v2"'},
        {"etag": ""},
    ],
)
def test_a_rest_of_anything_else_is_thrown_away(change: dict[str, str]) -> None:
    headers = {name: value for name, value in {**REST, **change}.items() if value}
    assert verdict(206, headers) == "discard"


def test_a_known_hash_stands_in_for_a_missing_tag() -> None:
    assert verdict(206, {"content-range": "bytes 40-99/100"}, hashed=True) == "append"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_host_is_asked_again(status: int) -> None:
    assert verdict(status) == "retry"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 204, 304])
def test_a_refusal_is_final(status: int) -> None:
    assert verdict(status) == "refuse"


def test_nothing_behind_the_last_byte_means_complete_only_with_the_right_size() -> None:
    assert verdict(416, have=100) == "complete"
    assert verdict(416, have=99) == "discard"


def test_a_whole_file_instead_of_a_rest_starts_anew() -> None:
    assert verdict(200, REST) == "fresh"


def test_a_rest_is_asked_for_only_where_versions_can_be_told_apart() -> None:
    assert resume_headers(STATE, 40, is_hash_known=False) == {"range": "bytes=40-", "if-range": '"v1"'}
    weak = PartialFile("https://h/f", 100, 'W/"v1"', None)
    assert resume_headers(weak, 40, is_hash_known=False) == {"range": "bytes=40-"}
    dated = PartialFile("https://h/f", 100, 'W/"v1"', "Sun, 01 Nov 2026 00:00:00 GMT")
    assert resume_headers(dated, 40, is_hash_known=False) == {"range": "bytes=40-", "if-range": dated.last_modified}
    nameless = PartialFile("https://h/f", 100, None, None)
    assert resume_headers(nameless, 40, is_hash_known=False) is None
    assert resume_headers(nameless, 40, is_hash_known=True) == {"range": "bytes=40-"}
    assert resume_headers(STATE, 0, is_hash_known=True) is None
    assert resume_headers(None, 40, is_hash_known=True) is None


def test_another_size_is_another_version_whatever_the_tag_says() -> None:
    assert not is_same_version(STATE, RemoteFile(101, '"v1"', None))


@given(attempt=st.integers(0, 10_000), share=st.floats(0, 1))
def test_waiting_grows_but_stays_within_a_minute(attempt: int, share: float) -> None:
    seconds = backoff_seconds(attempt, share)
    assert 0.5 <= seconds <= 60
    assert backoff_seconds(attempt + 1, share) >= seconds


@given(st.text(max_size=40))
def test_no_retry_after_header_breaks_us_or_makes_us_wait_for_hours(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("12", 12),
        ("99999", MAX_RETRY_AFTER_SECONDS),
        ("Sun, 01 Nov 2026 00:01:40 GMT", 100),
        ("Sat, 31 Oct 2026 00:00:00 GMT", 0),
        ("soon", None),
        ("0\x1f", 0),
        ("-5", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_its_forms(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@pytest.mark.parametrize(
    "url",
    [
        "https://h/",
        "https://h/a/..",
        "https://h/%2e%2e%2fpasswd",
        "https://h/a%2fb",
        "https://h/a%5cb",
        "https://h/.bashrc",
        "https://h/-rf",
        "https://h/a%00b",
        "https://h/a..b",
        "https://h/fetch.json",
        "https://h/a.part",
        "https://h/a.part.json",
        "https://h/" + "a" * 250,
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(DataError, match="no usable file name"):
        file_name(url)


@given(st.text(max_size=60))
def test_a_name_never_leaves_its_folder(path: str) -> None:
    try:
        name = file_name(f"https://host/{path}")
    except (DataError, ValueError):
        return
    assert name
    assert not set(name) & {"/", "\\", "\0"}
    assert name not in (".", "..")


def test_files_of_the_same_name_keep_their_folders_apart() -> None:
    urls = ["https://h/x/2019/en.gz", "https://h/x/2020/en.gz", "https://h/x/2020/de.gz"]
    assert names_for(urls) == ["2019--en.gz", "2020--en.gz", "2020--de.gz"]
    assert names_for(["https://h/x/a.gz", "https://h/y/b.gz"]) == ["a.gz", "b.gz"]
    with pytest.raises(DataError, match="would all become"):
        names_for(["https://h/a.gz?x=1", "https://h/a.gz?x=2"])


def test_a_list_of_urls_may_have_comments_but_no_nonsense() -> None:
    assert url_list("# mine\nhttps://h/a\n\nhttps://h/a\nhttp://h/b\n", "list") == ["https://h/a", "http://h/b"]
    with pytest.raises(DataError, match="list:2 is no URL"):
        url_list("https://h/a\nfile:///etc/passwd", "list")
    with pytest.raises(DataError, match="names no URL"):
        url_list("# nothing\n", "list")


def test_what_a_host_says_of_a_file() -> None:
    sha256 = "a" * 64
    linked = {"x-linked-etag": f'"{sha256}"', "x-linked-size": "7", "content-length": "0", "etag": '"cdn"'}
    assert remote_file(linked) == RemoteFile(7, '"cdn"', None, sha256)
    assert remote_file({"content-range": "bytes 0-0/123", "content-length": "1"}, status=206).size == 123
    assert remote_file({"x-linked-etag": '"notahash"'}).sha256 is None


def test_a_hash_is_found_in_a_sidecar_of_either_form() -> None:
    one, two = "a" * 64, "B" * 64
    assert sidecar_sha256(f"{one}\n".encode(), "f") == one
    assert sidecar_sha256(f"{one}  other\n{two} *dir/f\n".encode(), "f") == two.lower()
    assert sidecar_sha256(f"{one}  other\n".encode(), "f") is None
    assert sidecar_sha256(b"<html>not here</html>", "f") is None


def test_what_arrived_is_compared_with_what_was_promised() -> None:
    assert mismatch(size=3, sha256="a", wanted_size=None, wanted_sha256="A") is None
    assert mismatch(size=3, sha256="a", wanted_size=4, wanted_sha256=None) == "3 bytes instead of 4"
    assert "sha256 a instead of b" in str(mismatch(size=3, sha256="a", wanted_size=3, wanted_sha256="b"))


def test_a_receipt_and_a_note_come_back_as_they_were() -> None:
    receipt = {name: FetchedFile(name, f"https://h/{name}", 3, "0" * 64, None, "MIT") for name in ("b", "a")}
    assert parse_receipt(receipt_document(receipt), "place") == receipt
    assert receipt_document(receipt) == receipt_document(dict(reversed(receipt.items())))
    assert parse_partial(partial_document(STATE)) == STATE
    assert parse_partial(b"{") is None
    assert parse_partial(b"[]") is None
    assert parse_partial(b'{"url": "x"}') is None
    for bad in (b"{", b"[]", b'{"files": [{"name": "../a", "url": "u", "bytes": 1, "sha256": "0"}]}'):
        with pytest.raises(DataError):
            parse_receipt(bad, "place")


def test_a_name_of_another_url_is_not_overwritten() -> None:
    receipt = {"a": FetchedFile("a", "https://h/1/a", 3, "0" * 64), "x--b": FetchedFile("x--b", "https://h/x/b", 3, "")}
    assert settle_names([WantedFile("https://h/x/b", "b")], receipt, "here")[0].name == "x--b"
    with pytest.raises(DataError, match="was fetched from https://h/1/a"):
        settle_names([WantedFile("https://h/2/a", "a")], receipt, "here")


def test_amounts_of_bytes() -> None:
    assert [byte_amount(text) for text in ("0", "1.5kB", "2M", "1TiB")] == [0, 1500, 2_000_000, 2**40]
    for bad in ("", "many", "-1", "5 PB", "1e9"):
        with pytest.raises(UsageError):
            byte_amount(bad)


def test_hub_names() -> None:
    assert hub_name("hf:org/name@refs/convert/parquet") == ("org/name", "refs/convert/parquet")
    for bad in ("hf:", "hf:a/b/c", "org/name", "hf:../x", "hf:a/.."):
        assert hub_name(bad) is None
