"""How far the capacity model is off on this machine: our own server measured, half of it fitted, the rest predicted.

    python benchmarks/cost_calibration.py --model PACKAGED_FOLDER [--repeats 5] [--minutes 30] [--small] [--note TEXT]

Starts `nexus serve` on the packaged model (SmolLM2-135M-Instruct, OpenVINO), runs what `nexus cost calibrate` runs, and
stores the result as JSON and as a page with plots. The same measurements are then explained by a scheduler that is
wrong for this server (nobody joins a running batch), fitted anew: that must fail, else the check tells nothing. Needs
quiet cores: the client shares them with the server. Needs the `serve` extra.

One round is every point once, about 5 minutes on two cores: the saturated server (64 requests at once), the four open
loops, the grid (24 closed loops). The result is written after each round. The claim needs five: up to the fourth the
errors are told and the verdict is "inconclusive". `--minutes` begins no round that would not end in time. Every load
test is kept in `--kept` as soon as it has ended, so a run that was stopped, or given few minutes at a time, goes on
where it was: the same five rounds, whenever they were measured. When all have ended they are deleted, unless `--kept`
says where they are.
Another machine or model needs another folder.

The machine's speed is not the same from test to test, and no model of an engine knows that. It is watched beside every
test (`machine_speed.py`), and the same errors are told once more with steps as much longer as the machine was slower:
`at_the_speed_beside`. How much longer that is, an exponent, is fitted to the points to fit, too. The verdict is without
it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from machine_speed import Pace, watched
from nexus_llm.cli.cost_calibrate import server_measure
from nexus_llm.cli.options import cache_folder
from nexus_llm.cost.capacity.calibrate import (
    FittedEngine,
    Observed,
    Statistics,
    error_shares,
    median_statistics,
    predicted_statistics,
)
from nexus_llm.cost.capacity.calibration import (
    Calibration,
    Experiment,
    LoadTest,
    Measure,
    Point,
    calibrate,
    with_static_batching,
)
from nexus_llm.cost.capacity.simulate import Demand, Floats
from nexus_llm.cost.quantities import EngineLimits, StepTime
from nexus_llm.svg import linear_scale, logarithmic_ticks, picture
from served import served

RESULTS = Path(__file__).parent / "results"
CLAIMED_REPEATS = 5
# The OpenVINO engine as `nexus serve` sets it up: 128 requests at once, 512 tokens a step, blocks of 32. SmolLM2-135M
# keeps 30 layers x 3 heads x 64 x 2 values of one byte a token, so its GiB holds 93,000, as the engine itself tells. No
# load test fills a seventh of it.
LIMITS = EngineLimits(kv_cache_tokens=93_000, max_sequences=128, max_batched_tokens=512, kv_block_tokens=32)
FULL = Experiment(saturation_concurrency=64)  # else as the command's own
SMALL = Experiment(
    concurrencies=(1, 4), input_tokens=(32, 128), output_tokens=(8, 16), requests_per_place=2, open_requests=20,
    open_output_tokens=16, load_shares=(0.6,), saturation_concurrency=8,
)  # fmt: skip
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --page: #fff; --line: #d5dae1; --dot: #2563eb; --odd: #d97706; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --page: #14181f; --line: #3a414d; --dot: #7aa7ff; --odd: #f0a44b; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } td, th { padding: .2rem .8rem .2rem 0;
  text-align: right; border-bottom: 1px solid var(--line); } td:first-child, th:first-child { text-align: left; }
svg { width: 19rem; } figure { margin: 0; } .plots { display: flex; flex-wrap: wrap; gap: 2rem; }
.axis { stroke: var(--line); }
.band { fill: var(--line); opacity: .5; } .held_out, .saturation { fill: var(--dot); } .open { fill: var(--odd); }
.fitted { fill: none; stroke: var(--dot); } .label { font-size: 12px; fill: var(--ink); }
"""
PLOTS = (
    ("tpot", "Time per output token, median, s", "tpot"),
    ("ttft_p95", "First token, 95th percentile, s", "ttft_p95"),
    ("e2e_p95", "Whole answer, 95th percentile, s", "e2e_p95"),
    ("requests_per_second", "Requests a second", "saturation"),
)


@dataclass(frozen=True, slots=True)
class Watched(Observed):
    """A load test, and how fast the machine was meanwhile."""

    pace: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a packaged model folder")
    parser.add_argument("--repeats", type=int, default=CLAIMED_REPEATS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no round that would not end by then")
    parser.add_argument("--small", action="store_true", help="a minute a round, to see that it works; claims nothing")
    parser.add_argument("--open-requests", type=int, default=FULL.open_requests, help="of an open loop at full load")
    parser.add_argument("--kept", type=Path, help="folder of the load tests that have ended [default: in the cache]")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    shape, suffix = (SMALL, "_small") if arguments.small else (FULL, "")
    if arguments.open_requests != FULL.open_requests:
        shape, suffix = replace(shape, open_requests=arguments.open_requests), f"_{arguments.open_requests}-requests"
    kept = arguments.kept or cache_folder() / f"cost_calibration{suffix}"
    same_ground(kept, {"hardware": _hardware(), "model": str(arguments.model.resolve())})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the server would go on alone
    began = time.monotonic()
    with served(arguments.model) as one, watched() as pace:
        measure = remembered(server_measure(one.url, None, api_key="none"), kept, pace)
        for repeats in range(1, arguments.repeats + 1):
            round_began = time.monotonic()
            found = calibrate(  # all rounds so far: those before this one are remembered
                measure,
                replace(shape, repeats=repeats),
                LIMITS,
                given=("max_sequences", "max_batched_tokens", "kv_cache_tokens", "kv_block_tokens"),
                source=f"benchmarks/cost_calibration.py, {repeats} repeats",
                tell=lambda test, measured: print(test, measured, file=sys.stderr, flush=True),
            )
            result = judged(found, repeats, note=arguments.note)
            stem = f"cost_calibration_{platform.machine()}-{os.cpu_count()}-cores_{result['date']}{suffix}"
            arguments.out.mkdir(exist_ok=True)
            (arguments.out / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
            (arguments.out / f"{stem}.html").write_text(page(result), encoding="utf-8")
            told = {name: result[name] for name in ("repeats", "verdict", "hardware", "wrong_scheduler")}
            told |= {"errors": result["calibration"]["errors"], "at_the_speed_beside": result["at_the_speed_beside"]}
            print(json.dumps(told, indent=2), flush=True)
            if repeats == arguments.repeats and arguments.kept is None:
                shutil.rmtree(kept)  # the next run measures anew
            now = time.monotonic()
            if now - began + (now - round_began) > arguments.minutes * 60:
                break


def judged(found: Calibration, repeats: int, *, note: str) -> dict[str, Any]:
    """The result with its verdict: holds, fails, or inconclusive where repeats are too few for the claim."""
    wrong = with_static_batching(found)
    verdict = "holds" if found.is_trustworthy else "fails"
    if repeats < CLAIMED_REPEATS:
        verdict = "inconclusive"
    if wrong.is_trustworthy:
        verdict = "fails"  # whatever passes this check, the right scheduler is not why
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": _hardware(),
        "note": note,
        "repeats": repeats,
        "verdict": verdict,
        "calibration": found.as_json(),
        "errors_of_open_loops": found.errors_of("open"),
        "open_loops": open_loops(found),
        "at_the_speed_beside": at_the_speed_beside(found),
        "wrong_scheduler": {
            "what": "static batching: nobody joins a running batch, fitted to the same points",
            "errors": wrong.as_json()["errors"],
            "is_trustworthy": wrong.is_trustworthy,
        },
    }


def open_loops(found: Calibration) -> list[dict[str, Any]]:
    """Each open loop by itself: its time per output token, the prediction, how much longer every step would have to
    take for the two to agree, and what a step a tenth longer does to the prediction."""
    told = []
    for test, repeats in found.observed.items():
        for number, one in enumerate(repeats if test.kind == "open" else (), 1):
            measured = one.statistics()["tpot"]
            low, high = 0.2, 5.0
            for _ in range(20):
                middle = (low + high) / 2
                low, high = (middle, high) if _tpot(one, found, middle) < measured else (low, middle)
            arrived = one.demand.arrived_seconds
            told.append(
                {
                    "round": number,
                    "load_share": test.load_share,
                    "requests_per_second": _four((len(arrived) - 1) / float(arrived[-1])),
                    "tpot_measured": _four(measured),
                    "tpot_predicted": _four(_tpot(one, found, 1.0)),
                    "steps_longer_by": _four(low - 1),
                    "a_tenth_longer_adds": _four(_tpot(one, found, 1.1) / _tpot(one, found, 1.0) - 1),
                }
            )
    return told


def at_the_speed_beside(found: Calibration) -> dict[str, Any]:
    """The errors again, every prediction with steps as much longer as the machine was slower beside its test.

    The exponent says how much longer: by least squares, each loop to fit took (pace / usual pace) ** exponent of what
    it takes on average over its repeats, the long ones counting more.
    """
    fitted = [repeats for test, repeats in found.observed.items() if test.kind == "fitted"]
    weights = np.array([[one.seconds for one in repeats] for repeats in fitted])
    paces = np.log([[_pace(one) for one in repeats] for repeats in fitted])
    longer = np.log(
        [[one.statistics()["e2e"] / _slower(one, found.engine, 1.0)["e2e"] for one in repeats] for repeats in fitted]
    )
    usual = float(np.average(paces, weights=weights))
    slower, later = (of - np.average(of, axis=1, weights=weights, keepdims=True) for of in (paces, longer))
    exponent = float((weights * slower * later).sum() / max(1e-12, float((weights * slower**2).sum())))

    def point(test: LoadTest, repeats: Sequence[Observed]) -> Point:
        factors = [(_pace(one) / math.exp(usual)) ** exponent for one in repeats]
        pairs = zip(repeats, factors, strict=True)
        predicted = median_statistics([_slower(one, found.engine, factor) for one, factor in pairs])
        measured = median_statistics([one.statistics() for one in repeats])
        return Point(test, measured, predicted, error_shares(measured, predicted))

    at_speed = replace(found, points=tuple(point(test, repeats) for test, repeats in found.observed.items()))
    return {
        "exponent": _four(exponent),
        "longer_by_of_loops_to_fit": {
            "correlation": _four(_correlation(slower, later, weights)),
            "from": _four(math.expm1(exponent * float(paces.min() - usual))),
            "to": _four(math.expm1(exponent * float(paces.max() - usual))),
        },
        "errors": at_speed.as_json()["errors"],
        "errors_of_open_loops": at_speed.errors_of("open"),
    }


def _correlation(one: Floats, other: Floats, weights: Floats) -> float:
    """Of deviations from a mean."""
    spread = float((weights * one**2).sum()) * float((weights * other**2).sum())
    return float((weights * one * other).sum()) / math.sqrt(spread) if spread > 0 else 0.0


def _pace(one: Observed) -> float:
    assert isinstance(one, Watched)
    return one.pace


def _tpot(one: Observed, found: Calibration, factor: float) -> float:
    """The predicted time per output token of a load test, if every step took `factor` times as long."""
    return _slower(one, found.engine, factor)["tpot"]


def _slower(one: Observed, engine: FittedEngine, factor: float) -> Statistics:
    """What is predicted of a load test, if every step took `factor` times as long."""
    time = engine.step_time
    fixed, prefill, sequence, context, change = (number * factor for number in time.numbers)
    slower = StepTime(fixed, prefill, sequence, context, time.provenance, time.source, change)
    return predicted_statistics(one, slower, engine.limits)


def _four(value: float) -> float:
    return float(f"{value:.4g}")


def remembered(measure: Measure, folder: Path, pace: Pace) -> Measure:
    """The same function, that measures no load test twice: each is a file in the folder once it has ended."""

    def one(test: LoadTest) -> Observed:
        path = folder / f"{zlib.crc32(repr(test).encode()):08x}.npz"
        if not path.exists():
            began = time.monotonic()
            found = measure(test)
            meanwhile = pace(began, time.monotonic())
            sent = {f"demand_{name}": getattr(found.demand, name) for name in Demand.__dataclass_fields__}
            arrays = {name: getattr(found, name) for name in ("ttft", "tpot", "e2e", "seconds")}
            with path.with_suffix(".part").open("wb") as stream:
                np.savez(stream, test=repr(test), pace=meanwhile, **sent, **arrays)
            path.with_suffix(".part").rename(path)
        kept = np.load(path)
        assert str(kept["test"]) == repr(test), f"{path} is another load test: delete it"
        demand = Demand(*(kept[f"demand_{name}"] for name in Demand.__dataclass_fields__))
        seconds = float(kept["seconds"])
        pace_then = float(kept["pace"])
        return Watched(demand, test.concurrency, kept["ttft"], kept["tpot"], kept["e2e"], seconds, pace_then)

    return one


def same_ground(folder: Path, ground: Mapping[str, Any]) -> None:
    """Refuses to mix rounds of different machines or models in one result."""
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "about.json"
    if not about.exists():
        about.write_text(json.dumps(ground))
    elif json.loads(about.read_text()) != ground:
        raise SystemExit(f"{folder} was measured on other ground ({about.read_text()}): name another --kept")


def page(result: Mapping[str, Any]) -> str:
    """The result as one page without scripts or links."""
    found, wrong = result["calibration"], result["wrong_scheduler"]
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{found['errors'][name]:.1%}</td><td>{target:.0%}</td>"
        f"<td>{'holds' if found['errors'][name] <= target else 'fails'}</td><td>{wrong['errors'][name]:.1%}</td>"
        f"<td>{_share(result['errors_of_open_loops'].get(name))}</td>"
        f"<td>{result['at_the_speed_beside']['errors'][name]:.1%}</td></tr>"
        for name, target in found["targets"].items()
    )
    points = "".join(_row(point) for point in found["points"])
    plots = "".join(_plot(found["points"], *plot, targets=found["targets"]) for plot in PLOTS)
    verdict = {
        "holds": "Every mean error is within its target.",
        "fails": "Predictions cannot be trusted.",
        "inconclusive": f"Inconclusive: {result['repeats']} of {CLAIMED_REPEATS} repeats.",
    }[result["verdict"]]
    is_open_as_good = all(error <= found["targets"][name] for name, error in result["errors_of_open_loops"].items())
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Calibration of the capacity model</title>
<style>{STYLE}</style><h1>Calibration of the capacity model</h1>
<p>{escape(result["hardware"])}, {escape(result["date"])}, {result["repeats"]} repeats. {escape(result["note"])}</p>
<p><strong>{verdict}{"" if is_open_as_good else " Those of open loops alone are not all."}</strong></p>
<table><tr><th>mean error of</th><th>error</th><th>target</th><th></th><th>wrong scheduler</th>
<th>open loops alone</th><th>at the machine's speed beside each test</th></tr>{rows}</table>
<p>Rings were fitted, dots held out or saturated, dots of the other colour open loops. The band is the target.</p>
{_open_words(result["open_loops"])}
<div class="plots">{plots}</div>
<table><tr><th>load</th><th>in</th><th>out</th><th>TPOT ms</th><th>predicted</th><th>TTFT p95 s</th><th>predicted</th>
<th>E2E p95 s</th><th>predicted</th><th>requests/s</th><th>predicted</th></tr>{points}</table></html>
"""


def _open_words(loops: list[dict[str, Any]]) -> str:
    """What the open loops' errors would need, in a sentence."""
    longer = sorted(one["steps_longer_by"] for one in loops)
    added = sorted(one["a_tenth_longer_adds"] for one in loops)
    if not loops:
        return ""
    return (
        f"<p>Open loops agree with their predictions where every step's time is changed by {np.median(longer):+.0%} "
        f"(median of {len(loops)}; {longer[0]:+.0%} to {longer[-1]:+.0%}). A queue makes more of it: steps a tenth "
        f"longer make a token {added[0]:.0%} to {added[-1]:.0%} later.</p>"
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _row(point: Mapping[str, Any]) -> str:
    test = point["test"]
    load = f"{test['concurrency']} at once" if "concurrency" in test else f"{test['load_share']:.0%} of saturation"
    cells = [f"{escape(test['kind'].replace('_', ' '))}, {load}", str(test["input_tokens"]), str(test["output_tokens"])]
    for name, factor in (("tpot", 1000), ("ttft_p95", 1), ("e2e_p95", 1), ("requests_per_second", 1)):
        for kind in ("measured", "predicted"):
            value = point[kind][name]
            cells.append("–" if value is None else f"{value * factor:.3g}")
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _plot(points: list[Any], name: str, title: str, target: str, *, targets: Mapping[str, float]) -> str:
    known = [one for one in points if one["measured"][name] and one["predicted"][name]]
    values = [one[kind][name] for one in known for kind in ("measured", "predicted")]
    low, high = math.log(min(values) / 1.2), math.log(max(values) * 1.2)
    x, y = linear_scale(low, high, 44, 292), linear_scale(low, high, 260, 12)
    band = math.log(1 + targets[target])
    parts = [
        f'<polygon class="band" points="{x(low):.1f},{y(low + band):.1f} {x(high):.1f},{y(high + band):.1f} '
        f'{x(high):.1f},{y(high - band):.1f} {x(low):.1f},{y(low - band):.1f}"/>'
    ]
    for tick in logarithmic_ticks(math.exp(low), math.exp(high)):
        place = math.log(tick)
        parts.append(f'<line class="axis" x1="44" x2="292" y1="{y(place):.1f}" y2="{y(place):.1f}"/>')
        parts.append(f'<text class="label" x="40" y="{y(place) + 4:.1f}" text-anchor="end">{tick:g}</text>')
        parts.append(f'<text class="label" x="{x(place):.1f}" y="278" text-anchor="middle">{tick:g}</text>')
    for one in known:
        at, told = math.log(one["measured"][name]), math.log(one["predicted"][name])
        parts.append(f'<circle class="{one["test"]["kind"]}" cx="{x(at):.1f}" cy="{y(told):.1f}" r="4"/>')
    parts.append('<text class="label" x="168" y="294" text-anchor="middle">measured, predicted upwards</text>')
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{picture(parts, width=300, height=300, title=title)}</figure>"
    )


def _hardware() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    processor = names[0].split(":")[1].strip() if names else platform.processor()
    return f"{platform.machine()}, {os.cpu_count()} cores, {processor}"


if __name__ == "__main__":
    main()
