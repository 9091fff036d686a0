"""Data artifacts made by hand: small, complete, and with one record for everything that can become of one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nexus_llm.artifacts import Artifact, ArtifactStore
from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.rows import document_id

DOCUMENT_SCHEMA = {
    "ordinal": pl.UInt64,
    "id": pl.String,
    "source": pl.String,
    "origin": pl.String,
    "text": pl.String,
    "messages": pl.String,
    "language": pl.String,
    "cluster": pl.String,
    "tokens": pl.UInt32,
}
REJECTED_SCHEMA = {
    "ordinal": pl.UInt64,
    "id": pl.String,
    "source": pl.String,
    "origin": pl.String,
    "rule": pl.String,
    "reason": pl.String,
    "value": pl.Float64,
    "excerpt": pl.String,
}
TURNS = ({"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is what it is."})


def identity(origin: str, source: str = "files") -> str:
    return document_id(source, origin)


@dataclass(frozen=True)
class Kept:
    """A document for a shard; with `messages` it is a conversation."""

    ordinal: int
    origin: str
    text: str
    cluster: str
    messages: tuple[dict[str, str], ...] = ()
    language: str | None = "en"
    repeats: int = 1


def write_shard(folder: Path, shard: str, documents: Sequence[Kept], tokenizer: ChatTokenizer) -> int:
    """All files of one shard; gives its tokens."""
    ids: list[list[int]] = []
    masks: list[list[bool]] = []
    for one in documents:
        if one.messages:
            conversation = tokenizer.encode_conversation(one.messages)  # type: ignore[arg-type]
            ids.append(conversation.token_ids)
            masks.append(conversation.is_assistant)
        else:
            ids.append(tokenizer.encode_document(one.text))
            masks.append([True] * len(ids[-1]))
    sizes = [len(one) for one in ids]
    arrays = {
        "tokens": np.array(list(chain.from_iterable(ids)), np.uint16),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "loss_mask": np.array(list(chain.from_iterable(masks)), np.bool_),
        "is_conversation": np.array([bool(one.messages) for one in documents], np.bool_),
        "repeats": np.array([one.repeats for one in documents], np.uint16),
    }
    for name, values in arrays.items():
        np.save(folder / f"{shard}.{name}.npy", values)
    rows = [
        (
            one.ordinal,
            identity(one.origin),
            "files",
            one.origin,
            one.text,
            json.dumps(one.messages) if one.messages else None,
            one.language,
            one.cluster,
            size,
        )
        for one, size in zip(documents, sizes, strict=True)
    ]
    pl.DataFrame(rows, DOCUMENT_SCHEMA, orient="row").write_parquet(folder / f"{shard}.documents.parquet")
    return sum(sizes)


def write_rejected(folder: Path, rows: Sequence[tuple[int, str, str, str, float | None, str | None]]) -> None:
    """`rows` are (ordinal, origin, rule, reason, value, excerpt)."""
    whole = [(ordinal, identity(origin), "files", origin, *rest) for ordinal, origin, *rest in rows]
    pl.DataFrame(whole, REJECTED_SCHEMA, orient="row").write_parquet(folder / "rejected.parquet")


KEPT = {
    "train-00000": (
        Kept(1, "docs/a.jsonl:1", "The quick brown fox jumps over 13 lazy dogs.", "c1", repeats=2),
        Kept(4, "docs/a.jsonl:4", "What is it?\nIt is what it is.", "c2", messages=TURNS),
    ),
    "train-00001": (Kept(6, "docs/b.jsonl:1", "def f(x): return x ** 2", "c3", language=None),),
    "validation-00000": (Kept(7, "docs/b.jsonl:2", "Nothing but the truth \x1b[31mred\x1b[0m.", "c4"),),
    "test-00000": (),
}
FIRST = identity("docs/a.jsonl:1")
REJECTED = (
    (2, "docs/a.jsonl:2", "exact_duplicate", f"equal to {FIRST}", 1.0, "The quick brown fox"),
    (3, "docs/a.jsonl:3", "min_characters", "too short", 5.0, "short <b>&"),
    (5, "docs/a.jsonl:5", "near_duplicate", f"nearly equal to {FIRST}", 0.8, "The quick brown wolf"),
    (8, "docs/b.jsonl:3", "exact_duplicate", f"equal to {identity('docs/a.jsonl:5')}", 1.0, "The quick brown wolf"),
    (9, "docs/b.jsonl:4", "pii", "holds a card number", None, "4111 1111 1111 1111"),
    (10, "docs/b.jsonl:5", "min_characters", "too short", 2.0, "ab"),
)
QUARANTINED = ({"file": "docs/c.jsonl", "line": 7, "error": "not JSON: unexpected end"},)


def facts(tokens: dict[str, int]) -> dict[str, Any]:
    """The manifest facts of KEPT, REJECTED and QUARANTINED."""
    rules = Counter(row[2] for row in REJECTED)
    duplicates = {kind: rules.pop(f"{kind}_duplicate", 0) for kind in ("exact", "near")}
    splits = ("train", "validation", "test")
    documents = {split: sum(len(KEPT[shard]) for shard in KEPT if shard.startswith(split)) for split in splits}
    kept = [one for shard in KEPT.values() for one in shard]
    characters = {
        split: sum(len(one.text) for shard in KEPT if shard.startswith(split) for one in KEPT[shard])
        for split in splits
    }
    return {
        "read": len(kept) + len(REJECTED),
        "kept": len(kept),
        "quarantined": len(QUARANTINED),
        "duplicates": duplicates,
        "rejected": dict(sorted(rules.items())),
        "documents": documents,
        "tokens": tokens,
        "characters": characters,
        "shards": {split: sum(shard.startswith(split) for shard in KEPT) for split in splits},
        "sources": {
            "files": {
                "files": 3,
                "read": len(kept) + len(REJECTED),
                "broken": len(QUARANTINED),
                "kept": len(kept),
                "rejected": dict(sorted(rules.items())),
                "duplicates": duplicates,
                "characters": sum(characters.values()),
                "tokens": sum(tokens.values()),
                "epochs": 1.0,
                "tokens_per_epoch": sum(tokens.values()),
                "formats": {"text": 9, "messages": 1},
                "skipped": {"response of another kind": 3},
                "unknown_endings": {".png": 2},
            }
        },
        "languages": {"en": 3, "undetermined": 1},
        "pii": {"EMAIL_ADDRESS": 4, "CREDIT_CARD": 1},
        "lengths": {"bounds": [0, 10, 100, 1000], "documents": [0, 4, 0, 0]},
        "contamination": {"gsm8k": 0},
        "tokenizer_backend": "hf",
    }


def write_files(folder: Path, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Every file of a data artifact; gives its facts."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = dict.fromkeys(("train", "validation", "test"), 0)
    for shard, documents in KEPT.items():
        tokens[shard.split("-")[0]] += write_shard(folder, shard, documents, tokenizer)
    write_rejected(folder, REJECTED)
    lines = "".join(json.dumps(row) + "\n" for row in QUARANTINED)
    (folder / "quarantine.jsonl").write_text(lines, encoding="utf-8")
    return facts(tokens)


def write_artifact(
    root: Path, kind: str, inputs: dict[str, str], *, key: str = "0123456789abcdef", files: Any = None
) -> Artifact:
    """A finished artifact in a store; `files` writes into its folder and gives its facts."""
    store = ArtifactStore(root / "artifacts")
    recipe = {"data": {"quality": {"min_characters": 50}}}
    with store.draft(kind, key, stage_version=1, recipe=recipe, inputs=inputs) as draft:
        return draft.finish(facts=files(draft.folder) if files else {})
