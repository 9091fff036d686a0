"""The text of e-mails: one in an .eml file, many in an .mbox file."""

from __future__ import annotations

import email
import email.errors
import email.utils
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from email.header import decode_header, make_header
from email.message import Message

from nexus_llm.data.reading import blocks
from nexus_llm.data.reading.blocks import TextRecord, UnusableError
from nexus_llm.data.reading.pages import main_text
from nexus_llm.data.reading.streams import ByteStream

# A message starts at a line "From … 12:08:34 …" behind an empty line or the file's start (RFC 4155); it is no part of
# the mail. The time is asked for because not every program quotes a "From " that begins a paragraph.
# It begins with plain bytes, which are searched for 10 times as fast as what may be one of two things.
_START = re.compile(rb"\nFrom (?:(?<=\n\nFrom )|(?<=\n\r\nFrom ))[^\n]{0,300}?\d\d:\d\d[^\n]{0,300}\n")
_FIRST_START = re.compile(rb"From [^\n]*\n")
_QUOTED_START = re.compile(rb"\n>(>*From )")
_LONGEST_START_BYTES = 2_000


def mbox_items(stream: ByteStream) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, message) of every message; None for one above MAX_RECORD_BYTES."""
    number, buffer, is_too_long = 0, b"", False
    while chunk := stream.read(blocks.BLOCK_BYTES):
        buffer += chunk
        starts = [0, *(match.start() + 1 for match in _START.finditer(buffer))]
        for start, end in itertools.pairwise(starts):
            number += 1
            yield number, None if is_too_long or end - start > blocks.MAX_RECORD_BYTES else buffer[start:end]
            is_too_long = False
        buffer = buffer[starts[-1] :]
        if len(buffer) > blocks.MAX_RECORD_BYTES:
            # Enough is kept to find a start that the end of the chunk has cut in two.
            buffer, is_too_long = buffer[-_LONGEST_START_BYTES:], True
    if buffer.strip():
        yield number + 1, None if is_too_long else buffer


def mail_text(raw: bytes, *, skipped: Counter[str] | None = None) -> TextRecord:
    """Subject and text of a mail: its text/plain parts, else the main text of its text/html parts.

    Signatures and quoted text stay. Attachments are counted in `skipped`, not read. The date goes to the metadata.

    Raises:
        UnusableError: it has no header, or no text.
    """
    if start := _FIRST_START.match(raw):
        raw = raw[start.end() :]
    raw = _QUOTED_START.sub(rb"\n\1", raw)
    try:
        mail = email.message_from_bytes(raw)
        if not mail.keys():
            raise UnusableError("there is no mail header")
        plain, pages = _parts(mail, skipped)
        text = "\n\n".join(plain) if any(part.strip() for part in plain) else "\n\n".join(map(_page_text, pages))
        subject = _header(mail, "Subject")
        date = _date(mail)
    except (RecursionError, TypeError, ValueError, LookupError, AttributeError, email.errors.MessageError) as error:
        # The standard library's parser raises all of these on headers that no mail program would write.
        raise UnusableError(f"the mail is damaged ({type(error).__name__}: {error})") from error
    if not text.strip():
        raise UnusableError("the mail has no text")
    whole = f"{subject}\n\n{text}" if subject else text
    return TextRecord(whole.replace("\r\n", "\n").strip() + "\n", {"date": date} if date else {})


def _parts(mail: Message, skipped: Counter[str] | None) -> tuple[list[str], list[str]]:
    """(text/plain parts, text/html parts)."""
    plain: list[str] = []
    pages: list[str] = []
    for part in mail.walk():
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        is_text = kind in ("text/plain", "text/html")
        if not is_text or part.get_content_disposition() == "attachment":
            if skipped is not None:
                skipped["mail attachment"] += 1
            continue
        (plain if kind == "text/plain" else pages).append(_decoded(part))
    return plain, pages


def _decoded(part: Message) -> str:
    content = part.get_payload(decode=True)
    raw = content if isinstance(content, bytes) else b""
    charset = part.get_content_charset() or "utf-8"
    try:
        return raw.decode(charset)
    except (LookupError, UnicodeDecodeError):
        return raw.decode("windows-1252", errors="replace")


def _page_text(page: str) -> str:
    try:
        return main_text(page)
    except UnusableError:
        return ""


def _date(mail: Message) -> str:
    """As ISO 8601, empty where there is none or it is no date."""
    try:
        return email.utils.parsedate_to_datetime(_header(mail, "Date")).isoformat()
    except (ValueError, TypeError, OverflowError):
        return ""


def _header(mail: Message, name: str) -> str:
    value = mail.get(name, "")
    try:
        return " ".join(str(make_header(decode_header(value))).split())
    except (LookupError, ValueError, email.errors.MessageError):
        return " ".join(str(value).split())
