"""The simulated scheduler of one replica, compiled: continuous batching as vLLM and OpenVINO GenAI do it.

A step gives every decoding sequence one token and spends what is left of `max_batched_tokens` on prompts, first come
first served, in chunks. A request is let in while there is a free place, a free token in the step, and room in the
cache for its whole prompt. Where the cache has no block left for a decoding sequence, the one that came last loses its
blocks and goes back to the front of the queue; prompt and answer so far are then computed again. Nobody is let in in
the step of a preemption.

Steps without prefill, between two events, differ only in the context that they read, which grows by one token a
sequence a step, and in the first one's `per_change`. So any number of them is one quadratic expression, and the
simulation jumps from event to event (an arrival that can be let in, an end, a full cache). Under the linear step time
this is exact, not an approximation; `tests/cost/capacity` compares it with a plain loop over steps.
"""

from __future__ import annotations

import math

from nexus_llm.cost.capacity.scheduler_state import (
    NEVER,
    NOBODY,
    Engine,
    Replicas,
    Requests,
    dequeue,
    enqueue,
    inner,
)


@inner
def advance(replicas: Replicas, requests: Requests, r: int, of: Engine, until: float) -> float:
    """Runs the steps of replica `r` that end by `until`. Requests that arrive by then must be in its queue.

    What comes out is a time before which no request of it ends, whoever else arrives elsewhere.
    """
    row = replicas.rows[r]
    while True:
        if row.step_end >= 0:
            if row.step_end > until:
                return float(row.step_end)
            _end_step(replicas, requests, r, of)
        head = row.head
        running = row.decoding + row.prefilling
        if running == 0:
            if head == NOBODY:
                return math.inf
            row.clock = max(row.clock, requests.rows[head].visible)
        if row.clock >= until:  # who arrives at this very moment may not be in the queue yet
            return float(row.clock)
        if row.prefilling == 0 and row.decoding > 0 and not _may_let_in(replicas, requests, r, of):
            steps = _steps_to_jump(replicas, requests, r, of, until)
            if steps == 0:
                return float(_quiet_until(replicas, requests, r, of))
            if steps > 0:
                _jump(replicas, requests, r, of, steps)
                continue
        _begin_step(replicas, requests, r, of)


@inner
def outstanding(replicas: Replicas, r: int) -> int:
    """Requests that replica `r` has and has not finished."""
    row = replicas.rows[r]
    return int(row.waiting + row.decoding + row.prefilling)


@inner
def _is_full(replicas: Replicas, r: int, of: Engine) -> bool:
    row = replicas.rows[r]
    running = row.decoding + row.prefilling
    return bool(running >= of.max_sequences or (of.is_static and running > 0))


@inner
def _may_let_in(replicas: Replicas, requests: Requests, r: int, of: Engine) -> bool:
    """Whether the first of the queue might get in now: then a step must be looked at closely."""
    row = replicas.rows[r]
    head = row.head
    if head == NOBODY or requests.rows[head].visible > row.clock or _is_full(replicas, r, of):
        return False
    return bool(_blocks(requests.rows[head].prompt + requests.rows[head].generated, of.block) <= row.free)


@inner
def _blocks(tokens: int, block: int) -> int:
    return (tokens + block - 1) // block


@inner
def _steps_to_jump(replicas: Replicas, requests: Requests, r: int, of: Engine, until: float) -> int:
    """Pure decoding steps until something happens; 0 where not one ends by `until`, -1 where the cache is full."""
    row = replicas.rows[r]
    steps = row.next_finish - row.counter
    steps = _steps_that_fit(replicas, r, of, steps)
    if steps == 0:
        return -1
    first = of.fixed + of.per_sequence * row.decoding + of.per_context * row.context
    growth = of.per_context * row.decoding
    began = row.clock + of.per_change * row.changed
    if until < math.inf:
        steps = min(steps, _steps_within(until - began, first, growth, steps))
        if steps == 0:
            return 0
    head = row.head
    if head != NOBODY and requests.rows[head].visible > row.clock and not _is_full(replicas, r, of):
        # It is seen at the first boundary at or after its arrival.
        gap = requests.rows[head].visible - began
        before = _steps_within(gap, first, growth, steps)
        if before < steps and _duration(before, first, growth) < gap:
            before += 1
        steps = max(1, before)
    return int(steps)


@inner
def _quiet_until(replicas: Replicas, requests: Requests, r: int, of: Engine) -> float:
    """When, at the earliest, decoding comes to an end of a request, a full cache or a request to let in."""
    row = replicas.rows[r]
    steps = _steps_that_fit(replicas, r, of, row.next_finish - row.counter)
    first = of.fixed + of.per_sequence * row.decoding + of.per_context * row.context
    seconds = of.per_change * row.changed + _duration(steps, first, of.per_context * row.decoding)
    time = row.clock + seconds * (1 - 1e-9)
    head = row.head
    if head != NOBODY and not _is_full(replicas, r, of):
        time = min(time, requests.rows[head].visible)
    return float(time)


@inner
def _steps_that_fit(replicas: Replicas, r: int, of: Engine, steps: int) -> int:
    """As many of the steps as the free blocks of the cache allow."""
    row = replicas.rows[r]
    left = row.free
    if left >= row.decoding * (steps // of.block + 1):
        return steps
    for step in range(steps):
        left -= replicas.phases[r, (row.counter + step) % of.block]
        if left < 0:
            return step
    return steps


@inner
def _duration(steps: int, first: float, growth: float) -> float:
    """Seconds of steps of which the first takes `first` and each next one `growth` more."""
    return steps * first + growth * (steps * (steps - 1) / 2)


@inner
def _steps_within(gap: float, first: float, growth: float, most: int) -> int:
    """The most steps, up to `most`, that end within `gap` seconds."""
    if gap < first:
        return 0
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


@inner
def _jump(replicas: Replicas, requests: Requests, r: int, of: Engine, steps: int) -> None:
    row = replicas.rows[r]
    sequences = row.decoding
    read = steps * float(row.context) + sequences * (steps * (steps - 1) / 2)
    seconds = of.per_change * row.changed + steps * (of.fixed + of.per_sequence * sequences) + of.per_context * read
    row.changed = 0
    whole, rest = steps // of.block, steps % of.block
    needed = whole * sequences
    for step in range(rest):
        needed += replicas.phases[r, (row.counter + step) % of.block]
    row.free -= needed
    row.counter += steps
    row.context += steps * sequences
    row.clock += seconds
    row.busy += seconds
    row.sequence_steps += steps * sequences
    if row.counter == row.next_finish:
        _finish_decoded(replicas, requests, r, of)


@inner
def _begin_step(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:
    """Decides what the next step does: makes room, deals out tokens, lets requests in."""
    row = replicas.rows[r]
    had_room = _make_room(replicas, requests, r, of)
    was_empty = row.decoding + row.prefilling == 0
    budget = of.max_batched_tokens - row.decoding
    tokens, cached = 0, float(row.context)
    for i in range(row.prefilling):
        chunk = min(replicas.fill[r, i].left, budget)
        replicas.fill[r, i].chunk = chunk
        if chunk > 0:
            request = replicas.fill[r, i].request
            cached += requests.rows[request].prompt + requests.rows[request].generated - replicas.fill[r, i].left
        budget -= chunk
        tokens += chunk
    while had_room and budget > 0 and (was_empty or not of.is_static):
        head = row.head
        running = row.decoding + row.prefilling
        if head == NOBODY or requests.rows[head].visible > row.clock or running >= of.max_sequences:
            break
        total = requests.rows[head].prompt + requests.rows[head].generated
        blocks = _blocks(total, of.block)
        if blocks > row.free:
            break
        dequeue(replicas, requests, r)
        i = row.prefilling
        row.free -= blocks
        chunk = min(total, budget)
        replicas.fill[r, i].request = head
        replicas.fill[r, i].left = total
        replicas.fill[r, i].chunk = chunk
        replicas.fill[r, i].admitted = row.admitted
        row.admitted += 1
        row.prefilling += 1
        budget -= chunk
        tokens += chunk
    sequences = row.decoding
    seconds = of.fixed + of.per_prefill * tokens + of.per_sequence * sequences + of.per_context * cached
    if tokens > 0 or row.changed:
        seconds += of.per_change
    row.changed = tokens > 0
    row.step_end = row.clock + seconds
    row.busy += seconds
    row.sequence_steps += sequences + row.prefilling


@inner
def _make_room(replicas: Replicas, requests: Requests, r: int, of: Engine) -> bool:
    """Takes the blocks that this step's tokens need; whether it did so without taking them from somebody."""
    row = replicas.rows[r]
    phase = row.counter % of.block
    had_room = True
    while replicas.phases[r, phase] > row.free:
        had_room = False
        _preempt_newest(replicas, requests, r, of)
    row.free -= replicas.phases[r, phase]
    return had_room


@inner
def _preempt_newest(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:
    """The sequence that was let in last goes back to the front of the queue."""
    row = replicas.rows[r]
    if row.prefilling > 0:  # whoever still reads its prompt came after all who decode
        i = row.prefilling - 1
        request = int(replicas.fill[r, i].request)
        row.free += _blocks(requests.rows[request].prompt + requests.rows[request].generated, of.block)
        row.prefilling = i
    else:
        newest = 0
        for slot in range(1, row.decoding):
            if replicas.decode[r, slot].admitted > replicas.decode[r, newest].admitted:
                newest = slot
        request = int(replicas.decode[r, newest].request)
        left = replicas.decode[r, newest].finish - row.counter
        requests.rows[request].generated = requests.rows[request].answer - left
        _leave(replicas, requests, r, of, newest)
        row.changed = 1
        row.next_finish = _earliest_finish(replicas, r)
    requests.rows[request].behind = row.head
    if row.head == NOBODY:
        row.tail = request
    row.head = request
    row.waiting += 1
    row.preemptions += 1


@inner
def _leave(replicas: Replicas, requests: Requests, r: int, of: Engine, slot: int) -> None:
    """Takes a decoding sequence out, with what it holds of the cache; the last one gets its slot."""
    row = replicas.rows[r]
    request = replicas.decode[r, slot].request
    left = replicas.decode[r, slot].finish - row.counter
    cached = requests.rows[request].prompt + requests.rows[request].answer - 1 - left
    row.free += _blocks(cached, of.block)
    row.context -= cached
    replicas.phases[r, (row.counter - cached) % of.block] -= 1
    row.decoding -= 1
    replicas.decode[r, slot] = replicas.decode[r, row.decoding]


@inner
def _earliest_finish(replicas: Replicas, r: int) -> int:
    """The counter at which the first of those that decode ends."""
    earliest = NEVER
    for slot in range(replicas.rows[r].decoding):
        earliest = min(earliest, replicas.decode[r, slot].finish)
    return int(earliest)


@inner
def _end_step(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:
    """Hands out the tokens of the step that was begun."""
    row = replicas.rows[r]
    row.clock = row.step_end
    row.step_end = -1.0
    row.counter += 1
    row.context += row.decoding
    if row.counter == row.next_finish:
        _finish_decoded(replicas, requests, r, of)
    kept = 0
    for i in range(row.prefilling):
        replicas.fill[r, i].left -= replicas.fill[r, i].chunk
        if replicas.fill[r, i].left == 0:
            _begin_decoding(replicas, requests, r, of, i)
            continue
        replicas.fill[r, kept] = replicas.fill[r, i]
        kept += 1
    row.prefilling = kept


@inner
def _begin_decoding(replicas: Replicas, requests: Requests, r: int, of: Engine, i: int) -> None:
    """A prompt was read to its end, which gives a token."""
    row = replicas.rows[r]
    request = int(replicas.fill[r, i].request)
    cached = requests.rows[request].prompt + requests.rows[request].generated
    if math.isnan(requests.rows[request].first):
        requests.rows[request].first = row.clock
    left = requests.rows[request].answer - requests.rows[request].generated - 1
    if left == 0:
        row.free += _blocks(cached, of.block)
        _end_request(replicas, requests, r, of, request)
        return
    slot = row.decoding
    finish = row.counter + left
    replicas.decode[r, slot].request = request
    replicas.decode[r, slot].finish = finish
    replicas.decode[r, slot].admitted = replicas.fill[r, i].admitted
    row.decoding += 1
    row.next_finish = min(row.next_finish, finish)
    row.context += cached
    replicas.phases[r, (row.counter - cached) % of.block] += 1


@inner
def _finish_decoded(replicas: Replicas, requests: Requests, r: int, of: Engine) -> None:
    """Takes those out that said their last token, the one that was let in first at first."""
    row = replicas.rows[r]
    slot = 0
    while slot < row.decoding:
        if replicas.decode[r, slot].finish == row.counter:
            request = int(replicas.decode[r, slot].request)
            _leave(replicas, requests, r, of, slot)
            _end_request(replicas, requests, r, of, request)
            row.changed = 1
        else:
            slot += 1
    row.next_finish = _earliest_finish(replicas, r)


@inner
def _end_request(replicas: Replicas, requests: Requests, r: int, of: Engine, request: int) -> None:
    row = replicas.rows[r]
    requests.rows[request].last = row.clock
    if of.is_closed and requests.following[0] < len(requests.rows):
        after = int(requests.following[0])
        requests.following[0] += 1
        requests.rows[after].arrived = row.clock
        requests.rows[after].visible = row.clock + of.admission
        enqueue(replicas, requests, r, after)
