"""Who a request comes from. The gate sets it; whoever does work for the request asks it.

A context variable carries it, because every endpoint needs it and none of their parameters is about it. Without a
database nobody sets it: `current_caller()` is None and everything is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from nexus_llm.serve.access import refusals
from nexus_llm.serve.access.keys import KeyRecord
from nexus_llm.serve.access.ledger import ANONYMOUS, Admitted, Outcome

if TYPE_CHECKING:
    from nexus_llm.serve.access.access import Access

_CURRENT: ContextVar[Caller | None] = ContextVar("nexus_caller", default=None)


class Caller:
    """One request's key, or nobody's where keys are not required."""

    def __init__(self, access: Access, key: KeyRecord | None) -> None:
        self._access = access
        self.key = key
        self.headers: dict[str, str] = {}
        """`x-ratelimit-*` for the answer, once something was reserved."""

    @property
    def key_id(self) -> str:
        """What may be logged: it lets nobody in."""
        return ANONYMOUS if self.key is None else self.key.id

    def check_endpoint(self, path: str) -> None:
        """Refuses a key that is for other endpoints: ApiError, 403."""
        is_allowed = self.key.allows_endpoint(path) if self.key else not path.startswith("/admin")
        if not is_allowed:
            raise self._access.refused("endpoint_not_allowed", refusals.endpoint_not_allowed(path))

    def check_model(self, model: str) -> None:
        """Refuses a key that is for other models: ApiError, 403."""
        if self.key is not None and not self.key.allows_model(model):
            raise self._access.refused("model_not_allowed", refusals.model_not_allowed(model))

    async def reserve(self, *, model: str, prompt_tokens: int, completion_tokens: int) -> Charge:
        """Counts a request that will use at most so many tokens. Settle the charge however the request ends.

        Raises:
            ApiError: 429, a limit or the budget has no room for it; 503, the database does not answer.
        """
        admitted = await self._access.reserve(
            self, model=model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
        )
        return Charge(admitted, self._access.record)


class Charge:
    def __init__(self, admitted: Admitted, record: Callable[[Outcome], None]) -> None:
        self._admitted = admitted
        self._record: Callable[[Outcome], None] | None = record

    def settle(self, *, prompt_tokens: int, completion_tokens: int, is_finished: bool) -> None:
        """Records what was really used: prompt tokens that the engine got, and tokens that it made. Only once."""
        record, self._record = self._record, None
        if record is not None:
            record(Outcome(self._admitted, prompt_tokens, completion_tokens, is_finished))


def current_caller() -> Caller | None:
    """Whose request the running task works on; None where the server is open to all."""
    return _CURRENT.get()


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """The block works for `caller`, and so do tasks that begin in it."""
    token = _CURRENT.set(caller)
    try:
        yield
    finally:
        _CURRENT.reset(token)
