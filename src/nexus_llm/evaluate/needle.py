"""A needle in a haystack: a fact that stands somewhere in a long text, asked for at the end.

After github.com/gkamradt/LLMTest_NeedleInAHaystack (2023): lengths up to the model's context against depths, from the
text's beginning (0) to its end (1). Each cell has a fact of its own, so that no answer can come from another one, and
is scored by whether the number stands in the answer, without a judge. It tells whether a model can find one sentence in
a text that has nothing to do with it; not whether it can reason over long text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.errors import EvaluationError, UsageError
from nexus_llm.evaluate.asking import answers_to, kept_file
from nexus_llm.evaluate.results import ItemResult, TaskResult, content_sha256
from nexus_llm.records import Answer, CompleterFacts, Question
from nexus_llm.svg import picture

if TYPE_CHECKING:
    from nexus_llm.ports import Completer, Ports

_CITIES = ("Lisbon", "Oslo", "Quito", "Hanoi", "Tunis", "Perth", "Kyoto", "Turin", "Lagos", "Riga", "Cusco", "Basel")
_NEW_TOKENS = 24
# The question, the needle and the template.
_MARGIN_TOKENS = 160
# Of the room: what a count by characters may be wrong by.
_MARGIN_SHARE = 0.05
_PROBE_CHARACTERS = 2_000
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# English text by the tokenizers of the day, where a server does not count.
_CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Which cells are asked."""

    max_tokens: int | None = None
    """The longest text; None: what fits into the model's context."""
    lengths: int = 5
    """How many lengths, evenly up to the longest."""
    depths: int = 5
    """How many places, from the beginning to the end."""
    repeats: int = 1
    """Facts for each cell."""
    seed: int = 0
    is_chat: bool = True
    """Ask through the chat template; else as running text."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one length and depth."""

    tokens: int
    """Aimed at."""
    prompt_tokens: int | None
    """As the model counted them, the mean over the cell's answers; None where it did not."""
    depth: float
    found: int
    asked: int
    errors: int
    """Questions that were not answered; they are neither found nor missed."""


def needle(
    completer: Completer, haystack: str, grid: Grid, folder: Path, ports: Ports
) -> tuple[list[Cell], TaskResult, list[Answer]]:
    """Each cell of the grid, the result with one item a question, and the answers. `haystack` is repeated where it is
    shorter than the text that is asked for.

    Raises:
        UsageError: nobody says how long the model's context is, or the grid does not fit into it.
        EvaluationError: the haystack is empty, or see `answers_to`.
        TryAgainError: somebody asked to stop.
    """
    sentences = _SENTENCE_END.split(" ".join(haystack.split()))
    if not any(sentences):
        raise EvaluationError("the haystack has no text", fix="give a txt or md file, or a folder of them")
    facts = completer.describe()
    lengths = _lengths(grid, facts)
    rate = _characters_per_token(completer, sentences, grid, folder, ports)
    cells = [(length, _depth(place, grid.depths)) for length in lengths for place in range(grid.depths)]
    asked = [
        _ask(f"{length}-{depth:.2f}-{repeat}", sentences, round(length * rate), depth, grid)
        for length, depth in cells
        for repeat in range(grid.repeats)
    ]
    questions = [question for question, _ in asked]
    answers = answers_to(questions, completer, kept_file(folder, facts, questions), ports)
    items = [_scored(answer, number) for answer, (_, number) in zip(answers, asked, strict=True)]
    count = grid.repeats
    summed = [
        _cell(cell, items[place * count : (place + 1) * count], answers[place * count : (place + 1) * count])
        for place, cell in enumerate(cells)
    ]
    result = TaskResult(
        task="needle",
        version="1",
        metric="found",
        dataset_sha256=content_sha256(sentences),
        few_shot=0,
        completer=facts,
        items=tuple(items),
        settings={
            "lengths": lengths, "depths": grid.depths, "repeats": count, "seed": grid.seed, "chat": grid.is_chat,
            "characters_per_token": round(rate, 3),
        },
    )  # fmt: skip
    return summed, result, answers


def heat_map(cells: Sequence[Cell], facts: CompleterFacts) -> str:
    """The grid as one HTML page without scripts or links: length across, depth down, each cell told in words too."""
    drawing = _drawing(cells)
    found, asked, errors = (sum(getattr(one, name) for one in cells) for name in ("found", "asked", "errors"))
    told = f"{found} of {asked - errors} facts found" + (f", {errors} questions not answered" if errors else "")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Needle in a haystack: {escape(facts.model)}</title>
<style>
:root {{ color-scheme: light dark; --page: #f6f7f9; --ink: #17202b; --soft: #5b6877; --good: #14804a; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #10151b; --ink: #e7ecf2; --soft: #9aa8b8; --good: #46c588; }}
}}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 960px; margin: 0 auto; padding: 32px 24px; }}
svg {{ width: 100%; height: auto; }} svg text {{ fill: var(--ink); font: 13px system-ui, sans-serif; }}
svg .label {{ fill: var(--soft); }} svg .share {{ fill: var(--good); }}
svg .frame, svg .error {{ fill: none; stroke: var(--soft); }} svg .error {{ stroke-dasharray: 5 4; }}
</style></head><body><main>
<h1>Needle in a haystack</h1>
<p>{escape(facts.model)}: {told}. Across: tokens of the text. Down: how deep in it the fact stood.</p>
{drawing}
</main></body></html>
"""


def _lengths(grid: Grid, facts: CompleterFacts) -> list[int]:
    context = facts.context_tokens
    room = int((context - _NEW_TOKENS - _MARGIN_TOKENS) * (1 - _MARGIN_SHARE)) if context is not None else None
    longest = grid.max_tokens or room
    if longest is None:
        raise UsageError(f"{facts.model} does not say how long its context is", fix="give --max-tokens")
    if (room is not None and longest > room) or longest < grid.lengths * 50:
        space = "" if room is None else f", its context has room for {max(room, 0)}"
        raise UsageError(
            f"{grid.lengths} lengths up to {longest} tokens do not fit{space}", fix="change --max-tokens or --lengths"
        )
    return [round(longest * step / grid.lengths) for step in range(1, grid.lengths + 1)]


def _depth(place: int, depths: int) -> float:
    return place / (depths - 1) if depths > 1 else 0.5


def _characters_per_token(
    completer: Completer, sentences: Sequence[str], grid: Grid, folder: Path, ports: Ports
) -> float:
    """As the model's tokenizer has it, from two probes whose difference is text alone."""
    sizes = (_PROBE_CHARACTERS // 10, _PROBE_CHARACTERS)
    # Drawn from everywhere: a text's first page may be unlike the rest.
    text = " ".join(random.Random(grid.seed).sample(list(sentences), len(sentences)))  # noqa: S311
    long = text * (1 + _PROBE_CHARACTERS // len(text))
    probes = [_question(f"probe-{size}", long[:size], grid, new_tokens=1) for size in sizes]
    said = answers_to(probes, completer, kept_file(folder, completer.describe(), probes), ports)
    few, many = (one.prompt_tokens for one in said)
    if few is None or many is None or many <= few:
        return _CHARACTERS_PER_TOKEN
    return (sizes[1] - sizes[0]) / (many - few)


def _ask(name: str, sentences: Sequence[str], characters: int, depth: float, grid: Grid) -> tuple[Question, str]:
    """One cell's question, and the number that it asks for."""
    chosen = random.Random(f"{grid.seed} {name}")  # noqa: S311 - not for secrets: the same facts in every run
    city, number = chosen.choice(_CITIES), str(chosen.randrange(100_000, 1_000_000))
    picked, size = [sentences[0]], len(sentences[0])
    while size + len(following := sentences[len(picked) % len(sentences)]) < characters:
        picked.append(following)
        size += len(following) + 1
    picked.insert(round(depth * len(picked)), f"The visitor number of the museum in {city} is {number}.")
    text = " ".join(picked)
    asked = f"What is the visitor number of the museum in {city}?"
    if grid.is_chat:
        return _question(name, f"{text}\n\n{asked} Answer with the number only.", grid, new_tokens=_NEW_TOKENS), number
    ending = f"Question: {asked}\nAnswer: The visitor number of the museum in {city} is"
    return _question(name, f"{text}\n\n{ending}", grid, new_tokens=_NEW_TOKENS), number


def _question(name: str, text: str, grid: Grid, *, new_tokens: int) -> Question:
    if grid.is_chat:
        return Question(name, messages=({"role": "user", "content": text},), max_new_tokens=new_tokens)
    return Question(name, text=text, max_new_tokens=new_tokens)


def _scored(answer: Answer, number: str) -> ItemResult:
    if answer.error is not None:
        return ItemResult(answer.id, {}, wanted=number, cut_tokens=answer.cut_tokens, error=answer.error)
    is_found = number in answer.text.replace(",", "").replace(" ", "")
    return ItemResult(answer.id, {"found": float(is_found)}, answer.text, number, answer.cut_tokens)


def _cell(cell: tuple[int, float], items: Sequence[ItemResult], answers: Sequence[Answer]) -> Cell:
    counted = [one.prompt_tokens for one in answers if one.prompt_tokens is not None]
    return Cell(
        tokens=cell[0],
        prompt_tokens=round(sum(counted) / len(counted)) if counted else None,
        depth=cell[1],
        found=int(sum(one.scores.get("found", 0.0) for one in items)),
        asked=len(items),
        errors=sum(one.error is not None for one in items),
    )


def _drawing(cells: Sequence[Cell]) -> str:
    lengths, depths = sorted({one.tokens for one in cells}), sorted({one.depth for one in cells})
    left, top, width, height = 70, 10, 110, 46
    parts = []
    for one in cells:
        x, y = left + width * lengths.index(one.tokens), top + height * depths.index(one.depth)
        place = f'x="{x + 2}" y="{y + 2}" width="{width - 4}" height="{height - 4}" rx="4"'
        scored = one.asked - one.errors
        told = f"{one.found} of {scored}" if scored else "no answer"
        share = one.found / scored if scored else 0.0
        counted = "" if one.prompt_tokens is None else f", {one.prompt_tokens} counted"
        parts.append(
            f'<rect class="share" {place} fill-opacity="{0.75 * share:.2f}"/>'
            f'<rect class="{"frame" if scored else "error"}" {place}>'
            f"<title>{one.tokens} tokens{counted}, depth {one.depth:.0%}: {told}</title></rect>"
            f'<text x="{x + width / 2:.0f}" y="{y + height / 2 + 5:.0f}" text-anchor="middle">{told}</text>'
        )
    bottom = top + height * len(depths)
    for row, depth in enumerate(depths):
        down = top + height * (row + 0.5) + 5
        parts.append(f'<text class="label" x="{left - 10}" y="{down:.0f}" text-anchor="end">{depth:.0%}</text>')
    for column, length in enumerate(lengths):
        across = left + width * (column + 0.5)
        parts.append(f'<text class="label" x="{across:.0f}" y="{bottom + 20}" text-anchor="middle">{length:,}</text>')
    return picture(
        parts, width=left + width * len(lengths) + 10, height=bottom + 30, title="Facts found by length and depth"
    )
