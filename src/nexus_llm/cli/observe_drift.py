"""Brings together what `nexus observe report` compares: a run's training data, kept samples, a gateway's own counts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.cli.options import key_headers, workspace
from nexus_llm.errors import ServingError, UsageError

if TYPE_CHECKING:
    from nexus_llm.observe.drift import Drift
    from nexus_llm.observe.snapshots import Snapshot

MOST_DOCUMENTS = 2_000
"""Of the training data that are compared with, from its start: shards are shuffled."""
EMBEDDED = 200
LANGUAGE_CHARACTERS = 40
"""Shorter texts count as unknown. Far below what names a language surely; both sides are misjudged alike."""


@dataclass
class Texts:
    """Prompts and answers of one side, and how many tokens each has where that is known."""

    prompts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    answer_tokens: list[int] = field(default_factory=list)


def served_run(name: str, root: Path, samples: Path | None) -> tuple[str, Path | None]:
    """The address that a run's recipe serves at, and where its samples lie; `samples` goes before the recipe's."""
    from nexus_llm.recipe import load_recipe

    folder = Path(name) if Path(name).is_dir() else root / "runs" / name
    resolved = folder / "recipe.resolved.yaml"
    if not resolved.is_file():
        raise UsageError(f"{name} is no run here, and no address", fix="give runs/NAME, or http://HOST:PORT")
    serve = load_recipe(resolved).serve
    kept = samples or (Path(serve.samples.folder) if serve.samples.folder else None)
    return f"http://{serve.host}:{serve.port}", kept


def compared(
    run: str | None, root: Path, samples: Path | None, look: Snapshot, *, embedder: str | None
) -> tuple[list[Drift], list[str]]:
    """Every comparison with the run's training data, and what could not be compared, in words.

    Without samples only the counts of lengths are compared, which the gateway keeps of all requests.
    """
    if run is None:
        return [], ["Drift was not looked for: name the run whose data to compare with."]
    known = _reference(run, root)
    if not known.prompts:
        return [], [f"{run} learned from no conversations: its documents are not what prompts look like."]
    drift, notes = _by_counts(known, look), []
    if samples is None:
        notes.append("Languages and answers' texts need samples (serve.samples), which are off by default.")
        return drift, notes
    kept = _sampled(samples)
    drift += _by_text(known, kept)
    if embedder is not None:
        from nexus_llm.observe.drift import embedding_drift

        sides = (_embedded(embedder, texts.prompts[:EMBEDDED]) for texts in (known, kept))
        drift.append(embedding_drift("prompts, what they are about", *sides))
    return drift, notes


def _by_counts(known: Texts, look: Snapshot) -> list[Drift]:
    from nexus_llm.observe.drift import binned, count_drift

    found = []
    for what, histogram, lengths in (
        ("prompts, tokens of all", "vllm:request_prompt_tokens", known.prompt_tokens),
        ("answers, tokens of all", "vllm:request_generation_tokens", known.answer_tokens),
    ):
        buckets = look.buckets(histogram)
        bounds = list(buckets)
        below = [0.0, *buckets.values()]
        counts = {bound: buckets[bound] - below[index] for index, bound in enumerate(bounds)}
        if bounds:
            found.append(count_drift(what, binned(lengths, bounds), counts))
    return found


def _by_text(known: Texts, kept: Texts) -> list[Drift]:
    from nexus_llm.observe.drift import count_drift, length_drift

    found: list[Drift] = []
    for what, one, two in (("prompts", known.prompts, kept.prompts), ("answers", known.answers, kept.answers)):
        found += length_drift(f"{what}, characters", [len(text) for text in one], [len(text) for text in two])
        found.append(count_drift(f"{what}, language", _languages(one), _languages(two)))
    return found


def _languages(texts: list[str]) -> dict[str, int]:
    import polars as pl

    from nexus_llm.data.judging.language import identify, load, model_path

    found = identify(pl.Series(texts, dtype=pl.String), load(model_path()), minimum_characters=LANGUAGE_CHARACTERS)
    counts = found["language"].fill_null("unknown").value_counts()
    return dict(counts.rows())


def _reference(run: str, root: Path) -> Texts:
    """Each conversation's prompt, up to the first learned token, and the answer behind it."""
    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.cli.data_artifact import data_artifact, model_folder
    from nexus_llm.data.looking import inspect

    place = workspace(root)
    artifact = data_artifact(run, place)
    tokenizer = ChatTokenizer.load(model_folder(artifact, place))
    texts = Texts()
    for record in inspect.first_kept(artifact.folder, "train", MOST_DOCUMENTS):
        assert record.place is not None
        document = inspect.encoded(artifact.folder, record.place)
        runs = inspect.spans(document.loss_mask)
        if not document.is_conversation or len(runs) < 2:
            continue
        (_, begin, _), (_, end, _) = runs[:2]
        texts.prompt_tokens.append(begin)
        texts.answer_tokens.append(end - begin)
        texts.prompts.append(tokenizer.decode(document.token_ids[:begin].tolist(), keep_control_tokens=True))
        texts.answers.append(tokenizer.decode(document.token_ids[begin:end].tolist()))
    return texts


def _sampled(folder: Path) -> Texts:
    texts = Texts()
    try:
        for path in sorted(folder.glob("samples-*.jsonl")):
            with path.open(encoding="utf-8") as lines:  # not splitlines(), which cuts at U+2028 inside of a text
                for line in lines:
                    row: dict[str, Any] = json.loads(line)
                    texts.prompts += row["prompts"]
                    texts.answers += row["answers"]
    except (OSError, ValueError, LookupError) as error:
        raise UsageError(
            f"samples in {folder} cannot be read ({error})", fix="give the folder of serve.samples"
        ) from error
    return texts


def _embedded(url: str, texts: list[str]) -> Any:
    import httpx
    import numpy as np

    from nexus_llm.serve.client import api_url, first_model

    try:
        with httpx.Client(timeout=600, headers=key_headers()) as client:
            body = {"model": first_model(client, url), "input": texts}
            answer = client.post(f"{api_url(url)}/embeddings", json=body).raise_for_status()
    except httpx.HTTPError as error:
        raise ServingError(f"{url} embeds nothing ({error})", fix="leave --embed out") from error
    return np.array([one["embedding"] for one in answer.json()["data"]])
