"""Counts of a finished data stage, made so that they add up: read = kept + rejected + duplicates, source by source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from nexus_llm.data.passes import EncodeResult
from nexus_llm.data.segments import Summary
from nexus_llm.data.tokens import mix
from nexus_llm.data.tokens.shards import Shard, WrittenShard
from nexus_llm.recipe import Source
from nexus_llm.records import SPLITS

LENGTH_BOUNDS = (0, *(2**power for power in range(8, 21)))
"""Lower bounds of the histogram's bins, in characters: 0, 256, 512, … 1,048,576."""
UNDETERMINED = "undetermined"
_REPEATED = {"exact_duplicate": "exact", "near_duplicate": "near"}


@dataclass
class SourceFacts:
    """What one source gave, and what became of it."""

    files: int = 0
    read: int = 0
    broken: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    tokens: int = 0
    """Of all splits."""
    train_tokens: int = 0
    epochs: float = 1.0
    tokens_per_epoch: int = 0
    """Training tokens that one pass over the mix sees."""
    formats: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    unknown_endings: dict[str, int] = field(default_factory=dict)

    def reject(self, rules: Mapping[str, int]) -> None:
        """Counts rejections under their rules, repetitions apart."""
        for rule, count in rules.items():
            if rule in _REPEATED:
                self.duplicates[_REPEATED[rule]] += count
            else:
                self.rejected[rule] += count


@dataclass
class Facts:
    """What the manifest says about the data."""

    sources: dict[str, SourceFacts]
    documents: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    contaminated: Counter[str] = field(default_factory=Counter)
    unchecked: dict[str, int] = field(default_factory=dict)
    """Evaluation set → its items that are too short to be looked for."""
    common_runs: int = 0
    """Runs of words of evaluation sets that are too common to mean anything, and were not looked for."""
    lengths: list[int] = field(default_factory=lambda: [0] * len(LENGTH_BOUNDS))
    shards: dict[str, int] = field(default_factory=dict)
    tokenizer_backends: set[str] = field(default_factory=set)
    tokenizer_differences: int = 0

    def add_taken(self, summary: Summary) -> None:
        """Counts of one task's first pass."""
        for source, count in summary.read.items():
            self.sources[source].read += count
        for source, rules in summary.rejected.items():
            self.sources[source].reject(rules)
        for source, count in summary.broken_sources.items():
            self.sources[source].broken += count
        for source, counts in summary.formats.items():
            self.sources[source].formats.update(counts)
        for source, counts in summary.skipped.items():
            self.sources[source].skipped.update(counts)
        self.personal.update(summary.personal)
        self.contaminated.update(summary.contaminated)

    def add_encoded(self, rows: pl.DataFrame, repeated: pl.DataFrame, result: EncodeResult) -> None:
        """Counts of documents that stay (`split`, `source`, `language`, `characters`, `tokens`), and of others that an
        encoding pass rejected (`source`, `rule`)."""
        by = rows.group_by("split", "source").agg(pl.len(), pl.sum("tokens", "characters"))
        for split, source, documents, tokens, characters in by.sort("split", "source").iter_rows():
            self.documents[split] += documents
            self.tokens[split] += tokens
            self.characters[split] += characters
            facts = self.sources[source]
            facts.kept += documents
            facts.tokens += tokens
            facts.train_tokens += tokens if split == "train" else 0
            facts.characters += characters
        for source, rule, count in repeated.group_by("source", "rule").len().iter_rows():
            self.sources[source].reject({rule: count})
        self.languages.update(rows["language"].fill_null(UNDETERMINED).to_list())
        bins = np.searchsorted(LENGTH_BOUNDS, rows["characters"].to_numpy(), side="right") - 1
        for place, count in enumerate(np.bincount(bins, minlength=len(LENGTH_BOUNDS)).tolist()):
            self.lengths[place] += count
        self.tokenizer_differences += result.differences
        if result.backend:
            self.tokenizer_backends.add(result.backend)

    def set_epochs(self, sources: Sequence[Source]) -> None:
        """Works out how often an epoch sees each source."""
        epochs = mix.effective_epochs(
            {one.name: self.sources[one.name].train_tokens for one in sources},
            epochs={one.name: one.epochs for one in sources},
            weights={one.name: one.weight for one in sources if one.weight is not None},
        )
        for name, value in epochs.items():
            self.sources[name].epochs = value

    @property
    def epochs(self) -> dict[str, float]:
        """Source → how often an epoch sees its training documents."""
        return {name: one.epochs for name, one in self.sources.items()}

    def add_written(self, written: Sequence[tuple[Shard, WrittenShard]]) -> None:
        """Counts of all shards."""
        self.shards = {split: sum(shard.split == split for shard, _ in written) for split in SPLITS}
        for shard, counts in written:
            for source, tokens in counts.sources.items() if shard.split == "train" else ():
                self.sources[source].tokens_per_epoch += tokens

    def to_json(self) -> dict[str, Any]:
        """The manifest's facts; every count of documents adds up."""
        sources = self.sources.values()
        return {
            "read": sum(one.read for one in sources),
            "kept": sum(one.kept for one in sources),
            "quarantined": sum(one.broken for one in sources),
            "duplicates": {kind: sum(one.duplicates[kind] for one in sources) for kind in ("exact", "near")},
            "rejected": _sorted(_total(one.rejected for one in sources)),
            "documents": {split: self.documents[split] for split in SPLITS},
            "tokens": {split: self.tokens[split] for split in SPLITS},
            "characters": {split: self.characters[split] for split in SPLITS},
            "shards": self.shards,
            "sources": {name: _source_json(one) for name, one in self.sources.items()},
            "languages": _sorted(self.languages),
            "pii": _sorted(self.personal),
            "lengths": {"bounds": list(LENGTH_BOUNDS), "documents": self.lengths},
            "contamination": _sorted(self.contaminated),
            "evaluation_items_unchecked": _sorted(Counter(self.unchecked)),
            "evaluation_runs_ignored": self.common_runs,
            "tokenizer_backend": ", ".join(sorted(self.tokenizer_backends)),
            "tokenizer_differences": self.tokenizer_differences,
        }


def missing_documents(facts: Mapping[str, Any]) -> int:
    """read − kept − rejected − duplicates of `Facts.to_json()`; anything but 0 is a fault of ours."""
    gone = sum(facts["rejected"].values()) + sum(facts["duplicates"].values())
    return int(facts["read"] - facts["kept"] - gone)


def _source_json(one: SourceFacts) -> dict[str, Any]:
    return {
        **{name: getattr(one, name) for name in ("files", "read", "broken", "kept", "characters", "tokens", "epochs")},
        "tokens_per_epoch": one.tokens_per_epoch,
        "rejected": _sorted(one.rejected),
        "duplicates": {kind: one.duplicates[kind] for kind in ("exact", "near")},
        "formats": _sorted(one.formats),
        "skipped": _sorted(one.skipped),
        "unknown_endings": one.unknown_endings,
    }


def _total(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if count}
