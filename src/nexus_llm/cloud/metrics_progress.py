"""A training job's printed lines as a progress bar: one reader for a rehearsal's output and for CloudWatch's."""

from __future__ import annotations

from collections import deque

from nexus_llm.ports import Progress
from nexus_llm.train.metrics_line import parse_metrics_line

REMEMBERED_LINES = 20


class MetricsProgress:
    """Turns metrics lines into steps of a `Progress`, and remembers the last other lines for when the job fails."""

    def __init__(self, progress: Progress, *, label: str, total: float | None) -> None:
        self._progress, self._step = progress, 0.0
        self._state = ""
        self.last: dict[str, float] = {}
        """The newest known value of each metric."""
        self.other_lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        progress.start(label, total=total, unit="steps")

    def line(self, text: str) -> bool:
        """One line of the job's output; whether it was one of metrics."""
        row = parse_metrics_line(text)
        if not row:
            if text.strip():
                self.other_lines.append(text.rstrip())
            return False
        self.last |= row
        step = row.get("step", self._step)
        # After an interruption the job goes back to its last checkpoint; the bar waits until it is past the old place.
        gained, self._step = max(0.0, step - self._step), max(self._step, step)
        self._progress.advance(gained, note=self.note())
        return True

    def state(self, words: str) -> None:
        """What the service says the job is doing."""
        if words != self._state:
            self._state = words
            self._progress.advance(0, note=self.note())

    def note(self) -> str:
        """State, loss and speed, as far as they are known."""
        known = [self._state] if self._state else []
        for name, form in (("loss", "loss {:.3f}"), ("tokens_per_second", "{:.0f} tokens/s")):
            if name in self.last:
                known.append(form.format(self.last[name]))
        return ", ".join(known)

    def finish(self, note: str = "") -> None:
        """The job is over."""
        self._progress.finish(note or self.note())
