"""The simulated scheduler of one replica, compiled: continuous batching as vLLM and OpenVINO GenAI do it.

A step gives every decoding sequence one token and spends what is left of `max_batched_tokens` on prompts, first come
first served, in chunks. A request is let in while there is a free place, a free token in the step, and room in the
cache for its whole prompt. Where the cache has no block left for a decoding sequence, the one that came last loses its
blocks and goes back to the front of the queue; prompt and answer so far are then computed again. Nobody is let in in
the step of a preemption.

Steps without prefill, between two events, differ only in the context that they read, which grows by one token a
sequence a step. So any number of them is one quadratic expression, and the simulation jumps from event to event (an
arrival that can be let in, an end, a full cache). Under the linear step time this is exact, not an approximation;
`tests/cost/capacity` compares it with a plain loop over steps.
"""

from __future__ import annotations

import math

from numba import njit

from nexus_llm.cost.capacity.scheduler_state import NEVER, NOBODY, Engine, Replicas, Requests


@njit(cache=True, nogil=True)
def enqueue(replicas: Replicas, requests: Requests, place: int, request: int) -> None:  # pragma: no cover - compiled
    """Puts a request at the end of a queue."""
    requests.behind[request] = NOBODY
    if replicas.head[place] == NOBODY:
        replicas.head[place] = request
    else:
        requests.behind[replicas.tail[place]] = request
    replicas.tail[place] = request
    replicas.waiting[place] += 1


@njit(cache=True, nogil=True)
def dequeue(replicas: Replicas, requests: Requests, place: int) -> int:  # pragma: no cover - compiled
    """The first of a queue, taken from it."""
    request = int(replicas.head[place])
    replicas.head[place] = requests.behind[request]
    if replicas.head[place] == NOBODY:
        replicas.tail[place] = NOBODY
    replicas.waiting[place] -= 1
    return request


@njit(cache=True, nogil=True)
def advance(
    replicas: Replicas, requests: Requests, r: int, of: Engine, until: float
) -> float:  # pragma: no cover - compiled
    """Runs the steps of replica `r` that end by `until`. Requests that arrive by then must be in its queue.

    What comes out is a time before which no request of it ends, whoever else arrives elsewhere.
    """
    while True:
        if replicas.step_end[r] >= 0:
            if replicas.step_end[r] > until:
                return float(replicas.step_end[r])
            _end_step(replicas, requests, r, of)
        head = replicas.head[r]
        running = replicas.decoding[r] + replicas.prefilling[r]
        if running == 0:
            if head == NOBODY:
                return math.inf
            replicas.clock[r] = max(replicas.clock[r], requests.visible[head])
        if replicas.clock[r] >= until:  # who arrives at this very moment may not be in the queue yet
            return float(replicas.clock[r])
        if replicas.prefilling[r] == 0 and replicas.decoding[r] > 0 and not _may_let_in(replicas, requests, r, of):
            steps = _steps_to_jump(replicas, requests, r, of, until)
            if steps == 0:
                return float(_quiet_until(replicas, requests, r, of))
            if steps > 0:
                _jump(replicas, requests, r, of, steps)
                continue
        _begin_step(replicas, requests, r, of)


@njit(cache=True, nogil=True)
def outstanding(replicas: Replicas, r: int) -> int:  # pragma: no cover - compiled
    """Requests that replica `r` has and has not finished."""
    return int(replicas.waiting[r] + replicas.decoding[r] + replicas.prefilling[r])


@njit(cache=True, nogil=True)
def _is_full(replicas: Replicas, r: int, of: Engine) -> bool:  # pragma: no cover - compiled
    running = replicas.decoding[r] + replicas.prefilling[r]
    return bool(running >= of.max_sequences or (of.is_static and running > 0))


@njit(cache=True, nogil=True)
def _may_let_in(replicas: Replicas, requests: Requests, r: int, of: Engine) -> bool:  # pragma: no cover - compiled
    """Whether the first of the queue might get in now: then a step must be looked at closely."""
    head = replicas.head[r]
    if head == NOBODY or requests.visible[head] > replicas.clock[r] or _is_full(replicas, r, of):
        return False
    return bool(_blocks(requests.prompt[head] + requests.generated[head], of.block) <= replicas.free[r])


@njit(cache=True, nogil=True)
def _blocks(tokens: int, block: int) -> int:  # pragma: no cover - compiled
    return (tokens + block - 1) // block


@njit(cache=True, nogil=True)
def _steps_to_jump(
    replicas: Replicas, requests: Requests, r: int, of: Engine, until: float
) -> int:  # pragma: no cover - compiled
    """Pure decoding steps until something happens; 0 where not one ends by `until`, -1 where the cache is full."""
    steps = replicas.next_finish[r] - replicas.counter[r]
    steps = _steps_that_fit(replicas, r, of, steps)
    if steps == 0:
        return -1
    first = of.fixed + of.per_sequence * replicas.decoding[r] + of.per_context * replicas.context[r]
    growth = of.per_context * replicas.decoding[r]
    if until < math.inf:
        steps = min(steps, _steps_within(until - replicas.clock[r], first, growth, steps))
        if steps == 0:
            return 0
    head = replicas.head[r]
    if head != NOBODY and requests.visible[head] > replicas.clock[r] and not _is_full(replicas, r, of):
        # It is seen at the first boundary at or after its arrival.
        gap = requests.visible[head] - replicas.clock[r]
        before = _steps_within(gap, first, growth, steps)
        if before < steps and _duration(before, first, growth) < gap:
            before += 1
        steps = max(1, before)
    return int(steps)


@njit(cache=True, nogil=True)
def _quiet_until(replicas: Replicas, requests: Requests, r: int, of: Engine) -> float:  # pragma: no cover - compiled
    """When, at the earliest, decoding comes to an end of a request, a full cache or a request to let in."""
    steps = _steps_that_fit(replicas, r, of, replicas.next_finish[r] - replicas.counter[r])
    first = of.fixed + of.per_sequence * replicas.decoding[r] + of.per_context * replicas.context[r]
    seconds = _duration(steps, first, of.per_context * replicas.decoding[r])
    time = replicas.clock[r] + seconds * (1 - 1e-9)
    head = replicas.head[r]
    if head != NOBODY and not _is_full(replicas, r, of):
        time = min(time, requests.visible[head])
    return float(time)


@njit(cache=True, nogil=True)
def _steps_that_fit(replicas: Replicas, r: int, of: Engine, steps: int) -> int:  # pragma: no cover - compiled
    """As many of the steps as the free blocks of the cache allow."""
    left = replicas.free[r]
    if left >= replicas.decoding[r] * (steps // of.block + 1):
        return steps
    for step in range(steps):
        left -= replicas.phases[r, (replicas.counter[r] + step) % of.block]
        if left < 0:
            return step
    return steps


@njit(cache=True, nogil=True)
def _duration(steps: int, first: float, growth: float) -> float:  # pragma: no cover - compiled
    """Seconds of steps of which the first takes `first` and each next one `growth` more."""
    return steps * first + growth * (steps * (steps - 1) / 2)


@njit(cache=True, nogil=True)
def _steps_within(gap: float, first: float, growth: float, most: int) -> int:  # pragma: no cover - compiled
    """The most steps, up to `most`, that end within `gap` seconds."""
    if gap >= _duration(most, first, growth):
        return most
    half = first - growth / 2  # positive: every sequence has at least one cached token
    steps = int(2 * gap / (half + math.sqrt(half * half + 2 * growth * gap)))
    steps = min(max(steps, 0), most)
    while steps > 0 and _duration(steps, first, growth) > gap:
        steps -= 1
    while steps < most and _duration(steps + 1, first, growth) <= gap:
        steps += 1
    return steps


@njit(cache=True, nogil=True)
def _jump(
    replicas: Replicas, requests: Requests, r: int, of: Engine, steps: int
) -> None:  # pragma: no cover - compiled
    sequences = replicas.decoding[r]
    read = steps * float(replicas.context[r]) + sequences * (steps * (steps - 1) / 2)
    seconds = steps * (of.fixed + of.per_sequence * sequences) + of.per_context * read
    whole, rest = steps // of.block, steps % of.block
    needed = whole * sequences
    for step in range(rest):
        needed += replicas.phases[r, (replicas.counter[r] + step) % of.block]
    replicas.free[r] -= needed
    replicas.counter[r] += steps
    replicas.context[r] += steps * sequences
    replicas.clock[r] += seconds
    replicas.busy[r] += seconds
    replicas.decoded[r] += steps * sequences
    replicas.context_read[r] += read
    replicas.sequence_steps[r] += steps * sequences
    if replicas.counter[r] == replicas.next_finish[r]:
        _finish_decoded(replicas, requests, r, of)


@njit(cache=True, nogil=True)
def _begin_step(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:  # pragma: no cover - compiled
    """Decides what the next step does: makes room, deals out tokens, lets requests in."""
    had_room = _make_room(replicas, requests, r, of)
    was_empty = replicas.decoding[r] + replicas.prefilling[r] == 0
    budget = of.max_batched_tokens - replicas.decoding[r]
    tokens, cached = 0, float(replicas.context[r])
    for i in range(replicas.prefilling[r]):
        chunk = min(replicas.fill_left[r, i], budget)
        replicas.fill_chunk[r, i] = chunk
        if chunk > 0:
            request = replicas.fill_request[r, i]
            cached += requests.prompt[request] + requests.generated[request] - replicas.fill_left[r, i]
        budget -= chunk
        tokens += chunk
    while had_room and budget > 0 and (was_empty or not of.is_static):
        head = replicas.head[r]
        running = replicas.decoding[r] + replicas.prefilling[r]
        if head == NOBODY or requests.visible[head] > replicas.clock[r] or running >= of.max_sequences:
            break
        total = requests.prompt[head] + requests.generated[head]
        blocks = _blocks(total, of.block)
        if blocks > replicas.free[r]:
            break
        dequeue(replicas, requests, r)
        i = replicas.prefilling[r]
        replicas.free[r] -= blocks
        chunk = min(total, budget)
        replicas.fill_request[r, i], replicas.fill_left[r, i], replicas.fill_chunk[r, i] = head, total, chunk
        replicas.fill_admitted[r, i] = replicas.admitted[r]
        replicas.admitted[r] += 1
        replicas.prefilling[r] += 1
        budget -= chunk
        tokens += chunk
    sequences = replicas.decoding[r]
    seconds = of.fixed + of.per_prefill * tokens + of.per_sequence * sequences + of.per_context * cached
    replicas.step_end[r] = replicas.clock[r] + seconds
    replicas.busy[r] += seconds
    replicas.prefilled[r] += tokens
    replicas.decoded[r] += sequences
    replicas.context_read[r] += cached
    replicas.sequence_steps[r] += sequences + replicas.prefilling[r]


@njit(cache=True, nogil=True)
def _make_room(replicas: Replicas, requests: Requests, r: int, of: Engine) -> bool:  # pragma: no cover - compiled
    """Takes the blocks that this step's tokens need; whether it did so without taking them from somebody."""
    phase = replicas.counter[r] % of.block
    had_room = True
    while replicas.phases[r, phase] > replicas.free[r]:
        had_room = False
        _preempt_newest(replicas, requests, r, of)
    replicas.free[r] -= replicas.phases[r, phase]
    return had_room


@njit(cache=True, nogil=True)
def _preempt_newest(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:  # pragma: no cover - compiled
    """The sequence that was let in last goes back to the front of the queue."""
    if replicas.prefilling[r] > 0:  # whoever still reads its prompt came after all who decode
        i = replicas.prefilling[r] - 1
        request = int(replicas.fill_request[r, i])
        replicas.free[r] += _blocks(requests.prompt[request] + requests.generated[request], of.block)
        replicas.prefilling[r] = i
    else:
        newest = 0
        for slot in range(1, replicas.decoding[r]):
            if replicas.decode_admitted[r, slot] > replicas.decode_admitted[r, newest]:
                newest = slot
        request = int(replicas.decode_request[r, newest])
        _leave(replicas, requests, r, of, newest)
        left = replicas.decode_finish[r, newest] - replicas.counter[r]
        requests.generated[request] = requests.answer[request] - left
        _remove_slot(replicas, r, newest)
    requests.behind[request] = replicas.head[r]
    if replicas.head[r] == NOBODY:
        replicas.tail[r] = request
    replicas.head[r] = request
    replicas.waiting[r] += 1
    replicas.preemptions[r] += 1


@njit(cache=True, nogil=True)
def _leave(
    replicas: Replicas, requests: Requests, r: int, of: Engine, slot: int
) -> None:  # pragma: no cover - compiled
    """Gives back what a decoding sequence holds of the cache."""
    request = replicas.decode_request[r, slot]
    left = replicas.decode_finish[r, slot] - replicas.counter[r]
    cached = requests.prompt[request] + requests.answer[request] - 1 - left
    replicas.free[r] += _blocks(cached, of.block)
    replicas.context[r] -= cached
    replicas.phases[r, (replicas.counter[r] - cached) % of.block] -= 1


@njit(cache=True, nogil=True)
def _remove_slot(replicas: Replicas, r: int, slot: int) -> None:  # pragma: no cover - compiled
    last = replicas.decoding[r] - 1
    replicas.decode_request[r, slot] = replicas.decode_request[r, last]
    replicas.decode_finish[r, slot] = replicas.decode_finish[r, last]
    replicas.decode_admitted[r, slot] = replicas.decode_admitted[r, last]
    replicas.decoding[r] = last
    earliest = NEVER
    for other in range(last):
        earliest = min(earliest, replicas.decode_finish[r, other])
    replicas.next_finish[r] = earliest


@njit(cache=True, nogil=True)
def _end_step(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:  # pragma: no cover - compiled
    """Hands out the tokens of the step that was begun."""
    replicas.clock[r] = replicas.step_end[r]
    replicas.step_end[r] = -1.0
    replicas.counter[r] += 1
    replicas.context[r] += replicas.decoding[r]
    if replicas.counter[r] == replicas.next_finish[r]:
        _finish_decoded(replicas, requests, r, of)
    kept = 0
    for i in range(replicas.prefilling[r]):
        replicas.fill_left[r, i] -= replicas.fill_chunk[r, i]
        if replicas.fill_left[r, i] == 0:
            _begin_decoding(replicas, requests, r, of, i)
            continue
        replicas.fill_request[r, kept] = replicas.fill_request[r, i]
        replicas.fill_left[r, kept] = replicas.fill_left[r, i]
        replicas.fill_admitted[r, kept] = replicas.fill_admitted[r, i]
        kept += 1
    replicas.prefilling[r] = kept


@njit(cache=True, nogil=True)
def _begin_decoding(
    replicas: Replicas, requests: Requests, r: int, of: Engine, i: int
) -> None:  # pragma: no cover - compiled
    """A prompt was read to its end, which gives a token."""
    request = int(replicas.fill_request[r, i])
    cached = requests.prompt[request] + requests.generated[request]
    if math.isnan(requests.first[request]):
        requests.first[request] = replicas.clock[r]
    left = requests.answer[request] - requests.generated[request] - 1
    if left == 0:
        replicas.free[r] += _blocks(cached, of.block)
        _end_request(replicas, requests, r, of, request)
        return
    slot = replicas.decoding[r]
    finish = replicas.counter[r] + left
    replicas.decode_request[r, slot] = request
    replicas.decode_finish[r, slot] = finish
    replicas.decode_admitted[r, slot] = replicas.fill_admitted[r, i]
    replicas.decoding[r] += 1
    replicas.next_finish[r] = min(replicas.next_finish[r], finish)
    replicas.context[r] += cached
    replicas.phases[r, (replicas.counter[r] - cached) % of.block] += 1


@njit(cache=True, nogil=True)
def _finish_decoded(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:  # pragma: no cover - compiled
    """Takes those out that said their last token, the one that was let in first at first."""
    earliest, slot = NEVER, 0
    while slot < replicas.decoding[r]:
        if replicas.decode_finish[r, slot] == replicas.counter[r]:
            request = int(replicas.decode_request[r, slot])
            _leave(replicas, requests, r, of, slot)
            last = replicas.decoding[r] - 1
            replicas.decode_request[r, slot] = replicas.decode_request[r, last]
            replicas.decode_finish[r, slot] = replicas.decode_finish[r, last]
            replicas.decode_admitted[r, slot] = replicas.decode_admitted[r, last]
            replicas.decoding[r] = last
            _end_request(replicas, requests, r, of, request)
        else:
            earliest = min(earliest, replicas.decode_finish[r, slot])
            slot += 1
    replicas.next_finish[r] = earliest


@njit(cache=True, nogil=True)
def _end_request(
    replicas: Replicas, requests: Requests, r: int, of: Engine, request: int
) -> None:  # pragma: no cover - compiled
    requests.last[request] = replicas.clock[r]
    if of.is_closed and requests.following[0] < len(requests.arrived):
        after = int(requests.following[0])
        requests.following[0] += 1
        requests.arrived[after] = replicas.clock[r]
        requests.visible[after] = replicas.clock[r] + of.admission
        enqueue(replicas, requests, r, after)
