"""Whether there is something to learn from: asked as soon as somebody can know, so that no hours are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.reading.chat_formats import FORMATS
from nexus_llm.data.reading.readers import ROW_FORMATS, format_of
from nexus_llm.errors import DataError
from nexus_llm.recipe import DataRecipe, FilesSource, Source

if TYPE_CHECKING:
    from nexus_llm.data.engine import Engine
    from nexus_llm.data.facts import Facts

_CONVERSATIONS = frozenset(FORMATS) - {"text"}


def check_template(
    recipe: DataRecipe, locations: Mapping[str, Sequence[str]], facts: Facts, model_folder: Path
) -> None:
    """Refuses conversations, and nothing else, for a model without a chat template; mixed data are counted instead.

    Once records were read, `facts` know; before, only a recipe that pins the layout of all its sources. `locations`
    has the files of each source by its name.

    Raises:
        ModelError: there is no template, and nothing but conversations.
    """
    read = [source for source in facts.sources.values() if source.read]
    if read:
        # Python's own documentation has no layout.
        is_talk_only = all(source.formats and source.formats.keys() <= _CONVERSATIONS for source in read)
    else:
        is_talk_only = all(_is_pinned(source, locations[source.name]) for source in recipe.sources)
    if is_talk_only:
        _refuse_without_template(model_folder)


def check_left(facts: Facts, recipe: DataRecipe, engine: Engine, numbers: Sequence[int], model_folder: Path) -> None:
    """Something must be left to learn from and, where asked for, to hold out.

    Raises:
        ModelError: only conversations are left, and the model has no chat template.
        DataError: nothing is left, or not enough; says what took it out.
    """
    found, counts = facts.documents, facts.to_json()
    if counts["rejected"].get("chat_template") and not found["train"]:
        _refuse_without_template(model_folder)
        rows = (row for number in numbers for row in engine.encoded.rejected(number).rows(named=True))
        first = next(row for row in rows if row["rule"] == "chat_template")
        raise DataError(
            f"the model's chat template refuses every conversation; the first: {first['reason']}",
            fix="check the order and roles of the messages, or choose a model with another template",
        )
    taken_out = {**counts["rejected"], **{f"{kind}_duplicate": n for kind, n in counts["duplicates"].items()}}
    rules = ", ".join(f"{name} {number:,}" for name, number in sorted(taken_out.items()) if number)
    if not found.total():
        places = ", ".join(source.path if isinstance(source, FilesSource) else source.name for source in recipe.sources)
        raise DataError(
            f"{places}: not one usable document is left of {counts['read']:,} that were read"
            + (f" (rejected: {rules})" if rules else ""),
            fix="check the path and text_field of data.sources, or relax data.quality",
        )
    wanted = {"validation": recipe.split.validation_share, "test": recipe.split.test_share, "train": 1.0}
    if any(share and not found[split] for split, share in wanted.items()):
        raise DataError(
            f"only {found.total()} different documents are left, too few to train on some and hold others out"
            + (f" (taken out: {rules})" if rules else ""),
            fix="give at least 3 documents: split long files (jsonl holds one document a line), or relax data.quality",
        )


def _is_pinned(source: Source, locations: Sequence[str]) -> bool:
    """Whether a source can hold nothing but conversations: layouts are those of rows, and a text file has none."""
    if not isinstance(source, FilesSource) or source.chat_format not in _CONVERSATIONS:
        return False
    kinds = [(source.format,) if source.format else format_of(location) for location in locations]
    return all(kind is None or kind[0] in ROW_FORMATS for kind in kinds)


def _refuse_without_template(model_folder: Path) -> None:
    if not (model_folder / "chat_template.jinja").is_file():  # else there is one, and nothing needs loading
        tokenizer = ChatTokenizer.load(model_folder)
        if not tokenizer.template:
            tokenizer.render([{"role": "user", "content": "Hello"}])  # raises: it says what is missing, and what to do
