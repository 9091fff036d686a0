"""How much of a benchmark stands in the text that a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

# Documents looked through at once.
_BATCH = 1_000


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


def contamination(
    items: Mapping[str, Sequence[str]],
    unchecked: Mapping[str, int],
    documents: Iterable[str],
    find: Callable[[Sequence[str]], Iterable[tuple[str, str]]],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Contamination]:
    """Task → what was found. `items` are the ids of each task, `find` gives the (task, item) that documents hold,
    `advance` is told how many documents were just read."""
    found: dict[str, set[str]] = {task: set() for task in items}
    rest = iter(documents)
    while batch := list(islice(rest, _BATCH)):
        for task, item in find(batch):
            found[task].add(item)
        advance(len(batch))
    return {
        task: Contamination(len(ids), len(ids) - unchecked.get(task, 0), tuple(sorted(found[task])))
        for task, ids in items.items()
    }
