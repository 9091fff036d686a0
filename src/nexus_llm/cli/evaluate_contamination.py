"""`--against RUN`: the training text of a run beside the items of benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.cli.data_artifact import data_artifact, model_folder
from nexus_llm.cli.options import workspace

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.evaluate.contamination import Contamination
    from nexus_llm.ports import Progress


def contamination_of(
    run: str, texts: Mapping[str, Mapping[str, Sequence[str]]], *, root: Path, progress: Progress
) -> dict[str, Contamination]:
    """What a run trained on, looked through for the items of each task (task → item → texts)."""
    import polars as pl

    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.data.judging.decontaminate import build_index, contaminated
    from nexus_llm.evaluate.contamination import contamination

    place = workspace(root)
    data = data_artifact(run, place)
    tokenizer = ChatTokenizer.load(model_folder(data, place))
    index = build_index(
        {task: [(item, text) for item, some in items.items() for text in some] for task, items in texts.items()}
    )

    def find(documents: Sequence[str]) -> list[tuple[str, str]]:
        return contaminated(pl.Series(documents), index).select("set", "item").rows()

    progress.start("contamination", total=None, unit="documents")
    found = contamination(
        {task: list(items) for task, items in texts.items()},
        index.unchecked,
        _training_texts(data, tokenizer),
        find,
        advance=progress.advance,
    )
    progress.finish()
    return found


def _training_texts(data: Artifact, tokenizer: ChatTokenizer) -> Iterator[str]:
    """Every document that the trainer reads."""
    import numpy as np

    for shard in sorted(data.folder.glob("train-*.tokens.npy")):
        tokens = np.load(shard, mmap_mode="r", allow_pickle=False)
        bounds = np.load(shard.with_name(shard.name.replace(".tokens.", ".offsets.")), allow_pickle=False)
        for start, end in pairwise(bounds.tolist()):
            yield tokenizer.decode(tokens[start:end].tolist())
