from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
ROWS = "facts/cost/llama31_8b_measured_nvidia_aiconfigurator_core_0.12.0.csv"


def test_half_of_the_published_rows_of_a_card_predicts_the_other_half() -> None:
    """The same as the benchmark, on one card."""
    places = [ROOT.parent / "shared", *([Path(os.environ["NEXUS_SHARED"])] if "NEXUS_SHARED" in os.environ else [])]
    rows = next((place / ROWS for place in places if (place / ROWS).exists()), None)
    if rows is None:
        pytest.skip(f"the published rows ({ROWS}) are not here")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import cost_published as benchmark
    finally:
        sys.path.pop(0)
    (found,) = [rows for name, rows in benchmark.groups(rows) if name[0] == "h100_sxm" and name[-1] == "1.0"]
    held_out = benchmark.errors(found[1::2], benchmark.fit(found[0::2]))
    assert np.mean(held_out) < 0.10
