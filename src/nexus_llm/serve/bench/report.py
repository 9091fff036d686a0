"""A load test's document as one self-contained HTML page: no script, no link, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from nexus_llm.serve.bench.plots import distribution, duration, timeline

LATENCIES = (
    ("ttft_seconds", "First token"),
    ("inter_token_seconds", "Between pieces"),
    ("time_per_output_token_seconds", "Per output token"),
    ("e2e_seconds", "Whole answer"),
)
_PLOTTED = {"time_per_output_token_seconds": "tpot_seconds"}


def report_html(document: Mapping[str, Any]) -> str:
    """The page of what `summary` returned; everything that came from outside is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"duration": lambda value: "–" if value is None else duration(value)}
    source = (resources.files("nexus_llm.serve.bench") / "report_page.html").read_text(encoding="utf-8")
    plots = [
        (title, Markup(distribution(document["distributions"][_PLOTTED.get(name, name)], document[name], title=title)))  # noqa: S704 - built from numbers and our own words
        for name, title in LATENCIES
    ]
    return environment.from_string(source).render(
        document=document,
        load=load_words(document["plan"]),
        latencies=[(title, document[name]) for name, title in LATENCIES],
        plots=[(title, plot) for title, plot in plots if plot],
        timeline=Markup(timeline(document["timeline"])),  # noqa: S704 - as above
        plan={name: value for name, value in document["plan"].items() if value not in (None, {}, [])},
    )


def load_words(plan: Mapping[str, Any]) -> str:
    """How requests came, in a few words.

    >>> load_words({"load": "poisson", "rate_per_second": 5.0})
    'open loop, Poisson arrivals, 5 a second'
    """
    if plan["load"] == "closed":
        return f"closed loop, {plan['concurrency']} at once"
    if plan["load"] == "poisson":
        return f"open loop, Poisson arrivals, {plan['rate_per_second']:g} a second"
    return f"open loop, {plan['trace']} at {plan['trace_speed']:g} times its speed"
