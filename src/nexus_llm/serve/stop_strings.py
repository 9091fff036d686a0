"""Finds stop strings in text that arrives in pieces, and lets nothing out that might be the start of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Cuts a growing text before the stop string in it that is complete first, wherever the pieces were cut.

    >>> scanner = StopStrings(["END"])
    >>> scanner.push("one E"), scanner.push("N"), scanner.push("D two"), scanner.found
    ('one ', '', '', True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False
        """A stop string was met: nothing more will come out."""
        self.met: str | None = None
        """Which one."""

    def push(self, piece: str) -> str:
        """The text that is now known to be part of the answer."""
        if self.found or not self._stops:
            return "" if self.found else piece
        text = self._held + piece
        first = self._first_stop(text)
        if first is not None:
            begin, self.met = first
            self.found, self._held = True, ""
            return text[:begin]
        keep = undecided(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        """Beginning of the stop string that is complete first, and itself; of two that end together, the longer one."""
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found)[1:] if found else None


def undecided(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of the text that a mark begins with, but is not yet.

    >>> undecided("one <tool", ["<tool_call>"]), undecided("one < two", ["<tool_call>"])
    (5, 0)
    """
    for at in range(max(0, len(text) - max(map(len, marks)) + 1), len(text)):
        if any(mark.startswith(text[at:]) for mark in marks):
            return len(text) - at
    return 0
