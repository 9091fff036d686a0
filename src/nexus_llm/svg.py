"""What every plot of every report stands on: round ticks, scales, and the frame of an inline SVG.

Colours come from the page's CSS, so that plots follow light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape


def linear_ticks(low: float, high: float) -> list[float]:
    """About six round values from at or below `low` to at or above `high`.

    >>> linear_ticks(-0.083, 0.1)
    [-0.1, -0.05, 0.0, 0.05, 0.1]
    """
    rough = max(high - low, 1e-3) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 9) + 0.0 for index in range(first, max(last, first + 1) + 1)]


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive values.

    >>> logarithmic_ticks(4, 60)
    [5.0, 10.0, 20.0, 50.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for factor in (1, 2, 5) if low <= (tick := factor * 10.0**power) <= high]


def linear_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Where a value lies, in pixels: `low` at `start`, `high` at `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def picture(parts: Sequence[str], *, width: float, height: float, title: str) -> str:
    """The parts as one SVG with a name for those who cannot see it."""
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">\n{body}\n</svg>'
