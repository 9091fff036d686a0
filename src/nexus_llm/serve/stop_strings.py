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
        self._longest = max(map(len, self._stops), default=0)
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
        keep = self._undecided(text)
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

    def _undecided(self, text: str) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                return len(text) - at
        return 0
