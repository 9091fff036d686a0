"""The one line that a training step prints where only text gets out of the machine, and the patterns that read it.

CloudWatch finds its metrics in a SageMaker job's output by these patterns, and whoever follows the job reads the same
lines, so both sides live here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

MARK = "nexus-metrics"
"""First word of the line."""
FIELDS = ("step", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second")
"""What is printed of a row of `metrics.jsonl`, in this order; a row may lack some."""
_NUMBER = "[-+.eE0-9]+"

# Name → pattern, as SageMaker's MetricDefinitions want them: one group, at most 500 characters and 40 definitions. The
# blank before the name keeps `loss` from matching `validation_loss`. A loss that is no number matches nothing.
METRIC_DEFINITIONS: tuple[dict[str, str], ...] = tuple(
    {"Name": f"train:{name}", "Regex": f"{MARK}.* {name}=({_NUMBER})"} for name in FIELDS
)


def metrics_line(row: Mapping[str, object]) -> str:
    """A row of `metrics.jsonl` as one line; what is absent or None is left out.

    >>> metrics_line({"step": 3, "loss": 2.5, "tokens_per_second": None})
    'nexus-metrics step=3 loss=2.5'
    """
    shown = ((name, row.get(name)) for name in FIELDS)
    return " ".join([MARK, *(f"{name}={value:.10g}" for name, value in shown if isinstance(value, int | float))])


def parse_metrics_line(line: str) -> dict[str, float]:
    """The finite numbers of such a line by name; empty for any other line.

    >>> parse_metrics_line("2026-11-02 nexus-metrics step=3 loss=nan tokens=1024")
    {'step': 3.0, 'tokens': 1024.0}
    """
    _, mark, rest = line.partition(f"{MARK} ")
    found: dict[str, float] = {}
    for word in rest.split() if mark else ():
        name, equals, text = word.partition("=")
        if name not in FIELDS or not equals:
            continue
        try:
            value = float(text)
        except ValueError:  # a line that was cut off
            continue
        if math.isfinite(value):
            found[name] = value
    return found
