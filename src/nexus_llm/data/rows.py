"""Names of records and of their content, and conversations as one line of JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from nexus_llm.records import Message


def document_id(source: str, origin: str) -> str:
    """128-bit hash of where a record comes from, as 32 hex digits."""
    return hashlib.blake2b(f"{source}\0{origin}".encode(), digest_size=16).hexdigest()


def content_hash(content: str) -> str:
    """128-bit hash of a cleaned text (a conversation's JSON) as 32 hex digits."""
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def conversation_json(chosen: Sequence[Message], rejected: Sequence[Message] = ()) -> str:
    """A conversation as one line of JSON: a list of turns, or for a preference an object of two such lists.

    >>> conversation_json([{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Ho"}])
    '{"chosen":[{"role":"user","content":"Hi"}],"rejected":[{"role":"user","content":"Ho"}]}'
    """
    content = {"chosen": chosen, "rejected": rejected} if rejected else chosen
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def both_conversations(text: str) -> tuple[list[Message], list[Message]]:
    """(the conversation to learn from, the one with the rejected answer or nothing) out of `conversation_json`."""
    content = json.loads(text)
    return (content["chosen"], content["rejected"]) if isinstance(content, dict) else (content, [])
