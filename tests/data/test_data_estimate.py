"""The paper estimate of hours and dollars: formulas, and where the rate comes from."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st


def _loaded() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "data_estimate.py"
    spec = importlib.util.spec_from_file_location("data_estimate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["data_estimate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


estimate = _loaded()


def result(*, date: str, rate: float) -> str:
    """What `benchmarks/data.py` stores, cut to what is read here: 200 MB in 10 s."""
    run = {"seconds": 10.0, "megabytes_per_second": 20.0, "cpu_seconds": 200 / rate, "mib": 900}
    return json.dumps({"date": date, "nexus": {"two workers": run, "one worker": {**run, "seconds": 19.0}}})


@given(pace=st.floats(1, 1e4), other=st.floats(1, 1e4), megabytes=st.floats(1, 1e7))
def test_time_grows_with_the_corpus_and_goes_at_the_slowest_pace(pace: float, other: float, megabytes: float) -> None:
    def hours(size: float, *, alone: float = 1e12) -> float:
        return float(estimate.hours(size, fetched=1e12, at_once=[pace, other], alone=alone))

    assert hours(2 * megabytes) == pytest.approx(2 * hours(megabytes))
    assert hours(megabytes) == pytest.approx(megabytes / min(pace, other) / 3600)
    assert hours(megabytes, alone=0.1) == pytest.approx(hours(megabytes) + megabytes / 0.1 / 3600)


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        estimate.hours(1, fetched=1, at_once=[1, 0])


def test_prices_are_hours_times_machines() -> None:
    assert estimate.glue_usd(10, 8) == pytest.approx(10 * 40 * 2 * 0.44, abs=1e-3)
    assert estimate.emr_usd(10, 8) == pytest.approx(10 * 40 * (8 * 0.052624 + 32 * 0.0057785), abs=1e-3)
    # 1,000 GB with twice as much scratch for a whole month: 160 $ of disk.
    assert estimate.box_usd(730, 1e6, scratch_share=2) == pytest.approx(730 * 2.856 + 160 + 0.05)


def test_the_newest_result_gives_the_rate(tmp_path: Path) -> None:
    (tmp_path / "data_x86_64-2-cores_2026-11-22.json").write_text(result(date="2026-11-22", rate=11))
    (tmp_path / "data_aarch64-2-cores_2026-11-23.json").write_text(result(date="2026-11-23", rate=13))
    (tmp_path / "data_privacy_x86_64_2026-12-01.json").write_text("{}")
    newest = estimate.newest_result(tmp_path)
    assert newest.name == "data_aarch64-2-cores_2026-11-23.json"
    assert estimate.rate_of(json.loads(newest.read_text())) == pytest.approx(13)


def test_without_a_result_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"benchmarks/data\.py, or give --rate"):
        estimate.newest_result(tmp_path)


def test_the_table_has_every_corpus_in_every_place_and_names_what_is_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.json").write_text(result(date="2026-11-22", rate=10))
    estimate.main(["--result", str(tmp_path / "one.json")])
    printed = capsys.readouterr().out
    assert printed.count("| The Pile") == printed.count("| RedPajama-1T") == 3
    assert "10.0 MB a CPU second embedded (one.json), 2.5 on Spark (a quarter of it, as measured on 2 cores)" in printed
    # 800,000 MB / (16 · 85) + 800,000 / min(10 · 64 · 0.6, 500, 2,500 / 6) + 800,000 / 100 = 10,672 s
    assert "| The Pile, 800 GB | c7i.16xlarge | 3.0 |" in printed
    estimate.main(["--rate", "10", "--spark-rate", "10"])
    assert "10.0 on Spark (given)" in capsys.readouterr().out
