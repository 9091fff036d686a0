"""Which beginnings of prompts llama.cpp's cache still holds, so that they need not be read again.

A sequence that ends leaves its slot and its part of the cache here. Another one takes over the tokens that both have in
common: the cache marks them as belonging to both, and nothing is copied. What is kept is given up, oldest first, as
soon as a running sequence needs its slot or its room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEAST_TOKENS = 64
"""A shorter beginning is read again: that takes less than a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Tokens that the cache holds in a slot, from the first position on."""

    slot: int
    token_ids: Sequence[int]
    adapter: str | None
    """The LoRA adapter that they were read with: another one's keys and values are others."""
    own_tokens: int
    """How many of them no other sequence brought into the cache."""


class KeptPrefixes:
    """What ended sequences left, oldest first."""

    def __init__(self) -> None:
        self._kept: list[Prefix] = []

    @property
    def tokens(self) -> int:
        """Places of the cache that giving up everything here would free."""
        return sum(prefix.own_tokens for prefix in self._kept)

    def keep(self, prefix: Prefix) -> bool:
        """Keeps it; False where it is too short to be worth a slot."""
        if len(prefix.token_ids) < LEAST_TOKENS:
            return False
        self._kept.append(prefix)
        return True

    def give_up_oldest(self) -> int | None:
        """The slot that has to be cleared now; None where nothing is kept."""
        return self._kept.pop(0).slot if self._kept else None

    def longest(
        self, prompt: Sequence[int], *, adapter: str | None, running: Iterable[Prefix]
    ) -> tuple[Prefix, int] | None:
        """The kept or running sequence that shares most with a prompt, and how many tokens; None: too few.

        The prompt's last token is always read: its logits say what follows.
        """
        found: tuple[Prefix, int] | None = None
        for prefix in (*self._kept, *running):
            if prefix.adapter == adapter:
                shared = min(shared_tokens(prefix.token_ids, prompt), len(prompt) - 1)
                if shared >= (found[1] + 1 if found else LEAST_TOKENS):
                    found = prefix, shared
        if found and found[0] in self._kept:
            self._kept.remove(found[0])
            self._kept.append(found[0])  # used last, given up last
        return found


def shared_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with, or 0 where that is fewer than `LEAST_TOKENS`.

    >>> shared_tokens([1] * 70 + [2], [1] * 80), shared_tokens([1, 2], [1, 2])
    (70, 0)
    """
    if len(one) < LEAST_TOKENS or one[:LEAST_TOKENS] != other[:LEAST_TOKENS]:
        return 0
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
