"""`make proof-serve` in its small form: it finds nothing wrong here, and would say so if it did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's modules can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.timeout(900)
def test_the_small_proof_holds_and_stores_a_page_that_needs_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai", reason="the [serve] extra is not installed")
    command = [sys.executable, str(BENCHMARKS / "proof_serve.py"), "--model", str(tiny_folder), "--seconds", "3"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (stored,) = tmp_path.glob("proof_serve_*.json")
    document = json.loads(stored.read_text())
    assert document["holds"] is True
    assert len(document["scenarios"]) == 6
    killed, _, too_long, slow, *_ = document["scenarios"]
    # Both kinds have to be there, or the fault proved nothing.
    assert killed["kinds"]["error event"]
    assert killed["kinds"]["whole"]
    assert too_long["kinds"]["error event"]
    assert slow["ratios"]
    page = stored.with_suffix(".html").read_text()
    assert "all claims hold" in page
    assert "<svg" in page
    assert not any(mark in page for mark in ("<script", "<link", "src=", "http://", "https://"))


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(
    ("status", "tail", "kind"),
    [
        (200, b'"finish_reason":"length"}]}\n\ndata: [DONE]\n\n', "whole"),
        (200, b'"finish_reason":null}]}\n\ndata: [DONE]\n\n', "broken"),
        (200, b'data: {"choices":[]}\n\n', "broken"),
        (200, b'data: {"error":{"code":"engine_died"}}\n\n', "error event"),
        (503, b'{"error":{"code":"engine_unavailable"}}', "refused"),
        (0, b"", "broken"),
    ],
)
def test_a_stream_that_is_cut_without_a_word_counts_as_broken(status: int, tail: bytes, kind: str) -> None:
    from streams import Stream, end_of

    assert end_of(Stream(status=status, tail=tail)).kind == kind


@pytest.mark.usefixtures("benchmarks")
def test_growth_is_seen_behind_the_warm_up_and_noise_is_not() -> None:
    from proof_soak import grown

    def samples(values: list[float]) -> list[dict[str, Any]]:
        return [{"seconds": place, "x": value} for place, value in enumerate(values)]

    leaking = samples([100 + place for place in range(40)])
    steady = samples([50.0] * 10 + [100.0, 101.0] * 15)
    assert (grown(leaking, "x") or 0) > 0.1
    assert abs(grown(steady, "x") or 0) < 0.02
    assert grown(samples([1, 2]), "x") is None


@pytest.mark.usefixtures("benchmarks")
def test_what_was_not_measured_does_not_hold() -> None:
    from claims import Claim, median_claim

    assert Claim("a", None, target="≥ 1").holds is False
    assert Claim("a", 2.0, target="< 2").holds is False
    assert Claim("a", 2.0).holds is None
    assert median_claim("a", [1.0, 9.0, 2.0], target="≥ 2").holds is True
