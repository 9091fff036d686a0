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
    requests.rows[request].behind = NOBODY
    if replicas.rows[place].head == NOBODY:
        replicas.rows[place].head = request
    else:
        requests.rows[replicas.rows[place].tail].behind = request
    replicas.rows[place].tail = request
    replicas.rows[place].waiting += 1


@njit(cache=True, nogil=True)
def dequeue(replicas: Replicas, requests: Requests, place: int) -> int:  # pragma: no cover - compiled
    """The first of a queue, taken from it."""
    request = int(replicas.rows[place].head)
    replicas.rows[place].head = requests.rows[request].behind
    if replicas.rows[place].head == NOBODY:
        replicas.rows[place].tail = NOBODY
    replicas.rows[place].waiting -= 1
    return request


@njit(cache=True, nogil=True)
def advance(
    replicas: Replicas, requests: Requests, r: int, of: Engine, until: float
) -> float:  # pragma: no cover - compiled
    """Runs the steps of replica `r` that end by `until`. Requests that arrive by then must be in its queue.

    What comes out is a time before which no request of it ends, whoever else arrives elsewhere.
    """
    while True:
        if replicas.rows[r].step_end >= 0:
            if replicas.rows[r].step_end > until:
                return float(replicas.rows[r].step_end)
            _end_step(replicas, requests, r, of)
        head = replicas.rows[r].head
        running = replicas.rows[r].decoding + replicas.rows[r].prefilling
        if running == 0:
            if head == NOBODY:
                return math.inf
            replicas.rows[r].clock = max(replicas.rows[r].clock, requests.rows[head].visible)
        if replicas.rows[r].clock >= until:  # who arrives at this very moment may not be in the queue yet
            return float(replicas.rows[r].clock)
        if (
            replicas.rows[r].prefilling == 0
            and replicas.rows[r].decoding > 0
            and not _may_let_in(replicas, requests, r, of)
        ):
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
    return int(replicas.rows[r].waiting + replicas.rows[r].decoding + replicas.rows[r].prefilling)


@njit(cache=True, nogil=True)
def _is_full(replicas: Replicas, r: int, of: Engine) -> bool:  # pragma: no cover - compiled
    running = replicas.rows[r].decoding + replicas.rows[r].prefilling
    return bool(running >= of.max_sequences or (of.is_static and running > 0))


@njit(cache=True, nogil=True)
def _may_let_in(replicas: Replicas, requests: Requests, r: int, of: Engine) -> bool:  # pragma: no cover - compiled
    """Whether the first of the queue might get in now: then a step must be looked at closely."""
    head = replicas.rows[r].head
    if head == NOBODY or requests.rows[head].visible > replicas.rows[r].clock or _is_full(replicas, r, of):
        return False
    return bool(_blocks(requests.rows[head].prompt + requests.rows[head].generated, of.block) <= replicas.rows[r].free)


@njit(cache=True, nogil=True)
def _blocks(tokens: int, block: int) -> int:  # pragma: no cover - compiled
    return (tokens + block - 1) // block


@njit(cache=True, nogil=True)
def _steps_to_jump(
    replicas: Replicas, requests: Requests, r: int, of: Engine, until: float
) -> int:  # pragma: no cover - compiled
    """Pure decoding steps until something happens; 0 where not one ends by `until`, -1 where the cache is full."""
    steps = replicas.rows[r].next_finish - replicas.rows[r].counter
    steps = _steps_that_fit(replicas, r, of, steps)
    if steps == 0:
        return -1
    first = of.fixed + of.per_sequence * replicas.rows[r].decoding + of.per_context * replicas.rows[r].context
    growth = of.per_context * replicas.rows[r].decoding
    if until < math.inf:
        steps = min(steps, _steps_within(until - replicas.rows[r].clock, first, growth, steps))
        if steps == 0:
            return 0
    head = replicas.rows[r].head
    if head != NOBODY and requests.rows[head].visible > replicas.rows[r].clock and not _is_full(replicas, r, of):
        # It is seen at the first boundary at or after its arrival.
        gap = requests.rows[head].visible - replicas.rows[r].clock
        before = _steps_within(gap, first, growth, steps)
        if before < steps and _duration(before, first, growth) < gap:
            before += 1
        steps = max(1, before)
    return int(steps)


@njit(cache=True, nogil=True)
def _quiet_until(replicas: Replicas, requests: Requests, r: int, of: Engine) -> float:  # pragma: no cover - compiled
    """When, at the earliest, decoding comes to an end of a request, a full cache or a request to let in."""
    steps = _steps_that_fit(replicas, r, of, replicas.rows[r].next_finish - replicas.rows[r].counter)
    first = of.fixed + of.per_sequence * replicas.rows[r].decoding + of.per_context * replicas.rows[r].context
    seconds = _duration(steps, first, of.per_context * replicas.rows[r].decoding)
    time = replicas.rows[r].clock + seconds * (1 - 1e-9)
    head = replicas.rows[r].head
    if head != NOBODY and not _is_full(replicas, r, of):
        time = min(time, requests.rows[head].visible)
    return float(time)


@njit(cache=True, nogil=True)
def _steps_that_fit(replicas: Replicas, r: int, of: Engine, steps: int) -> int:  # pragma: no cover - compiled
    """As many of the steps as the free blocks of the cache allow."""
    left = replicas.rows[r].free
    if left >= replicas.rows[r].decoding * (steps // of.block + 1):
        return steps
    for step in range(steps):
        left -= replicas.phases[r, (replicas.rows[r].counter + step) % of.block]
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
    sequences = replicas.rows[r].decoding
    read = steps * float(replicas.rows[r].context) + sequences * (steps * (steps - 1) / 2)
    seconds = steps * (of.fixed + of.per_sequence * sequences) + of.per_context * read
    whole, rest = steps // of.block, steps % of.block
    needed = whole * sequences
    for step in range(rest):
        needed += replicas.phases[r, (replicas.rows[r].counter + step) % of.block]
    replicas.rows[r].free -= needed
    replicas.rows[r].counter += steps
    replicas.rows[r].context += steps * sequences
    replicas.rows[r].clock += seconds
    replicas.rows[r].busy += seconds
    replicas.rows[r].decoded += steps * sequences
    replicas.rows[r].context_read += read
    replicas.rows[r].sequence_steps += steps * sequences
    if replicas.rows[r].counter == replicas.rows[r].next_finish:
        _finish_decoded(replicas, requests, r, of)


@njit(cache=True, nogil=True)
def _begin_step(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:  # pragma: no cover - compiled
    """Decides what the next step does: makes room, deals out tokens, lets requests in."""
    had_room = _make_room(replicas, requests, r, of)
    was_empty = replicas.rows[r].decoding + replicas.rows[r].prefilling == 0
    budget = of.max_batched_tokens - replicas.rows[r].decoding
    tokens, cached = 0, float(replicas.rows[r].context)
    for i in range(replicas.rows[r].prefilling):
        chunk = min(replicas.fill[r, i].left, budget)
        replicas.fill[r, i].chunk = chunk
        if chunk > 0:
            request = replicas.fill[r, i].request
            cached += requests.rows[request].prompt + requests.rows[request].generated - replicas.fill[r, i].left
        budget -= chunk
        tokens += chunk
    while had_room and budget > 0 and (was_empty or not of.is_static):
        head = replicas.rows[r].head
        running = replicas.rows[r].decoding + replicas.rows[r].prefilling
        if head == NOBODY or requests.rows[head].visible > replicas.rows[r].clock or running >= of.max_sequences:
            break
        total = requests.rows[head].prompt + requests.rows[head].generated
        blocks = _blocks(total, of.block)
        if blocks > replicas.rows[r].free:
            break
        dequeue(replicas, requests, r)
        i = replicas.rows[r].prefilling
        replicas.rows[r].free -= blocks
        chunk = min(total, budget)
        replicas.fill[r, i].request = head
        replicas.fill[r, i].left = total
        replicas.fill[r, i].chunk = chunk
        replicas.fill[r, i].admitted = replicas.rows[r].admitted
        replicas.rows[r].admitted += 1
        replicas.rows[r].prefilling += 1
        budget -= chunk
        tokens += chunk
    sequences = replicas.rows[r].decoding
    seconds = of.fixed + of.per_prefill * tokens + of.per_sequence * sequences + of.per_context * cached
    replicas.rows[r].step_end = replicas.rows[r].clock + seconds
    replicas.rows[r].busy += seconds
    replicas.rows[r].prefilled += tokens
    replicas.rows[r].decoded += sequences
    replicas.rows[r].context_read += cached
    replicas.rows[r].sequence_steps += sequences + replicas.rows[r].prefilling


@njit(cache=True, nogil=True)
def _make_room(replicas: Replicas, requests: Requests, r: int, of: Engine) -> bool:  # pragma: no cover - compiled
    """Takes the blocks that this step's tokens need; whether it did so without taking them from somebody."""
    phase = replicas.rows[r].counter % of.block
    had_room = True
    while replicas.phases[r, phase] > replicas.rows[r].free:
        had_room = False
        _preempt_newest(replicas, requests, r, of)
    replicas.rows[r].free -= replicas.phases[r, phase]
    return had_room


@njit(cache=True, nogil=True)
def _preempt_newest(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:  # pragma: no cover - compiled
    """The sequence that was let in last goes back to the front of the queue."""
    if replicas.rows[r].prefilling > 0:  # whoever still reads its prompt came after all who decode
        i = replicas.rows[r].prefilling - 1
        request = int(replicas.fill[r, i].request)
        replicas.rows[r].free += _blocks(requests.rows[request].prompt + requests.rows[request].generated, of.block)
        replicas.rows[r].prefilling = i
    else:
        newest = 0
        for slot in range(1, replicas.rows[r].decoding):
            if replicas.decode[r, slot].admitted > replicas.decode[r, newest].admitted:
                newest = slot
        request = int(replicas.decode[r, newest].request)
        _leave(replicas, requests, r, of, newest)
        left = replicas.decode[r, newest].finish - replicas.rows[r].counter
        requests.rows[request].generated = requests.rows[request].answer - left
        _remove_slot(replicas, r, newest)
    requests.rows[request].behind = replicas.rows[r].head
    if replicas.rows[r].head == NOBODY:
        replicas.rows[r].tail = request
    replicas.rows[r].head = request
    replicas.rows[r].waiting += 1
    replicas.rows[r].preemptions += 1


@njit(cache=True, nogil=True)
def _leave(
    replicas: Replicas, requests: Requests, r: int, of: Engine, slot: int
) -> None:  # pragma: no cover - compiled
    """Gives back what a decoding sequence holds of the cache."""
    request = replicas.decode[r, slot].request
    left = replicas.decode[r, slot].finish - replicas.rows[r].counter
    cached = requests.rows[request].prompt + requests.rows[request].answer - 1 - left
    replicas.rows[r].free += _blocks(cached, of.block)
    replicas.rows[r].context -= cached
    replicas.phases[r, (replicas.rows[r].counter - cached) % of.block] -= 1


@njit(cache=True, nogil=True)
def _remove_slot(replicas: Replicas, r: int, slot: int) -> None:  # pragma: no cover - compiled
    last = replicas.rows[r].decoding - 1
    replicas.decode[r, slot].request = replicas.decode[r, last].request
    replicas.decode[r, slot].finish = replicas.decode[r, last].finish
    replicas.decode[r, slot].admitted = replicas.decode[r, last].admitted
    replicas.rows[r].decoding = last
    earliest = NEVER
    for other in range(last):
        earliest = min(earliest, replicas.decode[r, other].finish)
    replicas.rows[r].next_finish = earliest


@njit(cache=True, nogil=True)
def _end_step(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:  # pragma: no cover - compiled
    """Hands out the tokens of the step that was begun."""
    replicas.rows[r].clock = replicas.rows[r].step_end
    replicas.rows[r].step_end = -1.0
    replicas.rows[r].counter += 1
    replicas.rows[r].context += replicas.rows[r].decoding
    if replicas.rows[r].counter == replicas.rows[r].next_finish:
        _finish_decoded(replicas, requests, r, of)
    kept = 0
    for i in range(replicas.rows[r].prefilling):
        replicas.fill[r, i].left -= replicas.fill[r, i].chunk
        if replicas.fill[r, i].left == 0:
            _begin_decoding(replicas, requests, r, of, i)
            continue
        replicas.fill[r, kept].request = replicas.fill[r, i].request
        replicas.fill[r, kept].left = replicas.fill[r, i].left
        replicas.fill[r, kept].admitted = replicas.fill[r, i].admitted
        kept += 1
    replicas.rows[r].prefilling = kept


@njit(cache=True, nogil=True)
def _begin_decoding(
    replicas: Replicas, requests: Requests, r: int, of: Engine, i: int
) -> None:  # pragma: no cover - compiled
    """A prompt was read to its end, which gives a token."""
    request = int(replicas.fill[r, i].request)
    cached = requests.rows[request].prompt + requests.rows[request].generated
    if math.isnan(requests.rows[request].first):
        requests.rows[request].first = replicas.rows[r].clock
    left = requests.rows[request].answer - requests.rows[request].generated - 1
    if left == 0:
        replicas.rows[r].free += _blocks(cached, of.block)
        _end_request(replicas, requests, r, of, request)
        return
    slot = replicas.rows[r].decoding
    finish = replicas.rows[r].counter + left
    replicas.decode[r, slot].request = request
    replicas.decode[r, slot].finish = finish
    replicas.decode[r, slot].admitted = replicas.fill[r, i].admitted
    replicas.rows[r].decoding += 1
    replicas.rows[r].next_finish = min(replicas.rows[r].next_finish, finish)
    replicas.rows[r].context += cached
    replicas.phases[r, (replicas.rows[r].counter - cached) % of.block] += 1


@njit(cache=True, nogil=True)
def _finish_decoded(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:  # pragma: no cover - compiled
    """Takes those out that said their last token, the one that was let in first at first."""
    earliest, slot = NEVER, 0
    while slot < replicas.rows[r].decoding:
        if replicas.decode[r, slot].finish == replicas.rows[r].counter:
            request = int(replicas.decode[r, slot].request)
            _leave(replicas, requests, r, of, slot)
            last = replicas.rows[r].decoding - 1
            replicas.decode[r, slot].request = replicas.decode[r, last].request
            replicas.decode[r, slot].finish = replicas.decode[r, last].finish
            replicas.decode[r, slot].admitted = replicas.decode[r, last].admitted
            replicas.rows[r].decoding = last
            _end_request(replicas, requests, r, of, request)
        else:
            earliest = min(earliest, replicas.decode[r, slot].finish)
            slot += 1
    replicas.rows[r].next_finish = earliest


@njit(cache=True, nogil=True)
def _end_request(
    replicas: Replicas, requests: Requests, r: int, of: Engine, request: int
) -> None:  # pragma: no cover - compiled
    requests.rows[request].last = replicas.rows[r].clock
    if of.is_closed and requests.following[0] < len(requests.rows):
        after = int(requests.following[0])
        requests.following[0] += 1
        requests.rows[after].arrived = replicas.rows[r].clock
        requests.rows[after].visible = replicas.rows[r].clock + of.admission
        enqueue(replicas, requests, r, after)
