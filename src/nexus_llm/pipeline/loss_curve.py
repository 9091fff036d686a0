"""How a training run went, as inline SVG in the classes and colours of the report's page: pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from nexus_llm.svg import linear_scale

Row = Mapping[str, Any]
Scale = Callable[[float], float]

_WIDTH, _LEFT, _RIGHT = 880, 56, 12
_LOSS_TOP, _LOSS_BOTTOM = 12, 236
_RATE_TOP, _RATE_BOTTOM = 262, 306
_HEIGHT = 332
_POINTS = 800
"""More would lie on the same pixels."""
_SMOOTHED_FROM = 60
"""Steps from which on the single losses step back behind their mean."""


def loss_curve(rows: Sequence[Row], validation: Sequence[Row]) -> str:
    """Loss per step with validation losses as dots and skipped steps as crosses, above the learning rate.

    `rows` are those of `metrics.jsonl`; in `validation` each has `step` and `loss`. From 60 steps on, the loss is drawn
    as a moving mean before the single steps. Losses that are no numbers are marked as skipped.
    """
    learned = [row for row in rows if not is_skipped(row)]
    skipped = [row for row in rows if is_skipped(row)]
    last = max([1, *(int(row["step"]) for row in [*rows, *validation])])
    losses = [float(row["loss"]) for row in [*learned, *validation]] or [0.0, 1.0]
    low, high = _with_margin(min(losses), max(losses))
    x = linear_scale(0, last, _LEFT, _WIDTH - _RIGHT)
    y = linear_scale(low, high, _LOSS_BOTTOM, _LOSS_TOP)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_in_words(learned, validation))}">']
    parts += _grid(ticks(low, high), y)
    parts += _training(learned, x, y)
    parts += [_cross(row, x(float(row["step"]))) for row in skipped]
    parts += [_dot(row, x, y) for row in validation]
    parts += _learning_rate(rows, x)
    parts += _axis(last, x)
    return "\n".join([*parts, "</svg>"])


def is_skipped(row: Row) -> bool:
    """Whether a guard undid this step, or its loss is no number."""
    loss = row.get("loss")
    return bool(row.get("skipped")) or not isinstance(loss, int | float) or not math.isfinite(loss)


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to `window` - 1 before it.

    >>> moving_mean([1.0, 3.0, 5.0, 7.0], 2)
    [1.0, 2.0, 4.0, 6.0]
    """
    means, total = [], 0.0
    for place, value in enumerate(values):
        total += value - (values[place - window] if place >= window else 0.0)
        means.append(total / min(place + 1, window))
    return means


def ticks(low: float, high: float) -> list[float]:
    """Two to six round values inside.

    >>> ticks(1.93, 3.2)
    [2.0, 2.5, 3.0]
    """
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 9) for index in range(first, last + 1)]


def _training(rows: Sequence[Row], x: Scale, y: Scale) -> list[str]:
    values = [float(row["loss"]) for row in rows]
    single = [(x(float(row["step"])), y(value)) for row, value in zip(rows, values, strict=True)]
    if len(rows) < _SMOOTHED_FROM:
        return [_line(single, 'stroke="var(--domain)" stroke-width="1.8"')]
    mean = moving_mean(values, max(5, len(rows) // 30))
    smooth = [(x(float(row["step"])), y(value)) for row, value in zip(rows, mean, strict=True)]
    return [
        _line(single, 'stroke="var(--domain)" stroke-opacity=".3"'),
        _line(smooth, 'stroke="var(--domain)" stroke-width="2"'),
    ]


def _learning_rate(rows: Sequence[Row], x: Scale) -> list[str]:
    rates = [(float(row["step"]), float(row["learning_rate"])) for row in rows if row.get("learning_rate") is not None]
    if not rates:
        return []
    highest = max(rate for _, rate in rates) or 1.0
    y = linear_scale(0, highest, _RATE_BOTTOM, _RATE_TOP)
    return [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_RATE_BOTTOM}" y2="{_RATE_BOTTOM}"/>',
        f'<text class="label" x="{_LEFT - 8}" y="{_RATE_TOP + 8}" text-anchor="end">{highest:.2g}</text>',
        f'<text class="label" x="{_LEFT - 8}" y="{_RATE_BOTTOM + 4}" text-anchor="end">0</text>',
        _line([(x(step), y(rate)) for step, rate in rates], 'stroke="var(--general)" stroke-width="1.5"'),
        f'<text class="label" x="{_LEFT + 4}" y="{_RATE_TOP - 8}">learning rate</text>',
    ]


def _dot(row: Row, x: Scale, y: Scale) -> str:
    title = f"validation after step {row['step']}: {float(row['loss']):.4g}"
    place = f'cx="{x(float(row["step"])):.1f}" cy="{y(float(row["loss"])):.1f}"'
    return f'<circle class="pass" {place} r="5"><title>{title}</title></circle>'


def _cross(row: Row, across: float) -> str:
    reason = row.get("skipped") if isinstance(row.get("skipped"), str) else "not learned from"
    up, size = _LOSS_BOTTOM - 8, 4.5
    strokes = "".join(
        f'<line class="fail" stroke-width="2" x1="{across - size:.1f}" y1="{up - size * slope}" '
        f'x2="{across + size:.1f}" y2="{up + size * slope}"/>'
        for slope in (1, -1)
    )
    return f"<g><title>step {row['step']} skipped: {escape(str(reason))}</title>{strokes}</g>"


def _grid(values: Sequence[float], y: Scale) -> list[str]:
    between = values[1] - values[0] if len(values) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(between) + 1e-9))
    return [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text class="label" x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.{digits}f}</text>'
        for value in values
    ]


def _axis(last: int, x: Scale) -> list[str]:
    return [
        f'<text class="label" x="{x(step):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{label}</text>'
        for step, anchor, label in ((0, "start", "step 0"), (last, "end", f"step {last:,}"))
    ]


def _line(points: Sequence[tuple[float, float]], style: str) -> str:
    every = max(1, math.ceil(len(points) / _POINTS))
    chosen = [*points[::every], *points[-1:]]
    return f'<polyline fill="none" {style} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in chosen)}"/>'


def _in_words(rows: Sequence[Row], validation: Sequence[Row]) -> str:
    """What a reader who cannot see the picture is told."""
    told = [f"Loss per training step: from {rows[0]['loss']:.3g} to {rows[-1]['loss']:.3g}"] if rows else ["No steps"]
    if validation:
        told.append(f"validation from {validation[0]['loss']:.3g} to {validation[-1]['loss']:.3g}")
    return "; ".join(told)


def _with_margin(low: float, high: float) -> tuple[float, float]:
    # A flat line lies in the middle, also one that is not flat in its sixth digit.
    is_flat = high - low < 1e-6 * max(1.0, abs(high))
    margin = 0.1 * max(1.0, abs(high)) if is_flat else (high - low) * 0.08
    return low - margin, high + margin
