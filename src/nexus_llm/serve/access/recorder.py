"""Writes what requests used to the database, beside the event loop, and keeps it while the database is away."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict

from nexus_llm.serve.access.database import DatabaseDownError
from nexus_llm.serve.access.ledger import Ledger, Outcome

log = logging.getLogger("nexus_llm.serve.access")

MAX_WAITING = 100_000  # some 30 MB; what comes on top is lost and told, and what it held stays counted
MAX_BATCH = 200  # of one key in one transaction
RETRY_SECONDS = 0.5
FLUSH_SECONDS = 5.0
RECOVER_SECONDS = 3_600.0


class Recorder:
    """A thread that records outcomes in the order in which they come, many at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[Outcome] = []
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="usage", daemon=True)
        self._thread.start()

    def add(self, outcome: Outcome) -> None:
        """Returns at once; the outcome is recorded soon."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._lost += 1
                return
            self._waiting.append(outcome)
            self._changed.notify()

    def close(self) -> None:
        """Returns when everything is recorded, or cannot be within `FLUSH_SECONDS`."""
        with self._changed:
            self._closing_at = time.monotonic()
            self._changed.notify()
        self._thread.join(FLUSH_SECONDS)
        with self._changed:
            unrecorded = len(self._waiting) + self._lost
        if unrecorded:
            log.error("usage.lost", extra={"requests": unrecorded})

    def _work(self) -> None:
        recovered_at = -RECOVER_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing_at is not None, timeout=RECOVER_SECONDS)
                batch = list(self._waiting)
                if self._closing_at is not None and (not batch or self._is_late()):
                    return
            try:
                if time.monotonic() - recovered_at >= RECOVER_SECONDS:
                    self._ledger.recover()
                    recovered_at = time.monotonic()
                self._record(batch)
            except DatabaseDownError as error:
                log.warning("usage.not_recorded_yet", extra={"requests": len(batch), "error": str(error)})
                time.sleep(RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - the thread must live; what cannot be written must not block
                log.error("usage.lost", extra={"requests": len(batch), "error": type(error).__name__})
                self._forget(batch)

    def _is_late(self) -> bool:
        return self._closing_at is not None and time.monotonic() > self._closing_at + FLUSH_SECONDS

    def _record(self, batch: list[Outcome]) -> None:
        by_key: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in batch:
            by_key[outcome.request.key_id].append(outcome)
        for outcomes in by_key.values():
            for begin in range(0, len(outcomes), MAX_BATCH):
                part = outcomes[begin : begin + MAX_BATCH]
                self._ledger.record(part)
                self._forget(part)

    def _forget(self, done: list[Outcome]) -> None:
        ids = set(map(id, done))
        with self._changed:
            self._waiting = [one for one in self._waiting if id(one) not in ids]
