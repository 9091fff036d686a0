"""What the simulated scheduler knows, as arrays that compiled code works on, and the numbers of its engine."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nexus_llm.cost.quantities import EngineLimits, StepTime

NOBODY = -1
NEVER = np.int64(2**62)
OFF, READY, DRAINING = 0, 1, 2
"""States of a replica: gone; takes requests; works off those that it has."""


class Engine(NamedTuple):
    """`StepTime` and `EngineLimits` in the words of compiled code."""

    fixed: float
    per_prefill: float
    per_sequence: float
    per_context: float
    max_sequences: int
    max_batched_tokens: int
    block: int
    blocks: int
    admission: float
    is_static: bool
    is_closed: bool
    """Each end of a request is followed by the next request at once: a load test's closed loop."""


class Requests(NamedTuple):
    """One row a request."""

    arrived: NDArray[np.float64]
    visible: NDArray[np.float64]
    """When the scheduler sees it."""
    prompt: NDArray[np.int32]
    answer: NDArray[np.int32]
    generated: NDArray[np.int32]
    """Tokens said when it (last) entered the queue: they are computed again together with the prompt."""
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    behind: NDArray[np.int32]
    """Who follows in the queue."""
    following: NDArray[np.int64]
    """One number: the next request of the plan that has not been sent."""


class Replicas(NamedTuple):
    """One row a replica; queues have one more, for those whom no replica could take."""

    state: NDArray[np.int64]
    clock: NDArray[np.float64]
    """The last boundary between steps that was simulated."""
    quiet: NDArray[np.float64]
    """Until then none of its requests ends."""
    step_end: NDArray[np.float64]
    """End of the step with prefill that runs; negative where none does."""
    counter: NDArray[np.int64]
    """Steps so far: each gives every decoding sequence one token."""
    decoding: NDArray[np.int64]
    prefilling: NDArray[np.int64]
    context: NDArray[np.int64]
    """Cached tokens of all that decode."""
    free: NDArray[np.int64]
    """Blocks of the cache."""
    next_finish: NDArray[np.int64]
    """Counter at which the first of those that decode ends."""
    admitted: NDArray[np.int64]
    head: NDArray[np.int32]
    tail: NDArray[np.int32]
    waiting: NDArray[np.int64]
    given: NDArray[np.int64]
    """Requests that it was sent."""
    decode_request: NDArray[np.int32]
    decode_finish: NDArray[np.int64]
    decode_admitted: NDArray[np.int64]
    fill_request: NDArray[np.int32]
    fill_left: NDArray[np.int32]
    fill_chunk: NDArray[np.int32]
    fill_admitted: NDArray[np.int64]
    phases: NDArray[np.int32]
    """How many of those that decode need a block in a step whose counter has this remainder."""
    busy: NDArray[np.float64]
    prefilled: NDArray[np.int64]
    decoded: NDArray[np.int64]
    context_read: NDArray[np.float64]
    sequence_steps: NDArray[np.int64]
    preemptions: NDArray[np.int64]


def engine(step_time: StepTime, limits: EngineLimits, *, is_closed: bool = False) -> Engine:
    """The numbers that compiled code needs."""
    blocks = limits.kv_cache_tokens // limits.kv_block_tokens
    # More blocks than any batch could fill change nothing, and would not fit the arithmetic.
    return Engine(
        step_time.fixed_seconds,
        step_time.seconds_per_prefill_token,
        step_time.seconds_per_sequence,
        step_time.seconds_per_context_token,
        limits.max_sequences,
        limits.max_batched_tokens,
        limits.kv_block_tokens,
        min(blocks, 2**40),
        limits.admission_seconds,
        limits.batching == "static",
        is_closed,
    )


def new_requests(arrived: Any, prompt: Any, answer: Any, *, admission_seconds: float) -> Requests:
    """Requests of which nothing has been simulated."""
    count = len(arrived)
    return Requests(
        arrived=np.array(arrived, np.float64),
        visible=np.array(arrived, np.float64) + admission_seconds,
        prompt=np.array(prompt, np.int32),
        answer=np.array(answer, np.int32),
        generated=np.zeros(count, np.int32),
        first=np.full(count, math.nan),
        last=np.full(count, math.nan),
        behind=np.full(count, NOBODY, np.int32),
        following=np.zeros(1, np.int64),
    )


def new_replicas(count: int, of: Engine) -> Replicas:
    """So many empty replicas, switched off."""
    slots = of.max_sequences

    def numbers(*shape: int, fill: int = 0, kind: Any = np.int64) -> Any:
        return np.full(shape, fill, kind)

    return Replicas(
        state=numbers(count), clock=np.zeros(count), quiet=np.zeros(count), step_end=np.full(count, -1.0),
        counter=numbers(count),
        decoding=numbers(count), prefilling=numbers(count), context=numbers(count),
        free=numbers(count, fill=of.blocks), next_finish=numbers(count, fill=int(NEVER)), admitted=numbers(count),
        head=numbers(count + 1, fill=NOBODY, kind=np.int32), tail=numbers(count + 1, fill=NOBODY, kind=np.int32),
        waiting=numbers(count + 1), given=numbers(count),
        decode_request=numbers(count, slots, kind=np.int32), decode_finish=numbers(count, slots),
        decode_admitted=numbers(count, slots), fill_request=numbers(count, slots, kind=np.int32),
        fill_left=numbers(count, slots, kind=np.int32), fill_chunk=numbers(count, slots, kind=np.int32),
        fill_admitted=numbers(count, slots), phases=numbers(count, of.block, kind=np.int32),
        busy=np.zeros(count), prefilled=numbers(count), decoded=numbers(count), context_read=np.zeros(count),
        sequence_steps=numbers(count), preemptions=numbers(count),
    )  # fmt: skip
