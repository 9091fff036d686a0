"""Documents with splits, for tests of encoding and of shards."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from nexus_llm.chat import ChatTokenizer
from tiny_model import TEMPLATE, tiny_tokenizer

TINY = ChatTokenizer(json.dumps(tiny_tokenizer()), template=TEMPLATE, config={"eos_token": "<|im_end|>"})

COLUMNS = {
    "ordinal": pl.UInt64,
    **dict.fromkeys(("id", "source", "origin", "text", "messages", "language", "cluster", "split"), pl.String),
}


def rows(texts: list[str], *, first: int = 1, splits: tuple[str, ...] = ("train",), **changes: Any) -> pl.DataFrame:
    """One running text a row, with ordinals from `first`; split, source and language go round."""
    content = [
        {
            "ordinal": first + number,
            "id": identity(first + number),
            "source": "ab"[number % 2],
            "origin": f"file.jsonl:{first + number}",
            "text": text,
            "messages": None,
            "language": ["en", None][number % 2],
            "cluster": f"cluster {first + number}",
            "split": splits[number % len(splits)],
            **changes,
        }
        for number, text in enumerate(texts)
    ]
    return pl.DataFrame(content, schema=COLUMNS)


def identity(ordinal: int) -> str:
    """An id whose order is not that of ordinals."""
    return f"{ordinal * 0x9E3779B97F4A7C15 % 2**64:032x}"


def conversation(*contents: str) -> str:
    """Turns of user and assistant as JSON."""
    roles = ("user", "assistant")
    turns = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return json.dumps(turns, ensure_ascii=False)
