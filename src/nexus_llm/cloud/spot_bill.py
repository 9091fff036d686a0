"""What a spot job costs that starts from nothing after every interruption: the reason why it is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Interruptions per hour of running p3.2xlarge (V100) spot machines on AWS in 2023, counted in the traces of Wu et al.,
# "Can't Be Late: Optimizing Spot Instance Savings under Deadlines" (NSDI 2024, github.com/skypilot-org/spot-traces,
# read 2026-11). Quietest of nine zones in 45 days: us-west-2b, 94 in 988 h. All zones of the week of April 22 that had
# a machine kept running: 202 in 431 h = 0.47. The quietest one makes the most lenient bill.
QUIET_INTERRUPTIONS_PER_HOUR = 0.095
BUSY_INTERRUPTIONS_PER_HOUR = 0.47


@dataclass(frozen=True, slots=True)
class SpotBill:
    """Expected machine time of a job that restarts from zero."""

    hours: float
    """Without interruptions."""
    expected_hours: float
    """Until one attempt runs to its end; `inf` where that is beyond all reckoning."""
    expected_usd: float | None
    """None where no price is known."""

    @property
    def factor(self) -> float:
        """Times as long, and as expensive, as without interruptions."""
        return self.expected_hours / self.hours


def restarting_bill(
    *, hours: float, interruptions_per_hour: float = QUIET_INTERRUPTIONS_PER_HOUR, usd_per_hour: float | None = None
) -> SpotBill:
    """The expected bill of `hours` of work without checkpoints, under interruptions at a constant rate.

    With rate λ and T hours of work, attempts end after an exponentially distributed time unless they reach T first. The
    expected sum of all attempts is (e^(λT) − 1) / λ (the mean wait for a run of length T in a Poisson process; Ross,
    "Introduction to Probability Models", conditional expectation on the first interruption). Waiting for the next
    machine is not counted: it costs nothing but time.

    >>> round(restarting_bill(hours=24).expected_hours)
    92
    >>> round(restarting_bill(hours=24, interruptions_per_hour=1e-9).expected_hours, 3)
    24.0

    Raises:
        ValueError: a number is not above 0.
    """
    if hours <= 0 or interruptions_per_hour <= 0:
        raise ValueError(f"hours {hours} and interruptions_per_hour {interruptions_per_hour} must be above 0")
    try:
        expected = math.expm1(interruptions_per_hour * hours) / interruptions_per_hour
    except OverflowError:
        expected = math.inf
    return SpotBill(hours, expected, None if usd_per_hour is None else expected * usd_per_hour)
