"""The plots of a load test's page as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nexus_llm.svg import linear_scale, linear_ticks, logarithmic_ticks, picture

_WIDTH = 880
_LEFT, _RIGHT = 52, 12


def distribution(found: Mapping[str, Sequence[float]], marks: Mapping[str, float | None], *, title: str) -> str:
    """Counts between logarithmic edges in seconds, with the percentiles as lines; empty where nothing was counted."""
    edges, counts = found["edges"], found["counts"]
    if not sum(counts):
        return ""
    width, height, top = 430, 190, 26
    bottom = height - 30
    x = _logarithmic(edges[0], edges[-1], 8, width - 8)
    y = linear_scale(0, max(counts), bottom, top + 8)
    parts = [f'<line class="grid" x1="8" x2="{width - 8}" y1="{bottom}" y2="{bottom}"/>']
    for begin, end, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            parts.append(
                f'<rect class="good" x="{x(begin) + 0.5:.1f}" y="{y(count):.1f}" '
                f'width="{max(x(end) - x(begin) - 1, 1):.1f}" height="{bottom - y(count):.1f}">'
                f"<title>{duration(begin)} to {duration(end)}: {count:,.0f}</title></rect>"
            )
    for row, name in enumerate(("p50", "p95", "p99")):
        if mark := marks.get(name):
            place = min(max(x(mark), 8), width - 8)
            label = 12 + 13 * row  # names of lines that lie close would cover one another
            parts.append(
                f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{label + 3}" y2="{bottom}"/>'
                f'<text class="label" x="{place + (4 if place < width - 40 else -4):.1f}" y="{label}" '
                f'text-anchor="{"start" if place < width - 40 else "end"}">{name}</text>'
            )
    for tick in _ticks(edges[0], edges[-1]):
        parts.append(
            f'<text class="label" x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{duration(tick)}</text>'
        )
    return picture(parts, width=width, height=height, title=title)


def timeline(found: Mapping[str, Any]) -> str:
    """Ends a second, failed ones on top in another colour; below it, how many requests ran."""
    bins, each = len(found["good"]), float(found["bin_seconds"])
    seconds = bins * each
    x = linear_scale(0, seconds, _LEFT, _WIDTH - _RIGHT)
    parts = _ends(found, x(each) - x(0), each) + _running(found, each, seconds)
    for tick in linear_ticks(0, seconds):
        if tick <= seconds:
            parts.append(f'<text class="label" x="{x(tick):.1f}" y="318" text-anchor="middle">{tick:g} s</text>')
    return picture(parts, width=_WIDTH, height=326, title="Requests that ended, and requests that ran, over time")


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(0.00042), duration(0.05), duration(1.234), duration(75.0)
    ('0.42 ms', '50 ms', '1.23 s', '75 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _ends(found: Mapping[str, Any], wide: float, each: float) -> list[str]:
    top, bottom = 22, 170
    most = max([1, *(good + failed for good, failed in zip(found["good"], found["failed"], strict=True))]) / each
    ticks = linear_ticks(0, most)
    y = linear_scale(0, ticks[-1], bottom, top)
    parts = [f'<text class="name" x="{_LEFT}" y="12">requests that ended, a second</text>', *_levels(ticks, y)]
    for place, (good, failed) in enumerate(zip(found["good"], found["failed"], strict=True)):
        at = _LEFT + place * wide
        title = f"<title>from {place * each:.3g} s: {good} good, {failed} failed</title>"
        low, high = y(good / each), y((good + failed) / each)
        for kind, upper, lower in (("good", low, bottom), ("bad", high, low)):
            if lower > upper:
                parts.append(
                    f'<rect class="{kind}" x="{at + 0.4:.1f}" y="{upper:.1f}" width="{max(wide - 0.8, 0.8):.1f}" '
                    f'height="{lower - upper:.1f}">{title}</rect>'
                )
    return parts


def _running(found: Mapping[str, Any], each: float, seconds: float) -> list[str]:
    top, bottom = 212, 300
    ticks = linear_ticks(0, max([1, *found["running"]]))
    x, y = linear_scale(0, seconds, _LEFT, _WIDTH - _RIGHT), linear_scale(0, ticks[-1], bottom, top)
    points = [f"{x(0):.1f},{bottom}"]
    for place, most in enumerate(found["running"]):
        points += [f"{x(place * each):.1f},{y(most):.1f}", f"{x((place + 1) * each):.1f},{y(most):.1f}"]
    points.append(f"{x(seconds):.1f},{bottom}")
    return [
        f'<text class="name" x="{_LEFT}" y="202">requests that ran at once</text>',
        *_levels([ticks[0], ticks[-1]], y),
        f'<polygon class="area" points="{" ".join(points)}"/>',
    ]


def _levels(ticks: Sequence[float], y: Any) -> list[str]:
    return [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="label" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(f"{tick:g}")}</text>'
        for tick in ticks
    ]


def _logarithmic(low: float, high: float, start: float, end: float) -> Any:
    scale = linear_scale(math.log(low), math.log(high), start, end)
    return lambda value: scale(math.log(max(value, low)))


def _ticks(low: float, high: float) -> Sequence[float]:
    """At most six; round steps where powers of ten lie too far apart to name the ends."""
    found = logarithmic_ticks(low, high)
    if len(found) < 3:
        # The ticks are made for values about 1, so a spread of milliseconds is enlarged for them.
        larger = 1 / (high - low)
        found = [tick / larger for tick in linear_ticks(low * larger, high * larger)]
    inside = [tick for tick in found if low <= tick <= high]
    return inside[:: max(1, -(-len(inside) // 6))]
