"""One or two engines behind one gateway: blue answers; green is loaded beside it, tried, and given a share.

A request stays with the lane it got. While there is a green one, `MODEL@blue` and `MODEL@green` ask one of the two.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nexus_llm.serve.engines.supervisor import EngineState, EngineSupervisor
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.telemetry.record import RequestRecord

Colour = Literal["blue", "green"]
KEPT_TIMES = 2_000  # of the newest requests: enough for a 95th percentile, 16 kB


@dataclass
class Tally:
    """What became of the requests that a lane was given by its share."""

    requests: int = 0
    failures: int = 0
    """Answers that were our fault, as `RequestRecord.is_failure`."""
    first_token_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_TIMES))

    def count(self, record: RequestRecord) -> None:
        """One more is over."""
        self.requests += 1
        self.failures += record.is_failure
        if record.seconds_to_first_token is not None:
            self.first_token_seconds.append(record.seconds_to_first_token)

    def document(self) -> dict[str, Any]:
        """As JSON values; the 95th percentile is null before the first token."""
        ordered = sorted(self.first_token_seconds)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] if ordered else None
        return {"requests": self.requests, "failures": self.failures, "ttft_p95_seconds": p95}


@dataclass(frozen=True, eq=False)
class Lane:
    """A model and the engine that has its weights."""

    model: ServedModel
    engine: EngineSupervisor
    folder: Path | None = None
    """Of the package, absolute; None where nobody said."""
    tally: Tally = field(default_factory=Tally)

    @property
    def is_fit(self) -> bool:
        """Whether its engine lives, or will again."""
        return self.engine.state in (EngineState.READY, EngineState.RESTARTING)


class Lanes:
    """Who gets which request."""

    def __init__(self, blue: Lane) -> None:
        self.blue = blue
        self.green: Lane | None = None
        self.share = 0.0
        """Of the requests that green gets, 0 to 1."""
        self.changed = asyncio.Event()
        """Set when a lane came or went."""
        self._owed = 0.0

    @property
    def live(self) -> Lane:
        """The lane that speaks for the server: green once it has all requests."""
        return self.green if self.green is not None and self.share >= 1 and self.green.is_fit else self.blue

    @property
    def all(self) -> tuple[Lane, ...]:
        return (self.blue,) if self.green is None else (self.blue, self.green)

    def pick(self) -> Lane:
        """The lane of the next request. Shares are kept exactly: with 0.1 it is green for each tenth one.

        Green without an engine gets nothing: blue is there, and nobody has to notice.
        """
        if self.green is None or not self.share or not self.green.is_fit:
            return self.blue
        self._owed += self.share
        if self._owed < 1:
            return self.blue
        self._owed -= 1
        return self.green

    def named(self, model: str) -> tuple[str, Lane | None]:
        """The model's name without its colour, and that colour's lane; None where no lane is named."""
        name, _, colour = model.rpartition("@")
        if self.green is not None and name == self.blue.model.name and colour in ("blue", "green"):
            return name, self.green if colour == "green" else self.blue
        return model, None

    def add_green(self, lane: Lane) -> None:
        """Another model stands ready; it gets nothing yet."""
        # Both are counted over the same time.
        self.blue = replace(self.blue, tally=Tally())
        self.green, self.share, self._owed = lane, 0.0, 0.0
        self.changed.set()

    def keep(self, colour: Colour) -> Lane | None:
        """Gives that colour everything, as blue from now on; returns the other lane, None where there was none."""
        green = self.green
        if green is None:
            return None
        gone = self.blue if colour == "green" else green
        self.blue = green if colour == "green" else self.blue
        self.green, self.share = None, 0.0
        self.changed.set()
        return gone

    def capacity_tokens(self) -> int | None:
        """Tokens that the smaller of the lanes in use holds; None before it is known, and where nobody tells it."""
        used = self.all if self.share else (self.blue,)
        told = [lane.engine.facts.capacity_tokens for lane in used if lane.engine.facts is not None]
        return min((one for one in told if one), default=None)
