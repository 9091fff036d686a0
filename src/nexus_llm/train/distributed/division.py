"""Which changes between two runs keep the loss curve."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Division:
    """How the rows of a step are divided."""

    processes: int
    rows_per_pass: int
    """Packed rows in one forward pass of one process."""
    accumulation: int
    """Forward passes in one step."""
    dropout_share: float = 0.0

    @property
    def rows(self) -> int:
        """Packed rows in one step."""
        return self.processes * self.rows_per_pass * self.accumulation


def reshardable(saved: Division, now: Division) -> str | None:
    """Why a run that was saved under one division cannot go on under another with the same loss curve; None: it can.

    The batch is a function of (seed, step, rows in a step), the gradient a sum over its tokens divided by their global
    number: who computes which rows changes the order of additions, and with it the last digits, but nothing else.
    Weights and moments fit any division: they can be restored either way.

    >>> reshardable(Division(2, 4, 1), Division(1, 4, 2)) is None
    True
    >>> print(reshardable(Division(2, 4, 1), Division(1, 4, 1)))
    a step had 8 rows (2 processes x 4 rows x 1 passes) and now has 4 (1 x 4 x 1), so every later step would take \
other rows
    """
    if saved.rows != now.rows:
        return (
            f"a step had {saved.rows} rows ({saved.processes} processes x {saved.rows_per_pass} rows x "
            f"{saved.accumulation} passes) and now has {now.rows} ({now.processes} x {now.rows_per_pass} x "
            f"{now.accumulation}), so every later step would take other rows"
        )
    if now.dropout_share and (saved.processes, saved.rows_per_pass) != (now.processes, now.rows_per_pass):
        return (
            f"dropout ({now.dropout_share}) is drawn for each process and pass, so other values would be dropped by "
            f"{now.processes} processes x {now.rows_per_pass} rows than by {saved.processes} x {saved.rows_per_pass}"
        )
    return None


def fitting(saved: Division, *, processes: int) -> Division | None:
    """The division among `processes` that keeps the rows of a step, with as many rows in a pass where possible; None:
    they cannot be divided equally.

    >>> fitting(Division(4, 2, 1), processes=2)
    Division(processes=2, rows_per_pass=2, accumulation=2, dropout_share=0.0)
    """
    each, rest = divmod(saved.rows, processes)
    if rest:
        return None
    rows = next(rows for rows in range(min(saved.rows_per_pass, each), 0, -1) if each % rows == 0)
    return Division(processes, rows, each // rows, saved.dropout_share)
