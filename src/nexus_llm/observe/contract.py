"""The observability contract: whatever is looked at is emitted, and what is emitted but never looked at is known.

`emitted.json` lists what the server emits. A test collects it from a real server that answers, refuses, crashes and
drops, and compares: the list is written by that test and by nobody else. `aws_metrics.json` lists what AWS emits, with
the page that says so; no test here can prove it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

Kind = Literal["prometheus", "cloudwatch", "log"]
Emitted = Mapping[Kind, Mapping[str, list[str]]]
"""Kind → name → its labels, dimensions or fields, sorted. CloudWatch's names are `NAMESPACE/METRIC`; a log's are
events."""

# A scrape adds these to every series; `le` belongs to the buckets of a histogram.
SCRAPED_LABELS = frozenset(("instance", "job"))
# Whatever is no number, function, word of the language or list of labels names a series: a misspelt one, too.
_SERIES = re.compile(r"(?<![\w.:$])([a-zA-Z_:][\w:]*+)(?!\s*\()(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_PROMQL_WORDS = frozenset(("and", "bool", "group_left", "group_right", "inf", "nan", "offset", "or", "unless"))
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_FIELD = re.compile(r"(?<![\w\"'./@-])([a-zA-Z]\w*)(?![\w(])")
_INSIGHTS_WORDS = frozenset(
    ("and", "as", "asc", "by", "desc", "display", "filter", "in", "like", "limit", "or", "sort", "stats")
)


@dataclass(frozen=True, order=True)
class Named:
    """A metric or a log event that somebody looks at."""

    kind: Kind
    name: str
    parts: tuple[str, ...]
    """The labels, dimensions or fields that are named with it, sorted; `*` alone where nobody says which."""
    place: str
    """Who looks: an alarm, a policy, a panel, a rule, a runbook."""


def shipped() -> dict[Kind, dict[str, list[str]]]:
    """What code emits, and what AWS does, as the package lists them."""
    own = _document("emitted.json")
    aws = {name: keys for page in _document("aws_metrics.json") for name, keys in page["metrics"].items()}
    return {"prometheus": own["prometheus"], "cloudwatch": own["cloudwatch"] | aws, "log": own["log"]}


def broken(named: Iterable[Named], emitted: Emitted) -> list[str]:
    """Each promise that nothing keeps, in words, sorted; none where the contract holds.

    CloudWatch knows a metric by its exact dimensions: one fewer is another metric, which is empty.
    """
    return sorted({words for one in named if (words := _fault(one, emitted))})


def never_looked_at(named: Iterable[Named], emitted: Emitted, kind: Kind) -> list[str]:
    """What is emitted and nobody looks at, sorted; the parts of a histogram count as one."""
    looked = {_family(one.name) for one in named if one.kind == kind}
    return sorted({_family(name) for name in emitted[kind]} - looked)


def recorded_by(rules: Mapping[str, Any]) -> dict[str, list[str]]:
    """Series that a Prometheus rules file makes; ours have no labels."""
    return {rule["record"]: [] for group in rules["groups"] for rule in group["rules"] if "record" in rule}


def in_promql(expression: str, place: str) -> list[Named]:
    """The series of a PromQL expression, each with the labels that it or its grouping names.

    >>> in_promql('sum by (le) (rate(vllm:time_to_first_token_seconds_bucket{model_name="m"}[5m]))', "p")[0].parts
    ('le', 'model_name')
    """
    grouped = {label for found in _GROUPED.findall(expression) for label in re.findall(r"\w+", found)}
    return [
        Named("prometheus", name, tuple(sorted({*grouped, *_LABEL.findall(labels)} - SCRAPED_LABELS)), place)
        for name, labels in _SERIES.findall(_GROUPED.sub(" ", expression))
        if name.lower() not in _PROMQL_WORDS
    ]


def in_logs_insights(query: str, place: str) -> list[Named]:
    """The events that a Logs Insights query picks, each with the fields that it names.

    >>> in_logs_insights('filter event = "engine.died" | stats count(*) by reason', "p")
    [Named(kind='log', name='engine.died', parts=('reason',), place='p')]
    """
    events = re.findall(r'"([a-z]+\.[a-z_]+)"', query)
    words = set(_FIELD.findall(re.sub(r'"[^"]*"', '""', query))) - _INSIGHTS_WORDS - {"event"}
    named = words - set(re.findall(r"\bas\s+(\w+)", query))
    return [Named("log", event, tuple(sorted(named)), place) for event in events]


def in_runbook(front: Mapping[str, Any], place: str) -> Iterator[Named]:
    """What a runbook's front matter names: `metrics`, CloudWatch's as `NAMESPACE/METRIC`, and `events`."""
    for name in front.get("metrics", []):
        kind: Kind = "cloudwatch" if "/" in name else "prometheus"
        yield Named(kind, name, ("*",), place)
    for event in front.get("events", []):
        yield Named("log", event, (), place)


def _fault(one: Named, emitted: Emitted) -> str | None:
    have = emitted[one.kind].get(one.name)
    if have is None:
        return f"{one.place} names {one.name}, which nothing emits"
    if one.parts == ("*",):
        return None
    is_whole = one.kind == "cloudwatch"
    missing = set(one.parts) ^ set(have) if is_whole else set(one.parts) - set(have)
    what = {"prometheus": "labels", "cloudwatch": "dimensions", "log": "fields"}[one.kind]
    return f"{one.place} names {one.name} with {list(one.parts)}, whose {what} are {have}" if missing else None


def _family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


def _document(file: str) -> Any:
    return json.loads((resources.files("nexus_llm.observe") / file).read_text(encoding="utf-8"))
