"""`--against RUN`: the training text of a run beside the items of benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.cli.data_artifact import data_artifact
from nexus_llm.cli.options import workspace

if TYPE_CHECKING:
    from nexus_llm.evaluate.contamination import Contamination
    from nexus_llm.ports import Progress


def contamination_of(
    run: str, texts: Mapping[str, Mapping[str, Sequence[str]]], *, root: Path, progress: Progress
) -> dict[str, Contamination]:
    """What a run trained on, looked through for the items of each task (task → item → texts).

    Raises:
        ArtifactError: there is no such run, or it was made from no text that is here.
    """
    import polars as pl

    from nexus_llm.data.judging.decontaminate import build_index, contaminated
    from nexus_llm.evaluate.contamination import contamination

    data = data_artifact(run, workspace(root))
    index = build_index(
        {task: [(item, text) for item, some in items.items() for text in some] for task, items in texts.items()}
    )

    def find(documents: Sequence[str]) -> list[tuple[str, str]]:
        return contaminated(pl.Series(documents), index).select("set", "item").rows()

    progress.start("contamination", total=None, unit="documents")
    found = contamination(
        {task: list(items) for task, items in texts.items()},
        index.unchecked,
        _training_texts(data.folder),
        find,
        advance=progress.advance,
    )
    progress.finish()
    return found


def _training_texts(folder: Path) -> Iterator[str]:
    """Every document that the trainer reads."""
    import polars as pl

    for path in sorted(folder.glob("train-*.documents.parquet")):
        yield from pl.read_parquet(path, columns=["text"])["text"]
