"""The plots of the data report as inline SVG. Colours come from the page's CSS: they follow light, dark and print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nexus_llm.svg import picture

_WIDTH = 880
_ROW = 30
_NAME_WIDTH = 210
_NUMBER_WIDTH = 170


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the funnel: how many records it took out, and how many were left behind it."""

    name: str
    removed: int
    left: int


def funnel(steps: Sequence[Step]) -> str:
    """One bar a step: what is left, and behind it, in another colour, what the step took out."""
    most = max((step.left + step.removed for step in steps), default=0) or 1
    parts = []
    for row, step in enumerate(steps):
        y = row * _ROW + 4
        left = _bar_width(step.left, most)
        removed = max(_bar_width(step.left + step.removed, most) - left, 2.0 if step.removed else 0.0)
        number = f"−{step.removed:,}" if step.removed else f"{step.left:,}"
        parts.append(
            f'<text class="name" x="{_NAME_WIDTH - 12}" y="{y + 15}" text-anchor="end">{escape(step.name)}</text>'
            f'<rect class="kept" x="{_NAME_WIDTH}" y="{y}" width="{left:.1f}" height="{_ROW - 8}"/>'
            f'<rect class="removed" x="{_NAME_WIDTH + left:.1f}" y="{y}" width="{removed:.1f}" height="{_ROW - 8}"/>'
            f'<text class="{"loss" if step.removed else "sum"}" x="{_NAME_WIDTH + left + removed + 8:.1f}" '
            f'y="{y + 15}">{number}</text>'
            f"<title>{escape(step.name)}: {step.removed:,} taken out, {step.left:,} left</title>"
        )
    return _svg(len(steps) * _ROW + 4, "How many records each step left", parts)


def bars(rows: Sequence[tuple[str, int]], title: str) -> str:
    """One bar a row, with its number and share of all rows."""
    most, total = max((count for _, count in rows), default=0) or 1, sum(count for _, count in rows) or 1
    parts = []
    for row, (name, count) in enumerate(rows):
        y = row * _ROW + 4
        width = max(_bar_width(count, most), 2.0 if count else 0.0)
        parts.append(
            f'<text class="name" x="{_NAME_WIDTH - 12}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="kept" x="{_NAME_WIDTH}" y="{y}" width="{width:.1f}" height="{_ROW - 8}"/>'
            f'<text class="label" x="{_NAME_WIDTH + width + 8:.1f}" y="{y + 15}">'
            f"{count:,} · {escape(share(count, total))}</text>"
        )
    return _svg(len(rows) * _ROW + 4, title, parts)


def histogram(bounds: Sequence[int], counts: Sequence[int]) -> str:
    """Documents per bin of lengths in characters. Bin i goes from bound i to bound i + 1; the last may be open."""
    height, top, bottom_space = 230, 22, 34
    bottom = height - bottom_space
    most = max(counts, default=0) or 1
    width = (_WIDTH - 16) / max(len(counts), 1)
    parts = [f'<line class="grid" x1="8" x2="{_WIDTH - 8}" y1="{bottom}" y2="{bottom}"/>']
    for index, count in enumerate(counts):
        x, tall = 8 + index * width, (bottom - top) * count / most
        end = f"{bounds[index + 1]:,}" if index + 1 < len(bounds) else "more"
        begin = bounds[index] if index < len(bounds) else bounds[-1]
        parts.append(
            f'<rect class="kept" x="{x + 1.5:.1f}" y="{bottom - tall:.1f}" width="{width - 3:.1f}" height="{tall:.1f}">'
            f"<title>{begin:,} to {end} characters: {count:,} documents</title></rect>"
        )
        if count and width >= 44:
            parts.append(
                f'<text class="label" x="{x + width / 2:.1f}" y="{bottom - tall - 6:.1f}" '
                f'text-anchor="middle">{short(count)}</text>'
            )
        # Every bin is labelled where labels fit, else every second, third, …
        if index % max(1, round(44 / width + 0.49)) == 0:
            parts.append(
                f'<text class="label" x="{x:.1f}" y="{bottom + 18}" '
                f'text-anchor="{"start" if index == 0 else "middle"}">{short(begin)}</text>'
            )
    return _svg(height, "Documents per length in characters", parts)


def share(part: float, whole: float) -> str:
    """A share in per cent that reads as nothing or all only when it is.

    >>> share(1, 3), share(1, 20_000), share(0, 5), share(5, 5), share(99_999, 100_000)
    ('33 %', '0.005 %', '0 %', '100 %', '>99.9 %')
    """
    if not whole or part in (0, whole):
        return "100 %" if part and part == whole else "0 %"
    value = 100 * part / whole
    if value < 0.001 or value > 99.9:
        return "<0.001 %" if value < 1 else ">99.9 %"
    if value < 1:
        return f"{value:.2g} %"
    return f"{value:.0f} %" if 10 <= value <= 99 else f"{value:.1f} %"


def short(value: float) -> str:
    """A count with at most four characters and a letter.

    >>> short(950), short(1_500), short(2_010), short(24_500_000), short(3_000_000_000)
    ('950', '1.5k', '2k', '24M', '3G')
    """
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= bound:
            scaled = value / bound
            return f"{scaled:.0f}{letter}" if scaled >= 10 else f"{scaled:.2g}{letter}"
    return f"{value:.0f}"


def _bar_width(count: int, most: int) -> float:
    return (_WIDTH - _NAME_WIDTH - _NUMBER_WIDTH) * count / most


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return picture(parts, width=_WIDTH, height=height, title=title)
