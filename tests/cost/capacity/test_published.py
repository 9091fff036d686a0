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


@pytest.fixture(scope="module")
def rows() -> Path:
    places = [ROOT.parent / "shared", *([Path(os.environ["NEXUS_SHARED"])] if "NEXUS_SHARED" in os.environ else [])]
    found = next((place / ROWS for place in places if (place / ROWS).exists()), None)
    if found is None:
        pytest.skip(f"the published rows ({ROWS}) are not here")
    return found


def test_half_of_the_published_rows_of_one_card_predicts_the_other_half(benchmark: ModuleType, rows: Path) -> None:
    """The same as the benchmark, on one setup."""
    setups = benchmark.groups(rows, benchmark.SETUP)
    (found,) = [rows for name, rows in setups if name[0] == "h100_sxm" and name[-1] == "1.0"]
    held_out = benchmark.errors(found[1::2], benchmark.fit(found[0::2]))
    assert np.mean(held_out) < 0.10


def test_a_card_is_calibrated_once_for_however_many_share_the_work(benchmark: ModuleType, rows: Path) -> None:
    """The same as the benchmark, on the H200: one calibration for each engine, one to eight cards."""
    held_out: list[float] = []
    for name, found in benchmark.groups(rows, benchmark.CARD):
        if name[0] == "h200_sxm":
            first, second = benchmark.halves_of(found)
            held_out += benchmark.shared_errors(second, *benchmark.fit_shared(first)).tolist()
    assert len(held_out) == 22 + 10
    assert np.mean(held_out) < 0.10


def test_cards_that_share_the_work_each_do_a_part_of_it(benchmark: ModuleType) -> None:
    numbers = np.array([0.001, 0.008, 4e-5, 2e-5, 4e-8, 0.003])
    alone, four = benchmark.shared(numbers, 1), benchmark.shared(numbers, 4)
    assert alone.numbers == pytest.approx((0.009, 4e-5, 2e-5, 4e-8, 0.003))
    assert four.numbers == pytest.approx((0.003, 1e-5, 2e-5, 1e-8, 0.003))
