"""`nexus cost calibrate`: measures a running server, fits an engine to half of it, and predicts the other half."""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, DryRun
from nexus_llm.errors import ServingError, UsageError

if TYPE_CHECKING:
    from nexus_llm.cost.capacity.calibrate import Observed, Statistics
    from nexus_llm.cost.capacity.calibration import Calibration, Experiment, LoadTest, Measure
    from nexus_llm.cost.quantities import EngineLimits
    from nexus_llm.serve.bench.plan import BenchPlan
    from nexus_llm.serve.bench.run import Measured

UNBOUNDED_CACHE_TOKENS = 10_000_000
_LIST = "Comma-separated"
_ANSWERS = f"{_LIST}: tokens of an answer, of the grid; drawn from half to 1.5 times that."


def register(group: typer.Typer) -> None:
    """Adds the verb to `nexus cost`."""
    group.command("calibrate")(calibrate)


def calibrate(
    url: Annotated[str, typer.Argument(help="The server's address, with or without /v1.", metavar="URL")],
    concurrency: Annotated[str, typer.Option(help=f"{_LIST}: requests at once, of the grid.")] = "1,4,16,32",
    input_tokens: Annotated[str, typer.Option(help=f"{_LIST}: tokens of a prompt, of the grid.")] = "32,128,512",
    output_tokens: Annotated[str, typer.Option(help=_ANSWERS)] = "16,64",
    repeats: Annotated[int, typer.Option(min=1, help="Measure every point so often; medians count.")] = 1,
    open_requests: Annotated[int, typer.Option(min=20, help="Requests of an open loop at full load.")] = 150,
    max_sequences: Annotated[
        int | None, typer.Option(min=1, help="Sequences that the engine runs at once [default: largest --concurrency].")
    ] = None,
    max_batched_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens in one step [default: found by fitting].")
    ] = None,
    kv_cache_tokens: Annotated[int | None, typer.Option(min=1, help="Size of the cache [default: never full].")] = None,
    kv_block_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of one block of it [default: 16].")] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals and prompts.")] = 0,
    model: Annotated[str | None, typer.Option(help="Which of the server's models [default: its first].")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result, for plans.", metavar="FILE.json")] = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> int:
    """Find a server's step time and limits by measuring it, and say how far predictions made with them are off.

    Half of the grid is fitted; the other half, the saturated server and open loops at 30, 60, 80 and 95 % of it are
    predicted. The exit code is 0 whatever the errors are: read `is_trustworthy`. $OPENAI_API_KEY is sent where set.
    """
    from nexus_llm.cost.capacity import calibration

    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder for {out}", fix="make it first, or give another place")
    levels = _numbers(concurrency, "--concurrency")
    sequences = max_sequences or max(levels)
    experiment = calibration.Experiment(
        concurrencies=levels,
        input_tokens=_numbers(input_tokens, "--input-tokens"),
        output_tokens=_numbers(output_tokens, "--output-tokens"),
        open_requests=open_requests,
        saturation_concurrency=sequences,
        repeats=repeats,
        seed=seed,
    )
    if dry_run:
        return _show_plan(experiment, as_json=as_json)
    measure = server_measure(url, model, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    asked = {
        "kv_cache_tokens": kv_cache_tokens,
        "max_sequences": max_sequences,
        "max_batched_tokens": max_batched_tokens,
        "kv_block_tokens": kv_block_tokens,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    found = calibration.calibrate(
        measure,
        experiment,
        _limits(sequences, given),
        given=tuple(given),
        source=f"nexus cost calibrate, {repeats} repeats",
        tell=_tell,
    )
    return _hand_over(found, out, as_json=as_json)


def _limits(sequences: int, given: dict[str, int]) -> EngineLimits:
    """What is given, and for the rest what the grid never reaches."""
    from nexus_llm.cost.quantities import EngineLimits

    assumed: dict[str, Any] = {
        "kv_cache_tokens": UNBOUNDED_CACHE_TOKENS,
        "max_sequences": sequences,
        "max_batched_tokens": max(512, sequences),
        "kv_block_tokens": 16,
    }
    return EngineLimits(**(assumed | given))


def _hand_over(found: Calibration, out: Path | None, *, as_json: bool) -> int:
    document = found.as_json()
    if out is not None:
        out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {out}", file=sys.stderr)
    if as_json:
        print_json(document)
    else:
        _print_result(found)
    return 0


def server_measure(url: str, model: str | None, *, api_key: str) -> Measure:
    """A function that runs one load test against a server.

    Raises:
        ServingError: nothing answers there; and when called, where a request fails or the client could not keep up.
        UsageError: the address has a password in it.
    """
    import asyncio
    from urllib.parse import urlsplit

    import httpx

    from nexus_llm.serve.bench.run import run_bench
    from nexus_llm.serve.client import first_model

    if "@" in urlsplit(url).netloc:
        raise UsageError("the address has a name or password in it", fix="set $OPENAI_API_KEY instead")
    with httpx.Client(timeout=10, headers={"authorization": f"Bearer {api_key}"}) as client:
        name = model or first_model(client, url)

    async def one(plan: BenchPlan) -> Measured:
        return await run_bench(plan, stop=asyncio.Event())

    return lambda test: observed(asyncio.run(one(_plan(test, url, name, api_key))))


def observed(measured: Measured) -> Observed:
    """A finished load test as the capacity model reads it: tokens as the server counted them.

    Raises:
        ServingError: a request failed, or the client could not keep up, so that it measured itself.
    """
    import numpy as np

    from nexus_llm.cost.capacity.calibrate import Observed
    from nexus_llm.cost.capacity.simulate import Demand
    from nexus_llm.serve.bench.summary import summary

    told, records = summary(measured), measured.records
    if told["requests"]["good"] != told["requests"]["planned"]:
        raise ServingError(
            f"only {told['requests']['good']} of {told['requests']['planned']} requests were answered: "
            f"{told['errors']}",
            fix="less --concurrency, shorter --input-tokens and --output-tokens, or look into the server's log",
        )
    if not told["is_valid"]:
        raise ServingError(
            f"the load test measured its own client: {told['not_valid_because'][0]}",
            fix="run it from a machine with free cores",
        )
    order = np.argsort(records.counts("number"), kind="stable")
    seconds = {name: records.seconds(name)[order] for name in ("scheduled", "first", "last", "ended")}
    given, said = records.counts("input_tokens")[order], records.counts("output_tokens")[order]
    said = np.where(said > 0, said, records.counts("pieces")[order])
    if (given < 1).any():
        raise ServingError("the server does not say how many tokens a prompt has", fix="a server that sends usage")
    scheduled = seconds["scheduled"]
    gaps = np.where(said > 1, said - 1, np.nan)
    return Observed(
        Demand(scheduled - scheduled.min(), given, said),
        measured.plan.concurrency if measured.plan.load == "closed" else None,
        seconds["first"] - scheduled,
        (seconds["last"] - seconds["first"]) / gaps,
        seconds["ended"] - scheduled,
        float(seconds["ended"].max() - scheduled.min()),
    )


def _plan(test: LoadTest, url: str, model: str, api_key: str) -> BenchPlan:
    from nexus_llm.serve.bench.plan import BenchPlan, Lengths

    return BenchPlan(
        url=url,
        model=model,
        load="closed" if test.concurrency else "poisson",
        concurrency=test.concurrency or 8,
        requests=test.requests,
        rate_per_second=test.requests_per_second,
        input_tokens=Lengths(test.input_tokens, test.input_tokens),
        output_tokens=Lengths(*test.answer_ends),
        warmup=2,
        # A seed of its own for each test: prompts of one seed begin alike, and a prefix cache would find them again.
        seed=zlib.crc32(repr(test).encode()),
        api_key=api_key,
    )


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r} is no list of numbers", fix=f"for example {option} 1,4,16")
    return tuple(sorted({int(part) for part in parts}))


def _show_plan(experiment: Experiment, *, as_json: bool) -> int:
    to_fit, held_out = experiment.grid()
    open_loops = [experiment.open(share, saturation=1.0) for share in experiment.load_shares]
    tests = [*to_fit, *held_out, experiment.saturated(), *open_loops]
    planned = {
        "load_tests": experiment.repeats * len(tests),
        "requests": experiment.repeats * sum(test.requests for test in tests),
    }
    if as_json:
        print_json(planned)
    else:
        print(
            f"{len(to_fit)} points to fit, {len(held_out)} to predict, the saturated server, {len(open_loops)} open "
            f"loops, {experiment.repeats} times: {planned['requests']:,} requests"
        )
    return 0


def _tell(test: LoadTest, measured: Statistics) -> None:
    load = f"{test.concurrency} at once" if test.concurrency else f"{test.requests_per_second:.2f} requests/s"
    print(
        f"{test.kind}: {load}, {test.input_tokens} in, {test.output_tokens} out: "
        f"{1000 * measured['tpot']:.1f} ms a token, first after {measured['ttft']:.3f} s, "
        f"{measured['requests_per_second']:.2f} requests/s",
        file=sys.stderr,
        flush=True,
    )


def _print_result(found: Calibration) -> None:
    from nexus_llm.cost.capacity.calibration import TARGETS

    step, limits = found.engine.step_time, found.engine.limits
    print(
        f"a step takes {1000 * step.fixed_seconds:.3g} ms + {1e6 * step.seconds_per_prefill_token:.3g} µs a prompt "
        f"token + {1e6 * step.seconds_per_sequence:.3g} µs a sequence + {1e9 * step.seconds_per_context_token:.3g} ns "
        f"a cached token + {1000 * step.seconds_per_batch_change:.3g} ms where its batch is not that of the step before"
    )
    values: dict[str, Any] = {name: getattr(limits, name) for name in found.limits_found_by}
    print("; ".join(f"{name} {values[name]} ({how})" for name, how in found.limits_found_by.items()))
    for name, error in found.errors.items():
        verdict = "holds" if error <= TARGETS[name] else "FAILS"
        print(f"{name:<11} mean error {error:6.1%}  target {TARGETS[name]:.0%}  {verdict}")
    print("predictions can be trusted" if found.is_trustworthy else "do not trust predictions made with this")
