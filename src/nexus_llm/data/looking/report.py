"""The data report: one self-contained HTML page about what was read, what was kept, and why the rest was not.

Made from the manifest's facts and from examples out of rejected.parquet; a section whose facts are absent is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import polars as pl

from nexus_llm.data.looking.inspect import DUPLICATE_RULES, UNSHOWN_RULES
from nexus_llm.data.looking.plots import Step, bars, funnel, histogram, share, short

_EXCERPT_CHARACTERS = 240
# Caps that keep the page below 300 KB whatever the corpus; what is left out is counted on the page.
_MOST_CLUSTERS = 10
_MOST_ROWS = 60
_MOST_EXAMPLE_RULES = 60
_MOST_LINKS = 8  # an exact copy names the first copy, which names its representative: 2 in a sound artifact
_NAMED_ID = r"\b([0-9a-f]{32})\b"
# (funnel step, rules that it takes out), in the order of the engine; every other rule judges quality.
_STEPS = (
    ("on the erasure list", ("erased",)),
    ("block lists", ("blocked_",)),
    ("quality rules", ()),
    ("language", ("language",)),
    ("contaminated", ("contaminated",)),
    ("personal data", ("pii",)),
)
_LATE_STEPS = (("chat template", ("chat_template",)),)
_QUALITY = "quality rules"
_DUPLICATES = {"exact": "exact duplicates", "near": "near-duplicates"}


@dataclass(frozen=True, slots=True)
class Example:
    """One rejected record."""

    id: str
    source: str
    origin: str
    reason: str
    value: float | None
    excerpt: str | None
    """None where the rule took out what nobody should read."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Records with the same or nearly the same text, of which one was kept."""

    kept_id: str
    copies: int
    """Records that were dropped because the kept one has their text."""
    origin: str
    """Of one of the copies."""
    excerpt: str | None


@dataclass(frozen=True, slots=True)
class Examples:
    """What the page shows of rejected records."""

    by_rule: dict[str, list[Example]] = field(default_factory=dict)
    """Rules with most rejections first."""
    clusters: list[Cluster] = field(default_factory=list)
    """Largest first."""


@dataclass(frozen=True, slots=True)
class Check:
    """Two counts that must be equal."""

    claim: str
    left: int
    right: int

    @property
    def holds(self) -> bool:
        return self.left == self.right


def examples(rejected: pl.DataFrame | pl.LazyFrame, per_rule: int = 3) -> Examples:
    """Up to `per_rule` rejected records of each rule, spread over all that it rejected, and the largest clusters.

    `rejected` has the columns of rejected.parquet, sorted by ordinal. Rules in UNSHOWN_RULES give no excerpts at all.
    """
    rows = rejected.lazy()
    counts = rows.group_by("rule").len().collect(engine="streaming").sort(["len", "rule"], descending=[True, False])
    by_rule: dict[str, list[Example]] = {}
    for rule, total in counts.head(_MOST_EXAMPLE_RULES).rows():
        picked = sorted({index * total // per_rule for index in range(per_rule)})
        found = rows.filter(pl.col("rule") == rule).with_row_index("place").filter(pl.col("place").is_in(picked))
        frame = _with_excerpts(found.collect())
        by_rule[rule] = [
            Example(*row) for row in frame.select("id", "source", "origin", "reason", "value", "excerpt").iter_rows()
        ]
    return Examples(by_rule, _largest_clusters(rows))


def checks(facts: Mapping[str, Any]) -> list[Check]:
    """Every sum that the facts must satisfy, as far as they have the parts of it."""
    rejected, duplicates = _rejections(facts), sum(facts["duplicates"].values())
    found = [
        Check("read = kept + rejected + duplicates", facts["read"], facts["kept"] + rejected + duplicates),
        Check("kept = documents of all splits", facts["kept"], sum(facts["documents"].values())),
    ]
    sources: Iterable[Mapping[str, Any]] = facts.get("sources", {}).values()
    for name, total in (
        ("read", facts["read"]),
        ("broken", facts["quarantined"]),
        ("kept", facts["kept"]),
        ("tokens", sum(facts["tokens"].values())),
        ("characters", sum(facts["characters"].values())),
    ):
        if sources and all(name in one for one in sources):
            found.append(Check(f"{name} = the sources' together", total, sum(one[name] for one in sources)))
    for name, source in facts.get("sources", {}).items():
        if {"kept", "rejected", "duplicates"} <= source.keys():
            together = source["kept"] + _rejections(source) + sum(source["duplicates"].values())
            found.append(Check(f"source {name}: read = kept + rejected + duplicates", source["read"], together))
    if sources and all("rejected" in one for one in sources):
        for rule, count in facts["rejected"].items():
            in_sources = sum(one["rejected"].get(rule, 0) for one in sources)
            found.append(Check(f"{rule} = the sources' together", count, in_sources))
    return found


def funnel_steps(facts: Mapping[str, Any]) -> list[Step]:
    """What each step of the engine took out, in its order, from all records found to the documents kept.

    Steps that took nothing out are left out.
    """
    left = facts["read"] + facts["quarantined"]
    steps = [Step("records found", 0, left)]
    removals = [("could not be read", facts["quarantined"])]
    removals += [(name, _taken_by(name, facts["rejected"])) for name, _ in _STEPS]
    removals += [(_DUPLICATES[kind], count) for kind, count in facts["duplicates"].items()]
    removals += [(name, _taken_by(name, facts["rejected"])) for name, _ in _LATE_STEPS]
    for name, removed in removals:
        if removed:
            left -= removed
            steps.append(Step(name, removed, left))
    steps.append(Step("kept", 0, facts["kept"]))
    return steps


def page(facts: Mapping[str, Any], examples: Examples, title: str) -> str:
    """The report as one HTML page without scripts or links; everything that came from outside is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"count": _count, "visible": _visible, "short": short}
    environment.globals |= {"share": share}
    source = (resources.files("nexus_llm.data.looking") / "report_page.html").read_text(encoding="utf-8")
    lengths = facts.get("lengths")
    languages = _top(facts.get("languages", {}), 15)
    if [name for name, _ in languages] == ["undetermined"]:  # nobody looked
        languages = []
    rejections = _top(
        {**facts["rejected"], **{f"{k}_duplicate": n for k, n in facts["duplicates"].items()}}, _MOST_ROWS
    )
    sums = checks(facts)
    return environment.from_string(source).render(
        facts=facts,
        title=title,
        checks=[one for one in sums if not one.holds] + [one for one in sums if one.holds][:_MOST_ROWS],
        all_hold=all(one.holds for one in sums),
        rejections=rejections,
        sources=list(facts.get("sources", {}).items())[:_MOST_ROWS],
        examples=examples,
        unshown=UNSHOWN_RULES,
        # Built from numbers, our own words, and names that the plots escape.
        funnel=Markup(funnel(funnel_steps(facts))),  # noqa: S704
        lengths=Markup(histogram(lengths["bounds"], lengths["documents"])) if lengths else "",  # noqa: S704
        languages=Markup(bars(languages, "Documents per language")) if languages else "",  # noqa: S704
    )


def _largest_clusters(rows: pl.LazyFrame) -> list[Cluster]:
    """Copies grouped by the kept record that they lead to; a copy may name one that is itself a near-duplicate."""
    named = pl.col("reason").str.extract(_NAMED_ID)
    # 60 bits of an id instead of its 32 digits: ten million duplicates then take 160 MB.
    number = [column.str.slice(0, 15).str.to_integer(base=16, strict=False) for column in (pl.col("id"), named)]
    repeated = rows.filter(pl.col("rule").is_in(DUPLICATE_RULES))
    pairs = repeated.select(copy=number[0], kept=number[1]).collect(engine="streaming").drop_nulls()
    for _ in range(_MOST_LINKS):
        further = pairs.join(pairs.rename({"copy": "kept", "kept": "next"}), on="kept", how="left")
        if further["next"].null_count() == len(further):
            break
        pairs = further.select("copy", kept=pl.coalesce("next", "kept")).filter(pl.col("copy") != pl.col("kept"))
    sizes = pairs.group_by("kept").agg(pl.len()).sort(["len", "kept"], descending=[True, False]).head(_MOST_CLUSTERS)
    if sizes.is_empty():
        return []
    direct = repeated.with_columns(kept_id=named, kept=number[1]).filter(pl.col("kept").is_in(sizes["kept"].implode()))
    first = _with_excerpts(direct.collect(engine="streaming").unique("kept", keep="first", maintain_order=True))
    by_kept = {row["kept"]: row for row in first.iter_rows(named=True)}
    return [
        Cluster(by_kept[kept]["kept_id"], size, by_kept[kept]["origin"], by_kept[kept]["excerpt"])
        for kept, size in sizes.rows()
    ]


def _with_excerpts(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with excerpts cut to what the page shows, and null where the rule forbids them."""
    shown = pl.when(~pl.col("rule").is_in(UNSHOWN_RULES)).then(pl.col("excerpt").str.slice(0, _EXCERPT_CHARACTERS))
    return frame.with_columns(excerpt=shown)


def _rejections(part: Mapping[str, Any]) -> int:
    return sum(part["rejected"].values())


def _taken_by(step: str, rejected: Mapping[str, int]) -> int:
    prefixes = dict((*_STEPS, *_LATE_STEPS))
    others = tuple(prefix for name, found in prefixes.items() if name != _QUALITY for prefix in found)
    if step == _QUALITY:
        return sum(count for rule, count in rejected.items() if not rule.startswith(others))
    return sum(count for rule, count in rejected.items() if rule.startswith(prefixes[step]))


def _top(counts: Mapping[str, int], most: int) -> list[tuple[str, int]]:
    """The largest counts, and what the others have together."""
    ordered = sorted(((name, count) for name, count in counts.items() if count), key=lambda row: (-row[1], row[0]))
    others = ordered[most:]
    rest = [(f"{len(others)} others", sum(count for _, count in others))] if others else []
    return ordered[:most] + rest


def _count(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _visible(text: str) -> str:
    """Control characters as their signs: HTML forbids them."""
    return "".join(chr(0x2400 + ord(one)) if ord(one) < 0x20 and one not in "\n\t" else one for one in text)
