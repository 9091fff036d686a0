"""Text without what no reader sees. It runs after judging, so that it never hides what a judge must see."""

from __future__ import annotations

import re
import unicodedata

from nexus_llm.records import Document, Message

# C0 and C1 controls but tab and newline, DEL, and the byte order mark, which inside a text is only an artefact of
# joining files.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029\x85]")
_MANY_EMPTY_LINES = re.compile(r"\n{4,}")


def clean_text(text: str) -> str:
    r"""NFC, "\n" as the only line end, no control characters, no white space at line ends or around the whole.

    More than two empty lines in a row become two. Cleaning twice changes nothing more.

    >>> clean_text("Cafe\u0301  \r\nopen\x00\n\n\n\n\nlate ")
    'Café\nopen\n\n\nlate'
    """
    text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
    text = unicodedata.normalize("NFC", text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _MANY_EMPTY_LINES.sub("\n\n\n", text).strip("\n").rstrip()


def clean_document(document: Document) -> Document:
    """The document with its text, or each turn of its conversation, cleaned."""
    if not document.messages:
        return Document(document.id, document.source, document.origin, clean_text(document.text))
    messages = tuple(
        Message(role=message["role"], content=clean_text(message["content"])) for message in document.messages
    )
    text = "\n".join(message["content"] for message in messages)
    return Document(document.id, document.source, document.origin, text, messages)
