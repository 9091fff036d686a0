from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
ROWS = "facts/cost/llama31_8b_measured_nvidia_aiconfigurator_core_0.12.0.csv"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import cost_published
    finally:
        sys.path.pop(0)
    return cost_published


def test_two_points_of_a_table_predict_the_others(benchmark: ModuleType) -> None:
    found = {name: benchmark.few_points(points) for name, points in benchmark.FEW_POINTS.items()}
    assert all(one["held_out_mean_error_share"] < 0.10 for one in found.values()), found


def test_half_of_the_published_rows_of_a_card_predicts_the_other_half(benchmark: ModuleType) -> None:
    """The same as the benchmark, on one card."""
    places = [ROOT.parent / "shared", *([Path(os.environ["NEXUS_SHARED"])] if "NEXUS_SHARED" in os.environ else [])]
    rows = next((place / ROWS for place in places if (place / ROWS).exists()), None)
    if rows is None:
        pytest.skip(f"the published rows ({ROWS}) are not here")
    (found,) = [rows for name, rows in benchmark.groups(rows) if name[0] == "h100_sxm" and name[-1] == "1.0"]
    held_out = benchmark.errors(found[1::2], benchmark.fit(found[0::2]))
    assert np.mean(held_out) < 0.10
