"""How much of a benchmark stands in the text that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nexus_llm.ports import Progress


@dataclass(frozen=True, slots=True)
class Contamination:
    """Of one task."""

    items: int
    checked: int
    """The others are too short, or made of what many items share."""
    overlapping: tuple[str, ...]
    """Items of which a training document holds a run of words, sorted."""

    @property
    def share(self) -> float | None:
        """Of the checked items, 0 to 1; None where none could be checked."""
        return len(self.overlapping) / self.checked if self.checked else None


class Overlaps(Protocol):
    """Looks for items in training text."""

    def __call__(
        self, data: Path, texts: Mapping[str, Mapping[str, Sequence[str]]], progress: Progress, /
    ) -> Mapping[str, Contamination]:
        """Task → what was found of its items (task → item → its texts) in the data artifact's folder."""
