"""Names of records and of their content, and conversations as one line of JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from nexus_llm.records import Message


def document_id(source: str, origin: str) -> str:
    """128-bit hash of where a record comes from, as 32 hex digits."""
    return hashlib.blake2b(f"{source}\0{origin}".encode(), digest_size=16).hexdigest()


def content_hash(content: str) -> str:
    """128-bit hash of a cleaned text (a conversation's JSON) as 32 hex digits."""
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def messages_json(messages: Iterable[Message]) -> str:
    """A conversation as one line of JSON."""
    return json.dumps(list(messages), ensure_ascii=False, separators=(",", ":"))
