"""Which requests which weights answered, read back from access logs and samples. Prompts are never looked at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nexus_llm.serve.receipt import read_header


@dataclass(frozen=True, slots=True)
class Answered:
    request_id: str
    time: str
    """ISO 8601, UTC, of its end."""
    model: str | None
    """As the client called it."""
    receipt: str
    """`x-nexus-receipt`."""

    @property
    def artifact(self) -> str:
        return read_header(self.receipt)["artifact"]


def answered(lines: Iterable[str]) -> Iterator[Answered]:
    """The requests of which `lines` tell who answered; other lines, of other programs too, are passed over.

    >>> line = '{"event": "request.answered", "time": "2026-11-22T10:00:00Z", "request_id": "r1", "receipt": "a92d"}'
    >>> [one.request_id for one in answered(["engine says hello", line])]
    ['r1']
    """
    for line in lines:
        if '"receipt"' not in line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            continue
        # A sample has no event; a slow request is told twice.
        if isinstance(row, dict) and row.get("receipt") and row.get("event", "request.answered") == "request.answered":
            yield Answered(str(row["request_id"]), str(row["time"]), row.get("model"), str(row["receipt"]))
