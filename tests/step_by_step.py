"""Continuous batching as a plain loop over steps, one object a sequence: what the compiled simulation must equal.

Slow and short on purpose. `chunked=False` and `static=True` are schedulers that are wrong for the engines that we
predict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nexus_llm.cost.capacity.simulate import Demand
from nexus_llm.cost.quantities import EngineLimits, StepTime


@dataclass(eq=False)
class Sequence:
    number: int
    visible: float
    prompt: int
    answer: int
    said: int = 0
    cached: int = 0
    to_fill: int = 0
    first: float = math.nan
    last: float = math.nan
    arrived: float = 0.0


@dataclass
class Replica:
    time: StepTime
    limits: EngineLimits
    chunked: bool = True
    static: bool = False
    clock: float = 0.0
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    busy: float = 0.0
    steps: int = 0
    preemptions: int = 0
    ended: list[Sequence] = field(default_factory=list)
    batch: list[Sequence] = field(default_factory=list)
    has_prefilled: bool = False
    """What the last step did."""

    def blocks(self, sequence: Sequence, extra: int = 0) -> int:
        held = max(sequence.cached + sequence.to_fill, sequence.cached + extra)
        return math.ceil(held / self.limits.kv_block_tokens)

    def free(self) -> int:
        all_blocks = self.limits.kv_cache_tokens // self.limits.kv_block_tokens
        return all_blocks - sum(self.blocks(one) for one in self.running)

    def make_room(self) -> bool:
        had_room = True
        while True:
            decoding = [one for one in self.running if not one.to_fill]
            needed = sum(self.blocks(one, 1) - self.blocks(one) for one in decoding)
            if needed <= self.free():
                return had_room
            had_room = False
            newest = self.running.pop()
            newest.cached = newest.to_fill = 0
            self.waiting.insert(0, newest)
            self.preemptions += 1

    def next_step(self) -> float | None:
        """Composes a step at the clock; its seconds, None where there is nothing to do."""
        if not self.running:
            if not self.waiting:
                return None
            self.clock = max(self.clock, self.waiting[0].visible)
        had_room = self.make_room()
        decoding = [one for one in self.running if not one.to_fill]
        was_empty = not self.running
        taken = sum(self.blocks(one, 1) - self.blocks(one) for one in decoding)
        budget = self.limits.max_batched_tokens - len(decoding)
        self.chunks: dict[Sequence, int] = {}
        for one in self.running:
            if one.to_fill:
                self.chunks[one] = min(one.to_fill, budget)
                budget -= self.chunks[one]
        while had_room and (was_empty or not self.static) and self.waiting and budget > 0:
            head = self.waiting[0]
            total = head.prompt + head.said
            fits = math.ceil(total / self.limits.kv_block_tokens) <= self.free() - taken
            if head.visible > self.clock or len(self.running) >= self.limits.max_sequences or not fits:
                break
            self.running.append(self.waiting.pop(0))
            head.to_fill = total
            self.chunks[head] = min(total, budget) if self.chunked else total
            budget -= self.chunks[head]
        prefilled = sum(self.chunks.values())
        self.is_changed = prefilled > 0 or self.has_prefilled or decoding != self.batch
        self.composed = decoding
        read = sum(one.cached for one in decoding) + sum(one.cached for one, n in self.chunks.items() if n)
        return (
            self.time.fixed_seconds
            + self.time.seconds_per_prefill_token * prefilled
            + self.time.seconds_per_sequence * len(decoding)
            + self.time.seconds_per_context_token * read
            + self.time.seconds_per_batch_change * self.is_changed
        )

    def end_step(self, seconds: float) -> None:
        self.clock += seconds
        self.busy += seconds
        self.steps += 1
        self.batch, self.has_prefilled = self.composed, sum(self.chunks.values()) > 0
        for one in list(self.running):
            if one in self.chunks:
                one.to_fill -= self.chunks[one]
                one.cached += self.chunks[one]
                if one.to_fill:
                    continue
            else:
                one.cached += 1
            one.said += 1
            if math.isnan(one.first):
                one.first = self.clock
            if one.said == one.answer:
                one.last = self.clock
                self.running.remove(one)
                self.ended.append(one)

    def run(self, until: float) -> None:
        """Steps that end by `until`; the step that would not is composed again later, nothing having changed."""
        while not (self.running and self.clock >= until):
            state = (list(self.waiting), list(self.running), self.clock, self.preemptions)
            saved = [(one, one.cached, one.to_fill) for one in (*self.waiting, *self.running)]
            seconds = self.next_step()
            if seconds is None:
                return
            if self.clock + seconds > until or self.clock >= until:
                self.waiting, self.running, self.clock, self.preemptions = state
                for one, cached, to_fill in saved:
                    one.cached, one.to_fill = cached, to_fill
                return
            self.end_step(seconds)


def sequences(demand: Demand, limits: EngineLimits) -> list[Sequence]:
    rows = zip(demand.arrived_seconds, demand.input_tokens, demand.output_tokens, strict=True)
    return [
        Sequence(number, float(at) + limits.admission_seconds, int(prompt), int(answer), arrived=float(at))
        for number, (at, prompt, answer) in enumerate(rows)
    ]


def run_open(
    demand: Demand,
    time: StepTime,
    limits: EngineLimits,
    *,
    replicas: int = 1,
    chunked: bool = True,
    static: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[Replica]]:
    """(first, last) of each request, and the replicas; each request to the replica with the fewest unfinished."""
    fleet = [Replica(time, limits, chunked, static) for _ in range(replicas)]
    everyone = sequences(demand, limits)
    for one in everyone:
        for replica in fleet:
            replica.run(one.visible)
        chosen = min(fleet, key=lambda replica: len(replica.waiting) + len(replica.running))
        chosen.waiting.append(one)
    for replica in fleet:
        replica.run(math.inf)
    return np.array([one.first for one in everyone]), np.array([one.last for one in everyone]), fleet


def run_closed(
    inputs: list[int], outputs: list[int], time: StepTime, limits: EngineLimits, *, concurrency: int,
    chunked: bool = True, static: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """(arrived, first, last) of each request of a closed loop."""
    everyone = [
        Sequence(number, limits.admission_seconds, prompt, answer)
        for number, (prompt, answer) in enumerate(zip(inputs, outputs, strict=True))
    ]
    replica = Replica(time, limits, chunked, static)
    replica.waiting, later, seen = everyone[:concurrency], everyone[concurrency:], 0
    while (seconds := replica.next_step()) is not None:
        replica.end_step(seconds)
        for _ in replica.ended[seen:]:
            if later:
                one = later.pop(0)
                one.arrived, one.visible = replica.clock, replica.clock + limits.admission_seconds
                replica.waiting.append(one)
        seen = len(replica.ended)
    return tuple(np.array([getattr(one, name) for one in everyone]) for name in ("arrived", "first", "last"))
