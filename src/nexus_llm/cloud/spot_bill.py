"""What a spot job takes that starts from nothing after every interruption: the reason why it is refused."""

from __future__ import annotations

import math

# Interruptions per hour of running p3.2xlarge (V100) spot machines on AWS in 2023, counted in the traces of Wu et al.,
# "Can't Be Late: Optimizing Spot Instance Savings under Deadlines" (NSDI 2024, github.com/skypilot-org/spot-traces,
# read 2026-11). Quietest of nine zones in 45 days: us-west-2b, 94 in 988 h. All zones of the week of April 22 that had
# a machine kept running: 202 in 431 h = 0.47. The quietest one makes the most lenient bill.
QUIET_INTERRUPTIONS_PER_HOUR = 0.095


def restarting_hours(hours: float, *, interruptions_per_hour: float = QUIET_INTERRUPTIONS_PER_HOUR) -> float:
    """Expected machine hours of `hours` of work without checkpoints, both above 0, interrupted at a constant rate.

    With rate λ and T hours of work, attempts end after an exponentially distributed time unless they reach T first. The
    expected sum of all attempts is (e^(λT) − 1) / λ (the mean wait for a run of length T in a Poisson process; Ross,
    "Introduction to Probability Models", conditional expectation on the first interruption); `inf` where that is beyond
    all reckoning. Waiting for the next machine is not counted: it costs nothing but time.

    >>> round(restarting_hours(24)), round(restarting_hours(24, interruptions_per_hour=1e-9), 3)
    (92, 24.0)
    """
    try:
        return math.expm1(interruptions_per_hour * hours) / interruptions_per_hour
    except OverflowError:
        return math.inf
