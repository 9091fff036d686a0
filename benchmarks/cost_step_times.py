"""Fits step times of Llama 3.1 8B to published points: `src/nexus_llm/cost/hardware/step_times.csv`.

    python benchmarks/cost_step_times.py FOLDER

Least squares without negative terms, relative errors, on the mean time per output token of steady load: with B
sequences of I input and O output tokens one step prefills B x I / O tokens and reads about B x (I + O / 2) cached ones.
Points of one shape cannot tell prefill from context: the
context's seconds are then those of the card's bandwidth. Each mean error is that on the points that were fitted.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

TARGET = Path(__file__).parent.parent / "src/nexus_llm/cost/hardware/step_times.csv"
COLUMNS = ("card", "model", "precision", "fixed_seconds", "seconds_per_prefill_token", "seconds_per_sequence",
           "seconds_per_context_token", "provenance", "source")  # fmt: skip
MODEL = "Llama-3.1-8B"
Point = tuple[float, float, float, float]  # sequences, input tokens, output tokens, seconds per output token

# aiconfigurator 0.12.0, run of 2026-11-21: 512 in, 200 out; milliseconds at 1, 8, 32 and 64 sequences.
MODELLED = {
    ("L40S", "bfloat16"): (22.0, 24.0, 31.7, 40.9),
    ("L40S", "float8"): (14.1, 15.2, 21.0, 30.1),
    ("A100-80GB", "bfloat16"): (11.8, 13.3, 18.4, 24.5),
    ("H100", "float8"): (4.4, 5.1, 7.6, 10.4),
}
KV_BYTES = 131_072  # of one token, bfloat16
BANDWIDTH_SHARE = 0.8  # assumed, as in nexus_llm.cost.hardware
BYTES_PER_SECOND = {"L40S": 864e9, "A100-80GB": 2039e9, "H100": 3350e9}  # data sheets
MEASURED = {("h100_sxm", "trtllm"): ("H100", "bfloat16")}


def main(folder: Path) -> None:
    """Writes one row a card and precision."""
    rows = []
    for (card, precision), milliseconds in sorted(MODELLED.items()):
        points = [(n, 512.0, 200.0, ms / 1e3) for n, ms in zip((1, 8, 32, 64), milliseconds, strict=True)]
        rows.append(_row(card, precision, points, "vLLM, modelled from measured operators (aiconfigurator 0.12.0)"))
    with next(folder.glob("llama31_8b_measured_*.csv")).open(newline="") as stream:
        published = list(csv.DictReader(stream))
    for (system, backend), (card, precision) in MEASURED.items():
        chosen = [row for row in published if (row["system"], row["backend"]) == (system, backend)]
        points = [
            (float(row["concurrency"]), float(row["isl"]), float(row["osl"]), float(row["silicon_tpot_ms"]) / 1e3)
            for row in chosen
            if row["silicon_tpot_ms"] and float(row["tp_size"]) == 1 and float(row["concurrency"]) <= 128
        ]
        rows.append(_row(card, precision, points, f"measured with {backend} (NVIDIA aiconfigurator-core 0.12.0)"))
    with TARGET.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])


def _row(card: str, precision: str, points: list[Point], source: str) -> tuple[str, ...]:
    table = np.array([(1, n * i / o, n * (i + o / 2)) for n, i, o, _ in points])
    seconds = np.array([time for *_, time in points])
    fixed, prefill, context = nnls(table / seconds[:, None], np.ones(len(points)))[0]
    if len({point[1:3] for point in points}) == 1:  # points of one shape cannot tell prefill from context
        context = KV_BYTES / (BYTES_PER_SECOND[card] * BANDWIDTH_SHARE)
        rest = (seconds - context * table[:, 2]) / seconds
        fixed, prefill = nnls(table[:, :2] / seconds[:, None], rest)[0]
    error = float(np.mean(np.abs(table @ [fixed, prefill, context] / seconds - 1)))
    print(f"{card} {precision}: {len(points)} points, mean error {error:.1%}: {fixed:.5f} {prefill:.2e} {context:.2e}")
    text = f"fitted to {len(points)} published points (mean error {error:.0%}): {source}"
    return (card, MODEL, precision, f"{fixed:.6f}", f"{prefill:.3e}", "0", f"{context:.3e}", "published", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
