"""Several simulated replicas behind one door, compiled: who gets which request, and what happens when one goes away."""

from __future__ import annotations

import math

from numba import njit

from nexus_llm.cost.capacity.scheduler import advance, outstanding
from nexus_llm.cost.capacity.scheduler_state import (
    DRAINING,
    NEVER,
    NOBODY,
    OFF,
    READY,
    Engine,
    Replicas,
    Requests,
    dequeue,
    enqueue,
    inner,
)


@njit(cache=True, nogil=True)
def run_until(replicas: Replicas, requests: Requests, of: Engine, until: float) -> None:
    """Routes what arrives by `until` and runs all replicas up to then.

    A request goes to the ready replica with the fewest unfinished requests, the first of equals. Where none is ready it
    waits at the door.
    """
    count = len(replicas.rows) - 1
    ready = 0
    for r in range(count):
        ready += replicas.rows[r].state == READY
    while ready > 0 and replicas.rows[count].head != NOBODY:
        _give(replicas, requests, dequeue(replicas, requests, count))
    while not of.is_closed and requests.following[0] < len(requests.rows):
        request = int(requests.following[0])
        now = requests.rows[request].visible
        if now > until:
            break
        requests.following[0] += 1
        if ready == 0:
            enqueue(replicas, requests, count, request)
            continue
        if ready > 1:
            for r in range(count):
                if replicas.rows[r].state == READY and replicas.rows[r].quiet <= now:
                    replicas.rows[r].quiet = advance(replicas, requests, r, of, now)
        _give(replicas, requests, request)
    for r in range(count):
        if replicas.rows[r].state != OFF:
            replicas.rows[r].quiet = advance(replicas, requests, r, of, until)
            if replicas.rows[r].state == DRAINING and outstanding(replicas, r) == 0:
                replicas.rows[r].state = OFF


@njit(cache=True, nogil=True)
def fill_closed_loop(replicas: Replicas, requests: Requests, concurrency: int, admission_seconds: float) -> None:
    """Sends the first requests of a closed loop on one replica, all at once; the rest follows from their ends."""
    for request in range(min(concurrency, len(requests.rows))):
        requests.rows[request].arrived = 0.0
        requests.rows[request].visible = admission_seconds
        enqueue(replicas, requests, 0, request)
        requests.following[0] = request + 1


@njit(cache=True, nogil=True)
def take_away(replicas: Replicas, requests: Requests, r: int, of: Engine, now: float) -> int:
    """Ends a replica at once: all that it had starts anew elsewhere, its answers so far lost. How many those are."""
    row, count = replicas.rows[r], len(replicas.rows) - 1
    lost = int(outstanding(replicas, r))
    for slot in range(row.decoding):
        _start_anew(replicas, requests, count, int(replicas.decode[r, slot].request), now)
    for i in range(row.prefilling):
        _start_anew(replicas, requests, count, int(replicas.fill[r, i].request), now)
    while row.head != NOBODY:
        _start_anew(replicas, requests, count, dequeue(replicas, requests, r), now)
    row.state = OFF
    row.clock = now
    if row.step_end > now:
        row.busy -= row.step_end - now
    row.step_end = -1.0
    row.quiet = 0.0
    row.decoding = 0
    row.prefilling = 0
    row.context = 0
    row.free = of.blocks
    row.next_finish = NEVER
    for phase in range(of.block):
        replicas.phases[r, phase] = 0
    return lost


@inner
def _give(replicas: Replicas, requests: Requests, request: int) -> None:
    chosen, fewest = NOBODY, NEVER
    for r in range(len(replicas.rows) - 1):
        if replicas.rows[r].state == READY:
            load = outstanding(replicas, r)
            if load < fewest:
                chosen, fewest = r, load
    replicas.rows[chosen].quiet = 0.0
    enqueue(replicas, requests, chosen, request)


@inner
def _start_anew(replicas: Replicas, requests: Requests, door: int, request: int, now: float) -> None:
    requests.rows[request].generated = 0
    requests.rows[request].first = math.nan
    requests.rows[request].visible = now
    enqueue(replicas, requests, door, request)
