"""Keys and limits for the event loop: a short memory of keys, and threads that wait for the database in its place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from nexus_llm.recipe import KeysRecipe
from nexus_llm.serve.access import refusals
from nexus_llm.serve.access.caller import Caller
from nexus_llm.serve.access.database import CONNECTIONS, WAIT_SECONDS, Database, DatabaseDownError, open_database
from nexus_llm.serve.access.key_store import find_key
from nexus_llm.serve.access.keys import KeyRecord, is_key_of, key_id_of
from nexus_llm.serve.access.ledger import ANONYMOUS, Admitted, Ledger, LimitReachedError, Outcome
from nexus_llm.serve.access.limits import Prices, Refusal, Standing
from nexus_llm.serve.access.recorder import Recorder
from nexus_llm.serve.api_errors import ApiError

log = logging.getLogger("nexus_llm.serve.access")

KEY_MEMORY_SECONDS = 5.0
"""A revoked key works for at most so long at a gateway that has used it; at the one that revoked it, not at all."""
MAX_KEYS_REMEMBERED = 10_000
LATEST_ANSWER_SECONDS = WAIT_SECONDS + 0.5  # the database gives up by itself a little before we do

Value = TypeVar("Value")


class Access:
    """Who may do what at this gateway. Make it with `open`, and `close` it."""

    def __init__(self, database: Database, recipe: KeysRecipe) -> None:
        self.database = database
        self.count_refusal: Callable[[str], None] = lambda _reason: None
        """Told the reason of each refusal, for a metric."""
        self._require_keys = recipe.require_keys
        prices = Prices(recipe.usd_per_million_prompt_tokens, recipe.usd_per_million_completion_tokens)
        self._ledger = Ledger(database, prices)
        self._recorder = Recorder(self._ledger)
        self._threads = ThreadPoolExecutor(CONNECTIONS - 1, thread_name_prefix="access")  # one is the recorder's
        self._known: dict[str, tuple[float, KeyRecord | None]] = {}
        self._asked: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._full: dict[str, tuple[float, Refusal, Standing]] = {}

    @classmethod
    def open(cls, recipe: KeysRecipe, *, password: Callable[[], str] | None = None) -> Access:
        """Opens the recipe's database, with a new `password` for each connection where one is given; blocks.

        Raises:
            NexusError: it cannot be used.
        """
        assert recipe.database is not None
        return cls(open_database(recipe.database, password=password), recipe)

    def close(self) -> None:
        """Records what is not recorded yet and lets the database go; blocks for a few seconds at most."""
        self._recorder.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.database.close()

    async def authenticate(self, key: str | None) -> Caller:
        """The caller that a request's key stands for.

        Raises:
            ApiError: 401, no key or none that is good now; 503, the database does not answer.
        """
        if key is None:
            if self._require_keys:
                raise self._unauthorized("no_key")
            return Caller(self, None)
        key_id = key_id_of(key)
        record = None if key_id is None else await self._find(key_id)
        if not is_key_of(key, record) or record is None:
            raise self._unauthorized("unknown_key")
        if record.revoked_at is not None:
            raise self._unauthorized("revoked_key")
        if record.expires_at is not None and time.time() >= record.expires_at:
            raise self._unauthorized("expired_key")
        return Caller(self, record)

    def check_not_full(self, caller: Caller) -> None:
        """Refuses a key whose requests of this minute are known to be used up (429), without asking the database."""
        until, refusal, standing = self._full.get(caller.key_id, (0.0, None, None))
        left = until - time.monotonic()
        if refusal is None or standing is None:
            return
        if left <= 0:
            del self._full[caller.key_id]
            return
        raise self.refused("rate_limit", refusals.limit_reached(Refusal("requests", left), standing, tokens=0))

    async def reserve(self, caller: Caller, *, model: str, prompt_tokens: int, completion_tokens: int) -> Admitted:
        """Admits a request of `caller`; see `Caller.reserve`."""
        key = caller.key
        if key is None or key.limits.are_none:
            return Admitted(ANONYMOUS if key is None else key.id, model, int(time.time()))
        ask = partial(
            self._ledger.admit, key, model=model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
        )
        try:
            admitted, standing = await self.in_thread(ask, undo=self._release)
        except LimitReachedError as reached:
            self._remember_full(key.id, reached)
            error = refusals.limit_reached(reached.refusal, reached.standing, tokens=prompt_tokens + completion_tokens)
            raise self.refused("quota" if error.code == "insufficient_quota" else "rate_limit", error) from None
        caller.headers = refusals.rate_limit_headers(standing)
        return admitted

    def record(self, outcome: Outcome) -> None:
        """Takes note of how a request ended, at once; it is written soon."""
        self._recorder.add(outcome)

    def forget_key(self, key_id: str) -> None:
        """The next request with this key asks the database."""
        self._known.pop(key_id, None)

    def refused(self, reason: str, error: ApiError) -> ApiError:
        """Counts `error` under `reason` and hands it back."""
        self.count_refusal(reason)
        return error

    def _unauthorized(self, reason: str) -> ApiError:
        return self.refused(reason, refusals.unauthorized(reason))

    async def in_thread(self, work: Callable[[], Value], *, undo: Callable[[Value], None] | None = None) -> Value:
        """What `work` gives, done beside the event loop. `undo` gets what comes after nobody waits for it any more.

        Raises:
            ApiError: 503, the database did not answer in time.
        """
        future = self._threads.submit(work)
        waiting = asyncio.wrap_future(future)
        is_taken = False
        try:
            await asyncio.wait({waiting}, timeout=LATEST_ANSWER_SECONDS)
            if not waiting.done():
                raise self._database_down("no answer in time")
            result = waiting.result()
            is_taken = True
            return result
        except DatabaseDownError as error:
            raise self._database_down(str(error)) from None
        finally:
            if not is_taken:
                waiting.cancel()  # work that has not begun is not done
                if undo is not None:
                    future.add_done_callback(partial(_undo, undo))

    def _database_down(self, why: str) -> ApiError:
        log.warning("access.database_down", extra={"error": why})
        return self.refused("database_down", refusals.database_down())

    async def _find(self, key_id: str) -> KeyRecord | None:
        """The key, from memory or from the database, which is asked once however many requests wait for it."""
        fresh_until, record = self._known.get(key_id, (0.0, None))
        if time.monotonic() < fresh_until:
            return record
        asked = self._asked.get(key_id)
        if asked is None:
            asked = asyncio.create_task(self._ask(key_id))
            self._asked[key_id] = asked
            asked.add_done_callback(partial(self._answered, key_id))
        # Shielded: the client that asked first may leave while others wait.
        return await asyncio.shield(asked)

    def _answered(self, key_id: str, asked: asyncio.Task[KeyRecord | None]) -> None:
        del self._asked[key_id]
        if not asked.cancelled():
            asked.exception()  # seen, even where all who waited have left: asyncio would log it otherwise

    async def _ask(self, key_id: str) -> KeyRecord | None:
        asked_at = time.monotonic()
        record = await self.in_thread(partial(find_key, self.database, key_id))
        if len(self._known) >= MAX_KEYS_REMEMBERED:
            self._known.pop(next(iter(self._known)))
        if record is not None:
            # From when it was asked, not answered: it may have been revoked meanwhile.
            self._known[key_id] = (asked_at + KEY_MEMORY_SECONDS, record)
        return record

    def _remember_full(self, key_id: str, reached: LimitReachedError) -> None:
        if reached.refusal.reason == "requests" and reached.refusal.retry_after_seconds:
            until = time.monotonic() + reached.refusal.retry_after_seconds
            self._full[key_id] = (until, reached.refusal, reached.standing)

    def _release(self, late: tuple[Admitted, Standing]) -> None:
        self.record(Outcome(late[0], 0, 0, is_finished=False))


def _undo(undo: Callable[[Value], None], future: Future[Value]) -> None:
    if not future.cancelled() and future.exception() is None:
        undo(future.result())
