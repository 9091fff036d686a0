"""What a load test sends and when: the plan, and the arrivals that follow from it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nexus_llm.errors import UsageError
from nexus_llm.serve.bench.trace import TraceRow, read_trace

Load = Literal["closed", "poisson", "trace"]

DEFAULT_INPUT_TOKENS = 128
DEFAULT_OUTPUT_TOKENS = 64
SLO_FIELDS = ("ttft", "itl", "stall", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each request: the same for all where `low` is `high`, else drawn evenly from between."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str, *, option: str) -> Lengths:
        """The lengths that `128` or `64-512` mean.

        >>> Lengths.parse("64-512", option="--input-tokens")
        Lengths(low=64, high=512)

        Raises:
            UsageError: not one or two whole numbers of at least 1, in order.
        """
        ends = text.split("-")
        if len(ends) in (1, 2) and all(end.isascii() and end.isdigit() for end in ends):
            low, high = int(ends[0]), int(ends[-1])
            if 1 <= low <= high:
                return cls(low, high)
        raise UsageError(f"{option} {text!r} is no length", fix=f"a number or a range: {option} 128, {option} 64-512")

    def draw(self, source: random.Random) -> int:
        return self.low if self.low == self.high else source.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Slo:
    """What one request must not exceed to count as good, in seconds; None sets no bound."""

    ttft: float | None = None
    """Until the first piece of text."""
    itl: float | None = None
    """Mean time between its pieces."""
    stall: float | None = None
    """Longest time between two of its pieces."""
    tpot: float | None = None
    """Time per output token after the first."""
    e2e: float | None = None
    """Until its end."""

    @classmethod
    def parse(cls, text: str) -> Slo:
        """The bounds in `ttft=0.5,itl=0.05,e2e=10`.

        Raises:
            UsageError: another name, or no positive number.
        """
        bounds: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                bounds[name] = float(value)
            except ValueError:
                bounds[name] = -1.0
            if name not in SLO_FIELDS or not 0 < bounds[name] < float("inf"):
                raise UsageError(
                    f"--slo {part.strip()!r} is no bound",
                    fix=f"seconds by name, from {', '.join(SLO_FIELDS)}: --slo ttft=0.5,itl=0.05,e2e=10",
                )
        return cls(**bounds)

    def bounds(self) -> dict[str, float]:
        """Name → seconds, of the bounds that are set."""
        return {name: value for name in SLO_FIELDS if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What to send, when, and when to stop."""

    url: str
    model: str
    load: Load = "closed"
    concurrency: int = 8
    """Requests in flight in a closed loop; also of the warm-up."""
    requests: int | None = 32
    """In all. In an open loop None leaves it to `duration_seconds` or to the trace."""
    rate_per_second: float | None = None
    """Mean arrivals a second of the Poisson process."""
    duration_seconds: float | None = None
    """Arrivals of the Poisson process end then."""
    trace: Path | None = None
    trace_speed: float = 1.0
    """10 plays the trace ten times as fast."""
    input_tokens: Lengths | None = None
    """Of each prompt, chat template included. None: the trace's, else 128."""
    output_tokens: Lengths | None = None
    """Of each answer. None: the trace's, else 64."""
    max_input_tokens: int | None = None
    """Longer prompts of a trace are cut to this."""
    max_output_tokens: int | None = None
    warmup: int = 0
    """Requests before the first that counts."""
    max_seconds: float | None = None
    """Then the test ends; what is in flight is cut off and counted as unfinished."""
    timeout_seconds: float = 600.0
    """Of one request, from its sending."""
    max_in_flight: int = 4096
    """In an open loop; the request after waits, which makes it late."""
    retry: bool = False
    """Whether 429 and 503 are asked again after the server's retry-after; their latency goes on counting."""
    slo: Slo = field(default_factory=Slo)
    seed: int = 0
    api_key: str = field(default="none", repr=False)

    def described(self) -> dict[str, Any]:
        """The plan as JSON values, without the key."""
        told = asdict(self) | {"trace": self.trace.name if self.trace else None, "slo": self.slo.bounds()}
        del told["api_key"]
        return told


@dataclass(frozen=True, slots=True)
class Arrival:
    at_seconds: float
    """When, since the start; 0 in a closed loop, where a free place says when."""
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Names of the blocks of 512 tokens that its prompt consists of, where a trace tells which prompts share some."""


def arrivals(plan: BenchPlan) -> list[Arrival]:
    """Every request of the plan in the order of sending; the same for the same seed.

    Raises:
        DataError: the trace cannot be read.
        UsageError: nothing would be sent.
    """
    source = random.Random(plan.seed)  # noqa: S311 - load, not secrets
    rows: Sequence[TraceRow]
    if plan.load == "trace":
        assert plan.trace is not None
        rows = read_trace(plan.trace, limit=plan.requests)
        times = [row.at_seconds / plan.trace_speed for row in rows]
    else:
        times = _poisson(plan, source) if plan.load == "poisson" else [0.0] * (plan.requests or 0)
        rows = ()
    if not times:
        raise UsageError("the plan has no request in it", fix="a longer --duration, a higher --rate or more --requests")
    planned = [_planned(plan, source, at, rows[place] if rows else None) for place, at in enumerate(times)]
    return sorted(planned, key=lambda one: one.at_seconds)


def _poisson(plan: BenchPlan, source: random.Random) -> list[float]:
    """Times whose gaps are exponentially distributed, so that arrivals know nothing of one another."""
    assert plan.rate_per_second is not None
    times: list[float] = []
    now = source.expovariate(plan.rate_per_second)
    while (plan.duration_seconds is None or now < plan.duration_seconds) and (
        plan.requests is None or len(times) < plan.requests
    ):
        times.append(now)
        now += source.expovariate(plan.rate_per_second)
    return times


def _planned(plan: BenchPlan, source: random.Random, at: float, row: TraceRow | None) -> Arrival:
    if plan.input_tokens is not None or row is None:
        wanted = (plan.input_tokens or Lengths(DEFAULT_INPUT_TOKENS, DEFAULT_INPUT_TOKENS)).draw(source)
    else:
        wanted = row.input_tokens
    if plan.output_tokens is not None or row is None:
        answer = (plan.output_tokens or Lengths(DEFAULT_OUTPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)).draw(source)
    else:
        answer = row.output_tokens
    return Arrival(
        at,
        max(1, min(wanted, plan.max_input_tokens or wanted)),
        max(1, min(answer, plan.max_output_tokens or answer)),
        row.blocks if row is not None and plan.input_tokens is None else (),
    )
