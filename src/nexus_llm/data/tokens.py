"""Token shards: arrays that a trainer maps into memory, with the bounds of documents and what the assistant wrote.

{split}-00000.tokens.npy            uint16, or uint32 for vocabularies of 65,536 tokens and more
{split}-00000.offsets.npy           int64, documents + 1: document i is tokens[offsets[i]:offsets[i + 1]]
{split}-00000.loss_mask.npy         bool, a token: of running text, or written by the assistant
{split}-00000.is_conversation.npy   bool, a document
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError
from nexus_llm.records import Document

# Documents handed to the tokenizer at once: enough to keep all cores busy, few enough to see progress.
_BATCH_DOCUMENTS = 256


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """One document as token ids, with which of them may be learned."""

    token_ids: list[int]
    loss_mask: list[bool]
    is_conversation: bool


@dataclass(frozen=True, slots=True)
class RefusedDocument:
    """A conversation that the model's chat template does not accept, and why."""

    id: str
    error: str


def encode(documents: Sequence[Document], tokenizer: ChatTokenizer) -> Iterator[EncodedDocument | RefusedDocument]:
    """Every document in order, as tokens or as a refusal."""
    for start in range(0, len(documents), _BATCH_DOCUMENTS):
        batch = documents[start : start + _BATCH_DOCUMENTS]
        running = iter(tokenizer.encode_documents([one.text for one in batch if not one.messages]))
        for document in batch:
            if document.messages:
                yield _encode_conversation(document, tokenizer)
            else:
                token_ids = next(running)
                yield EncodedDocument(token_ids, [True] * len(token_ids), is_conversation=False)


def token_type(vocabulary_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest unsigned type that holds every token id."""
    return np.uint16 if vocabulary_size <= 2**16 else np.uint32


@dataclass
class ShardWriter:
    """Collects the documents of one split and writes them as shards of at most `shard_tokens` tokens.

    A document is never cut: a longer one makes a longer shard. A split without documents has one empty shard.
    """

    folder: Path
    split: str
    dtype: type[np.uint16] | type[np.uint32]
    shard_tokens: int
    tokens: int = 0
    """Tokens in all shards so far."""
    shards: int = 0
    """Shards written so far."""
    _pending: list[EncodedDocument] = field(default_factory=list)
    _pending_tokens: int = 0

    def add(self, document: EncodedDocument) -> None:
        """One more document at the end."""
        size = len(document.token_ids)
        if self._pending and self._pending_tokens + size > self.shard_tokens:
            self._flush()
        self._pending.append(document)
        self._pending_tokens += size
        self.tokens += size

    def close(self) -> None:
        """Writes what is left."""
        if self._pending or not self.shards:
            self._flush()

    def _flush(self) -> None:
        documents, self._pending, self._pending_tokens = self._pending, [], 0
        sizes = [len(one.token_ids) for one in documents]
        self._save("tokens", _joined([one.token_ids for one in documents], self.dtype))
        self._save("offsets", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        self._save("loss_mask", _joined([one.loss_mask for one in documents], np.bool_))
        self._save("is_conversation", np.array([one.is_conversation for one in documents], np.bool_))
        self.shards += 1

    def _save(self, name: str, values: npt.NDArray[Any]) -> None:
        # Not np.save: it hands the file to C, where a full disk becomes an error without a number.
        with (self.folder / f"{self.split}-{self.shards:05d}.{name}.npy").open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(values))
            stream.write(np.ascontiguousarray(values).data)


def _encode_conversation(document: Document, tokenizer: ChatTokenizer) -> EncodedDocument | RefusedDocument:
    try:
        encoded = tokenizer.encode_conversation(document.messages)
    except ModelError as error:
        return RefusedDocument(document.id, error.what)
    return EncodedDocument(encoded.token_ids, encoded.is_assistant, is_conversation=True)


def _joined(parts: Iterable[Sequence[int]], dtype: type[Any]) -> npt.NDArray[Any]:
    arrays = [np.asarray(part, dtype) for part in parts]
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)
