from __future__ import annotations

import contextlib
import gzip
import io
import sys
import zlib
from collections import Counter
from email.message import EmailMessage
from pathlib import Path

import pytest

from nexus_llm.data.reading import pages, papers, warc
from nexus_llm.data.reading.blocks import BrokenRecord, ReadSettings, UnusableError
from nexus_llm.data.reading.pages import decoded
from nexus_llm.data.reading.readers import blocks_of, records_of
from nexus_llm.errors import MissingExtraError
from nexus_llm.records import Document

pypdf = pytest.importorskip("pypdf", reason="needs the extra [documents]")
pytest.importorskip("trafilatura", reason="needs the extra [documents]")

STORY = "The harbour was quiet that morning, and the boats lay still on the water. " * 6
PAGE = (
    "<html><head><title>T</title></head><body><nav><a href='/'>Home</a> <a href='/x'>Subscribe now</a></nav>"
    f"<article><h1>Harbour</h1><p>{STORY}</p><p>Én anden tekst, også på dansk. {STORY}</p></article>"
    "<footer>© Cookies and terms</footer></body></html>"
)
Records = list[tuple[int, Document | BrokenRecord]]


def read(path: Path, content: bytes, skipped: Counter[str] | None = None) -> Records:
    path.write_bytes(content)
    return [
        pair
        for block in blocks_of(path, origin=path.name, source="s")
        for pair in records_of(block, ReadSettings(), skipped=skipped)
    ]


def only(records: Records) -> Document:
    ((number, record),) = records
    assert number == 1
    assert isinstance(record, Document), record
    return record


def why(records: Records) -> str:
    ((_, record),) = records
    assert isinstance(record, BrokenRecord)
    return record.error


def test_a_page_gives_its_story_without_menu_and_footer(tmp_path: Path) -> None:
    found = only(read(tmp_path / "a.html", PAGE.encode()))
    assert found.origin == "a.html"
    assert "harbour was quiet" in found.text
    assert "også på dansk" in found.text
    assert "Subscribe" not in found.text
    assert "Cookies" not in found.text


@pytest.mark.parametrize(
    ("raw", "declared", "text"),
    [
        ("é".encode(), "iso-8859-1", "é"),  # valid UTF-8 goes before what HTTP says
        ("é".encode("latin-1"), None, "é"),
        ("–".encode("windows-1252"), "iso-8859-1", "–"),  # Latin-1 means windows-1252 on the web
        ("<meta charset='shift_jis'>日本".encode("shift_jis"), None, "<meta charset='shift_jis'>日本"),
        ("日本".encode("euc-jp"), "euc-jp", "日本"),
        ("é".encode("latin-1"), "no-such-charset", "é"),
        ("é".encode("latin-1"), "base64", "é"),  # a codec of Python that is no charset
        ("é".encode("utf-16"), None, "é"),
        (b"\xef\xbb\xbfa", None, "a"),
    ],
)
def test_a_page_is_decoded_by_its_bytes_then_by_what_is_declared(raw: bytes, declared: str | None, text: str) -> None:
    assert decoded(raw, declared_charset=declared).removeprefix("\ufeff") == text


@pytest.mark.parametrize("content", [b"", b"   ", b"<html></html>", b"<", b"<html>" + b"<div>" * 20_000])
def test_a_page_without_text_is_broken(tmp_path: Path, content: bytes) -> None:
    assert why(read(tmp_path / "a.html", content))


def test_a_page_beyond_the_bound_is_broken(tmp_path: Path) -> None:
    assert "longer than" in why(read(tmp_path / "a.html", b"<p>" + b"x" * pages.MAX_PAGE_BYTES))


def record(kind: str, content: bytes, content_type: str, *, uri: str = "https://example.org/a") -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2024-04-25T16:27:55Z\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1")
    return record("response", head + body, "application/http; msgtype=response")


HTML = "Content-Type: text/html; charset=utf-8"


def test_an_archive_gives_its_pages_with_their_address_and_counts_the_rest(tmp_path: Path) -> None:
    raw = b"".join(
        [
            record("warcinfo", b"software: x\r\n", "application/warc-fields"),
            record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
            response(PAGE.encode(), HTML),
            response(b"\x89PNG", "Content-Type: image/png"),
            response(PAGE.encode(), HTML, status="404 Not Found"),
            response(PAGE.encode()),  # no type: recognised by how it begins
            record("resource", PAGE.encode(), "text/html"),
            record("conversion", "Already text: é".encode(), "text/plain", uri="<https://example.org/b>"),
            record("conversion", b"\xff", "text/plain"),
        ]
    )
    for name, content in (("a.warc", raw), ("a.warc.gz", gzip.compress(raw[:700]) + gzip.compress(raw[700:]))):
        skipped: Counter[str] = Counter()
        found = read(tmp_path / name, content, skipped)
        assert [number for number, _ in found] == [3, 6, 7, 8, 9]
        first, text, broken = found[0][1], found[3][1], found[4][1]
        assert isinstance(first, Document)
        assert first.origin == f"{name}:3"
        assert first.metadata == {"url": "https://example.org/a", "date": "2024-04-25T16:27:55Z"}
        assert isinstance(text, Document)
        assert (text.text, text.metadata["url"]) == ("Already text: é", "https://example.org/b")
        assert isinstance(broken, BrokenRecord)
        assert "not UTF-8" in broken.error
        assert skipped == {
            "warcinfo": 1,
            "request": 1,
            "response image/png": 1,
            "response with HTTP status 404": 1,
        }


def chunks(body: bytes) -> bytes:
    parts = [body[place : place + 100] for place in range(0, len(body), 100)]
    return b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(PAGE.encode()), ["Content-Encoding: gzip"]),
        (zlib.compress(PAGE.encode()), ["Content-Encoding: deflate"]),
        (zlib.compress(PAGE.encode())[2:-4], ["Content-Encoding: deflate"]),
        (chunks(PAGE.encode()), ["Transfer-Encoding: chunked"]),
        (chunks(gzip.compress(PAGE.encode())), ["Transfer-Encoding: chunked", "Content-Encoding: gzip"]),
        (PAGE.encode(), ["Transfer-Encoding: chunked", "Content-Encoding: br"]),  # undone by the crawler
    ],
)
def test_a_page_is_unpacked_as_its_server_packed_it(tmp_path: Path, body: bytes, headers: list[str]) -> None:
    found = only(read(tmp_path / "a.warc", response(body, HTML, *headers)))
    assert "også på dansk" in found.text


def test_a_page_that_unpacks_to_a_gigabyte_is_broken(tmp_path: Path) -> None:
    packed = zlib.compressobj(1)
    bomb = b"".join(packed.compress(b" " * 2**20) for _ in range(1_024)) + packed.flush()
    assert len(warc._inflated(bomb)) == pages.MAX_PAGE_BYTES + 1  # no more is ever unpacked
    assert "longer than" in why(read(tmp_path / "a.warc", response(bomb, HTML, "Content-Encoding: deflate")))


def pdf(*contents: bytes, password: str = "") -> bytes:
    """A PDF file with one page a content stream."""
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
                             NameObject("/BaseFont"): NameObject("/Helvetica")})  # fmt: skip
    for content in contents:
        page = writer.add_blank_page(200, 200)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(content)
        page[NameObject("/Contents")] = writer._add_object(stream.flate_encode())
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def shown(text: str) -> bytes:
    return f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode()


def test_a_paper_gives_its_pages_as_paragraphs(tmp_path: Path) -> None:
    found = only(read(tmp_path / "a.pdf", pdf(shown("First page."), b"", shown("Third page."))))
    assert found.text == "First page.\n\nThird page.\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "damaged"),
        (b"%PDF-1.7 nothing", "damaged"),
        (pdf(shown("x"))[:300], "damaged"),
        (pdf(b""), "no text"),
        (pdf(shown("secret"), password="word"), "encrypted"),
    ],
)
def test_a_paper_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, complaint: str) -> None:
    assert complaint in why(read(tmp_path / "a.pdf", content))


def test_a_paper_that_would_take_for_ever_is_stopped_by_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papers, "MAX_OPERATIONS", 1_000)
    monkeypatch.setattr(papers, "MAX_PAGES", 3)
    assert "draws more than 1,000" in why(read(tmp_path / "a.pdf", pdf(b"q Q " * 600)))
    assert "4 pages, more than 3" in why(read(tmp_path / "b.pdf", pdf(*[shown("x")] * 4)))


def mail(*, plain: str | None, page: str | None = None, attachment: bool = False) -> bytes:
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message["Date"] = "Mon, 05 Oct 2020 10:00:00 +0200"
    if plain is not None:
        message.set_content(plain, cte="base64")
    if page is not None:
        message.add_alternative(page, subtype="html")
    if attachment:
        message.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
        message.add_attachment("attached notes", filename="b.txt")
    return message.as_bytes()


def test_a_mail_gives_subject_text_and_date_and_counts_attachments(tmp_path: Path) -> None:
    skipped: Counter[str] = Counter()
    raw = mail(plain="Hello\n> quoted\n-- \nAnn\n", attachment=True)
    found = only(read(tmp_path / "a.eml", raw, skipped))
    assert found.text == "Grüße\n\nHello\n> quoted\n-- \nAnn\n"
    assert found.metadata == {"date": "2020-10-05T10:00:00+02:00"}
    assert skipped == {"mail attachment": 2}


def test_a_mail_with_a_page_only_gives_its_main_text(tmp_path: Path) -> None:
    found = only(read(tmp_path / "a.eml", mail(plain=None, page=PAGE)))
    assert "harbour was quiet" in found.text
    assert "Subscribe" not in found.text


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [(b"", "no mail header"), (b"just text\n", "no mail header"), (b"Subject: x\n\n  \n", "no text")],
)
def test_what_is_no_mail_says_so(tmp_path: Path, raw: bytes, complaint: str) -> None:
    assert complaint in why(read(tmp_path / "a.eml", raw))


def test_a_mail_with_an_unknown_charset_or_a_wrong_date_is_still_read(tmp_path: Path) -> None:
    raw = b"Subject: =?utf-8?b?x?= =?nope?q?x?=\nDate: yesterday\nContent-Type: text/plain; charset=nope\n\nText \xe9\n"
    assert "Text é" in only(read(tmp_path / "a.eml", raw)).text


def test_a_mailbox_gives_each_mail_under_its_number(tmp_path: Path) -> None:
    one, two = b"Subject: a\n\nFrom here on\n>From there\n", b"Subject: b\r\n\r\nText\r\n"
    raw = b"From x@y\n" + one + b"\nFrom x@y Tue Jan  2 10:00:00 2001\r\n" + two + b"\r\nFrom z 10:00\n\n"
    found = read(tmp_path / "a.mbox", raw)
    texts = {number: one.text if isinstance(one, Document) else one.error for number, one in found}
    assert texts == {1: "a\n\nFrom here on\nFrom there\n", 2: "b\n\nText\n", 3: "there is no mail header"}
    assert [one.origin for _, one in found if isinstance(one, Document)] == ["a.mbox:1", "a.mbox:2"]


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "commoncrawl-warc").exists(), reason="needs ../shared/data/commoncrawl-warc")
@pytest.mark.parametrize(
    ("name", "pages_in_it"), [("sample-0000.warc.gz", 22), ("whirlwind.warc.gz", 1), ("whirlwind.warc.wet.gz", 1)]
)
def test_real_archives_give_all_their_pages(name: str, pages_in_it: int) -> None:
    path = SHARED / "commoncrawl-warc" / name
    found = [one for block in blocks_of(path, origin=name, source="s") for _, one in records_of(block, ReadSettings())]
    assert len(found) == pages_in_it
    assert all(isinstance(one, Document) and one.metadata["url"].startswith("http") for one in found)


def test_the_extractor_s_caches_do_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from trafilatura.utils import trim

    monkeypatch.setattr(pages, "_PAGES_BETWEEN_RESETS", 1)
    trim("something to remember")
    assert trim.cache_info().currsize
    with contextlib.suppress(UnusableError):
        pages.main_text("")
    assert trim.cache_info().currsize == 0


@pytest.mark.parametrize(("module", "name"), [("trafilatura", "a.html"), ("pypdf", "a.pdf")])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=module) as error:
        read(tmp_path / name, PAGE.encode())
    assert "[documents]" in error.value.fix
