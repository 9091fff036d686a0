"""Several simulated replicas behind one door, compiled: who gets which request, and what happens when one goes away."""

from __future__ import annotations

import math

from numba import njit

from nexus_llm.cost.capacity.scheduler import advance, dequeue, enqueue, outstanding
from nexus_llm.cost.capacity.scheduler_state import (
    DRAINING,
    NEVER,
    NOBODY,
    OFF,
    READY,
    Engine,
    Replicas,
    Requests,
)


@njit(cache=True, nogil=True)
def run_until(
    replicas: Replicas, requests: Requests, of: Engine, until: float, is_round_robin: bool
) -> None:  # pragma: no cover - compiled
    """Routes what arrives by `until` and runs all replicas up to then.

    A request goes to the ready replica with the fewest unfinished requests, the first of equals; or to each in turn.
    Where none is ready it waits at the door.
    """
    count = len(replicas.state)
    ready = 0
    for r in range(count):
        ready += replicas.state[r] == READY
    while ready > 0 and replicas.head[count] != NOBODY:
        request = dequeue(replicas, requests, count)
        _give(replicas, requests, request, is_round_robin)
    while not of.is_closed and requests.following[0] < len(requests.visible):
        request = int(requests.following[0])
        now = requests.visible[request]
        if now > until:
            break
        requests.following[0] += 1
        if ready == 0:
            enqueue(replicas, requests, count, request)
            continue
        if ready > 1 and not is_round_robin:
            for r in range(count):
                if replicas.state[r] == READY and replicas.quiet[r] <= now:
                    replicas.quiet[r] = advance(replicas, requests, r, of, now)
        _give(replicas, requests, request, is_round_robin)
    for r in range(count):
        if replicas.state[r] != OFF:
            replicas.quiet[r] = advance(replicas, requests, r, of, until)
            if replicas.state[r] == DRAINING and outstanding(replicas, r) == 0:
                replicas.state[r] = OFF


@njit(cache=True, nogil=True)
def fill_closed_loop(
    replicas: Replicas, requests: Requests, concurrency: int, admission_seconds: float
) -> None:  # pragma: no cover - compiled
    """Sends the first requests of a closed loop on one replica, all at once; the rest follows from their ends."""
    for request in range(min(concurrency, len(requests.arrived))):
        requests.arrived[request] = 0.0
        requests.visible[request] = admission_seconds
        enqueue(replicas, requests, 0, request)
        requests.following[0] = request + 1


@njit(cache=True, nogil=True)
def take_away(
    replicas: Replicas, requests: Requests, r: int, of: Engine, now: float
) -> int:  # pragma: no cover - compiled
    """Ends a replica at once: all that it had starts anew elsewhere, its answers so far lost. How many those are."""
    count = len(replicas.state)
    lost = 0
    for slot in range(replicas.decoding[r]):
        _start_anew(replicas, requests, count, int(replicas.decode_request[r, slot]), now)
        lost += 1
    for i in range(replicas.prefilling[r]):
        _start_anew(replicas, requests, count, int(replicas.fill_request[r, i]), now)
        lost += 1
    while replicas.head[r] != NOBODY:
        _start_anew(replicas, requests, count, dequeue(replicas, requests, r), now)
        lost += 1
    replicas.state[r] = OFF
    replicas.clock[r] = now
    if replicas.step_end[r] > now:
        replicas.busy[r] -= replicas.step_end[r] - now
    replicas.step_end[r] = -1.0
    replicas.quiet[r] = 0.0
    replicas.decoding[r] = replicas.prefilling[r] = replicas.context[r] = 0
    replicas.free[r] = of.blocks
    replicas.next_finish[r] = NEVER
    replicas.phases[r, :] = 0
    return lost


@njit(cache=True, nogil=True)
def _give(
    replicas: Replicas, requests: Requests, request: int, is_round_robin: bool
) -> None:  # pragma: no cover - compiled
    chosen, fewest = NOBODY, NEVER
    for r in range(len(replicas.state)):
        if replicas.state[r] == READY:
            load = replicas.given[r] if is_round_robin else outstanding(replicas, r)
            if load < fewest:
                chosen, fewest = r, load
    replicas.given[chosen] += 1
    replicas.quiet[chosen] = 0.0
    enqueue(replicas, requests, chosen, request)


@njit(cache=True, nogil=True)
def _start_anew(
    replicas: Replicas, requests: Requests, door: int, request: int, now: float
) -> None:  # pragma: no cover - compiled
    requests.generated[request] = 0
    requests.first[request] = math.nan
    requests.visible[request] = now
    enqueue(replicas, requests, door, request)
