"""The plots as inline SVG. Colours come from the page's CSS, so that they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from nexus_llm.evaluate.comparison_tasks import TaskComparison
from nexus_llm.evaluate.gate import GatedComparison
from nexus_llm.svg import linear_scale, linear_ticks, logarithmic_ticks, picture

_WIDTH = 720
_ROW = 64
_NAMES = {"domain": "Held-out domain text", "general": "General text"}
_RULES = {"max_regression": "no loss", "min_improvement": "a gain", "min_score": "score"}
_LONGEST_NAME = 12  # letters beside a plot


def interval_plot(gated: Sequence[GatedComparison]) -> str:
    """Change of perplexity of each comparison with its interval, the limit, and the side that passes shaded."""
    names = [_NAMES.get(one.comparison.name, one.comparison.name) for one in gated]
    return _intervals(
        gated,
        names,
        tick_label=_share_label,
        is_better_left=True,
        below="change of perplexity, tuned against base (left is better)",
        title="Change of perplexity with confidence intervals",
    )


def task_plot(gated: Sequence[GatedComparison]) -> str:
    """The change that each rule of a task looks at, likewise."""
    names = [
        f"{_shortened(one.comparison.name)}: {_RULES[one.comparison.rule]}"
        for one in gated
        if isinstance(one.comparison, TaskComparison)
    ]
    return _intervals(
        gated,
        names,
        tick_label=lambda tick: "0" if tick == 0 else f"{'−' if tick < 0 else '+'}{abs(tick):g}",
        is_better_left=False,
        below="change of the metric, tuned against base or wanted score (right is better)",
        title="Change of each task's metric with confidence intervals",
    )


def _intervals(
    gated: Sequence[GatedComparison],
    names: Sequence[str],
    *,
    tick_label: Callable[[float], str],
    is_better_left: bool,
    below: str,
    title: str,
) -> str:
    left, right, top = 190, 24, 14
    height = top + _ROW * len(gated) + 44
    bottom = top + _ROW * len(gated)
    values = [value for one in gated for value in _shown(one)]
    ticks = linear_ticks(min([0.0, *values]), max([0.0, *values]))
    x = linear_scale(ticks[0], ticks[-1], left, _WIDTH - right)
    parts = [_axis(x(tick), top, bottom, tick_label(tick), is_zero=tick == 0) for tick in ticks]
    for place, (one, name) in enumerate(zip(gated, names, strict=True)):
        limit = x(one.limit)
        allowed = (left, limit) if is_better_left else (limit, _WIDTH - right)
        parts.append(_interval_row(one, name, x, y=top + _ROW * place, left=left, allowed=allowed))
    parts.append(
        f'<text class="label" x="{(left + _WIDTH - right) / 2:.0f}" y="{height - 4}" text-anchor="middle">'
        f"{below}</text>"
    )
    return _svg(height, title, parts)


def scatter_plot(points: Sequence[tuple[str, str, float, float]]) -> str:
    """Each document's perplexity under base (across) and tuned (up), both on the same logarithmic scale.

    `points` are (set, origin, base, tuned). Below the diagonal the tuned model predicts the document better.
    """
    left, right, top, height = 64, 24, 14, 470
    bottom = height - 52
    values = [math.log10(max(value, 1.0)) for point in points for value in point[2:]]
    low, high = min(values, default=0.0) - 0.05, max(values, default=1.0) + 0.05
    x, y = linear_scale(low, high, left, _WIDTH - right), linear_scale(low, high, bottom, top)
    parts = [f'<line class="limit" x1="{x(low):.1f}" y1="{y(low):.1f}" x2="{x(high):.1f}" y2="{y(high):.1f}"/>']
    for tick in logarithmic_ticks(10**low, 10**high):
        place = math.log10(tick)
        parts.append(_axis(x(place), top, bottom, f"{tick:g}"))
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y(place):.1f}" x2="{_WIDTH - right}" y2="{y(place):.1f}"/>'
            f'<text class="label" x="{left - 8}" y="{y(place) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for name, origin, base, tuned in points:
        across, up = (math.log10(max(value, 1.0)) for value in (base, tuned))
        parts.append(
            f'<circle class="{escape(name)}" cx="{x(across):.1f}" cy="{y(up):.1f}" r="4.5">'
            f"<title>{escape(origin)}: {base:.1f} → {tuned:.1f}</title></circle>"
        )
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="label" x="{(left + _WIDTH - right) / 2:.0f}" y="{height - 8}" text-anchor="middle">'
        "perplexity under the base model</text>"
        f'<text class="label" transform="translate(16 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        "perplexity under the tuned model</text>"
        f'<text class="hint" x="{_WIDTH - right - 8}" y="{bottom - 12}" text-anchor="end">tuned is better ↘</text>'
    )
    return _svg(height, "Perplexity of each document under both models", parts)


def _shown(one: GatedComparison) -> list[float]:
    found = (one.comparison.low, one.comparison.high, one.comparison.change, one.limit)
    # Without an interval the ends are −1 and infinite; they would push everything else into one point.
    return [value for value in found if value is not None and math.isfinite(value) and value > -1]


def _interval_row(
    one: GatedComparison,
    name: str,
    x: Callable[[float], float],
    *,
    y: float,
    left: float,
    allowed: tuple[float, float],
) -> str:
    middle, comparison = y + _ROW / 2, one.comparison
    limit = x(one.limit)
    interval = ""
    if math.isfinite(comparison.high):
        a, b = x(comparison.low), x(comparison.high)
        interval = (
            f'<line class="interval {one.verdict}" x1="{a:.1f}" y1="{middle}" x2="{b:.1f}" y2="{middle}"/>'
            f'<line class="interval {one.verdict}" x1="{a:.1f}" y1="{middle - 7}" x2="{a:.1f}" y2="{middle + 7}"/>'
            f'<line class="interval {one.verdict}" x1="{b:.1f}" y1="{middle - 7}" x2="{b:.1f}" y2="{middle + 7}"/>'
        )
    if comparison.change is not None:
        interval += f'<circle class="{one.verdict}" cx="{x(comparison.change):.1f}" cy="{middle}" r="6"/>'
    start, end = allowed
    return (
        f'<rect class="allowed" x="{start:g}" y="{y + 6}" width="{max(end - start, 0):.1f}" height="{_ROW - 12}"/>'
        f'<line class="limit" x1="{limit:.1f}" y1="{y + 6}" x2="{limit:.1f}" y2="{y + _ROW - 6}"/>'
        f'<text class="name" x="{left - 14}" y="{middle - 2}" text-anchor="end">{escape(name)}</text>'
        f'<text class="label" x="{left - 14}" y="{middle + 15}" text-anchor="end">{one.verdict}</text>'
        f"{interval}"
    )


def _shortened(name: str) -> str:
    """A name that fits beside the plot.

    >>> _shortened("blimp_wh_questions_object_gap_of_the_second_kind")
    'blimp_wh_qu…'
    """
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _share_label(share: float) -> str:
    """A tick's label, with a decimal only where ticks are that close.

    >>> _share_label(-0.05), _share_label(0.0), _share_label(0.005)
    ('−5%', '0%', '+0.5%')
    """
    shown = f"{abs(share) * 100:.3g}%"
    return shown if share == 0 else f"{'−' if share < 0 else '+'}{shown}"


def _axis(x: float, top: float, bottom: float, label: str, *, is_zero: bool = False) -> str:
    return (
        f'<line class="{"zero" if is_zero else "grid"}" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>'
        f'<text class="label" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>'
    )


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return picture(parts, width=_WIDTH, height=height, title=title)
