"""Documents as the rows of a data frame, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import polars as pl

from nexus_llm.records import Document, Message

SCHEMA = {
    "id": pl.String,
    "source": pl.String,
    "origin": pl.String,
    "text": pl.String,
    # A JSON list of {"role", "content"} for a conversation, null for running text.
    "messages": pl.String,
}


def document_id(source: str, origin: str) -> str:
    """128-bit hash of where a record comes from, as 32 hex digits."""
    return hashlib.blake2b(f"{source}\0{origin}".encode(), digest_size=16).hexdigest()


def frame_of(documents: Iterable[Document]) -> pl.DataFrame:
    """One row a document, columns as in SCHEMA."""
    rows = [
        (one.id, one.source, one.origin, one.text, messages_json(one.messages) if one.messages else None)
        for one in documents
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def documents_in(frame: pl.DataFrame) -> Iterator[Document]:
    """The documents of a frame with at least the columns of SCHEMA, in its order."""
    for identity, source, origin, text, messages in frame.select(list(SCHEMA)).iter_rows():
        yield Document(identity, source, origin, text, tuple(json.loads(messages)) if messages else ())


def messages_json(messages: Iterable[Message]) -> str:
    """A conversation as one line of JSON."""
    return json.dumps(list(messages), ensure_ascii=False, separators=(",", ":"))
