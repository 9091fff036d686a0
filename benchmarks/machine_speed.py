"""How fast the machine was while something else was measured on it: the processor time of a small piece of work.

A virtual machine shares its cores, and its neighbours make it slower for minutes. Every 50 ms a process multiplies two
matrices that fit into the cache, a hundredth of one core, and notes how much processor time that took: waiting for a
core does not count, a slower core does.

As a program it is that process: `python benchmarks/machine_speed.py FILE`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

EVERY_SECONDS = 0.05
TRIMMED = 0.05
"""Of the samples at either end: an interrupt counts as processor time, too."""

Pace = Callable[[float, float], float]
"""Seconds of the piece of work, on average, between two times of `time.monotonic`."""


@contextlib.contextmanager
def watched() -> Iterator[Pace]:
    """The machine's pace, noted as long as the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pace"
        path.touch()
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, __file__, str(path)], env=os.environ | one_thread)
        try:
            yield lambda since, until: _pace(path, since, until)
        finally:
            process.terminate()
            process.wait()


def _pace(path: Path, since: float, until: float) -> float:
    lines = (line.split() for line in path.read_text().splitlines()[:-1])  # the last one may be half written
    found = np.sort([float(seconds) for at, seconds in lines if since <= float(at) <= until])
    cut = int(len(found) * TRIMMED)
    return float(found[cut : len(found) - cut].mean()) if len(found) else float("nan")


def main(path: Path) -> None:
    matrix = np.random.default_rng(0).random((128, 128), np.float32)
    with path.open("a", buffering=1) as notes:
        while True:
            began = time.thread_time()
            for _ in range(12):
                matrix @ matrix
            notes.write(f"{time.monotonic():.3f} {time.thread_time() - began:.7f}\n")
            time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
