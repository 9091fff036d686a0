"""The training text of a data artifact beside the items of benchmarks: the data stage's own search, for evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.evaluate.contamination import Contamination

if TYPE_CHECKING:
    from nexus_llm.ports import Progress

# Documents looked through at once.
_BATCH = 1_000


def overlaps(
    data: Path, texts: Mapping[str, Mapping[str, Sequence[str]]], progress: Progress, /
) -> dict[str, Contamination]:
    """Task → what stands of its items in what the trainer read of a data artifact, as `Overlaps` says."""
    import polars as pl

    from nexus_llm.data.judging.decontaminate import build_index, contaminated

    index = build_index(
        {task: [(item, text) for item, some in items.items() for text in some] for task, items in texts.items()}
    )
    found: dict[str, set[str]] = {task: set() for task in texts}
    progress.start("contamination", total=None, unit="documents")
    for path in sorted(data.glob("train-*.documents.parquet")):
        for documents in pl.read_parquet(path, columns=["text"])["text"].to_frame().iter_slices(_BATCH):
            for task, item in contaminated(documents["text"], index).select("set", "item").rows():
                found[task].add(item)
            progress.advance(len(documents))
    progress.finish()
    return {
        task: Contamination(len(items), len(items) - index.unchecked.get(task, 0), tuple(sorted(found[task])))
        for task, items in texts.items()
    }
