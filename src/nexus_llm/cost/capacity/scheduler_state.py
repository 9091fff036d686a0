"""What the simulated scheduler knows, as arrays that compiled code works on, the numbers of its engine, its queues."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
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
    per_change: float
    max_sequences: int
    max_batched_tokens: int
    block: int
    blocks: int
    admission: float
    is_static: bool
    is_closed: bool
    """Each end of a request is followed by the next request at once: a load test's closed loop."""


# One row a request. Rows of a few arrays, and not one array a field: compiled functions take arrays apart when they are
# called. With forty of them compiling took 29 s instead of 13, and a month of ten million requests 30 s instead of 8.
REQUEST = np.dtype(
    [
        ("arrived", np.float64),
        ("visible", np.float64),  # when the scheduler sees it
        ("first", np.float64),  # when its first token came; not-a-number before
        ("last", np.float64),
        ("prompt", np.int32),
        ("answer", np.int32),
        ("generated", np.int32),  # said when it (last) entered the queue: computed again together with the prompt
        ("behind", np.int32),  # who follows in the queue
    ]
)

# One row a replica, and a last one whose queue is of those whom no replica could take.
REPLICA = np.dtype(
    [
        ("clock", np.float64),  # the last boundary between steps that was simulated
        ("step_end", np.float64),  # end of the step with prefill that runs; negative where none does
        ("quiet", np.float64),  # until then none of its requests ends
        ("busy", np.float64),
        ("state", np.int64),
        ("changed", np.int64),  # 1 where the last step prefilled, or a sequence has left since
        ("counter", np.int64),  # steps so far: each gives every decoding sequence one token
        ("decoding", np.int64),
        ("prefilling", np.int64),
        ("context", np.int64),  # cached tokens of all that decode
        ("free", np.int64),  # blocks of the cache
        ("next_finish", np.int64),  # counter at which the first of those that decode ends
        ("admitted", np.int64),
        ("head", np.int64),
        ("tail", np.int64),
        ("waiting", np.int64),
        ("sequence_steps", np.int64),
        ("preemptions", np.int64),
    ]
)
DECODING = np.dtype([("request", np.int64), ("finish", np.int64), ("admitted", np.int64)])
FILLING = np.dtype([("request", np.int64), ("left", np.int64), ("chunk", np.int64), ("admitted", np.int64)])


class Requests(NamedTuple):
    """What is known of each request."""

    rows: Any
    """(requests,) of `REQUEST`."""
    following: NDArray[np.int64]
    """One number: the next request of the plan that has not been sent."""


class Replicas(NamedTuple):
    """What is known of each replica."""

    rows: Any
    """(replicas + 1,) of `REPLICA`."""
    decode: Any
    """(replicas, places) of `DECODING`, the first `decoding` of them in use."""
    fill: Any
    """(replicas, places) of `FILLING`, in the order of admission."""
    phases: NDArray[np.int64]
    """(replicas, block): how many that decode need a block in a step whose counter has this remainder."""


def engine(step_time: StepTime, limits: EngineLimits, *, is_closed: bool = False) -> Engine:
    """The numbers that compiled code needs."""
    blocks = limits.kv_cache_tokens // limits.kv_block_tokens
    # More blocks than any batch could fill change nothing, and would not fit the arithmetic.
    return Engine(
        *step_time.numbers,
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
    rows = np.zeros(len(arrived), REQUEST)
    rows["arrived"], rows["prompt"], rows["answer"] = arrived, prompt, answer
    rows["visible"] = rows["arrived"] + admission_seconds
    rows["first"] = rows["last"] = math.nan
    rows["behind"] = NOBODY
    return Requests(rows, np.zeros(1, np.int64))


def new_replicas(count: int, of: Engine) -> Replicas:
    """So many empty replicas, switched off."""
    rows = np.zeros(count + 1, REPLICA)
    rows["step_end"], rows["free"], rows["next_finish"] = -1.0, of.blocks, NEVER
    rows["head"] = rows["tail"] = NOBODY
    return Replicas(
        rows,
        np.zeros((count, of.max_sequences), DECODING),
        np.zeros((count, of.max_sequences), FILLING),
        np.zeros((count, of.block), np.int64),
    )


# Only compiled code calls what is here. Without doors for Python, files of their own and checks of divisors compiling
# takes a third less: 6.8 s instead of 10.6 on the first run after an installation.
inner = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@inner
def enqueue(replicas: Replicas, requests: Requests, place: int, request: int) -> None:
    """Puts a request at the end of a queue."""
    row = replicas.rows[place]
    requests.rows[request].behind = NOBODY
    if row.head == NOBODY:
        row.head = request
    else:
        requests.rows[row.tail].behind = request
    row.tail = request
    row.waiting += 1


@inner
def dequeue(replicas: Replicas, requests: Requests, place: int) -> int:
    """The first of a queue, taken from it."""
    row = replicas.rows[place]
    request = int(row.head)
    row.head = requests.rows[request].behind
    if row.head == NOBODY:
        row.tail = NOBODY
    row.waiting -= 1
    return request
