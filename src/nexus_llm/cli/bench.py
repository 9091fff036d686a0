"""`nexus bench`: a load test of any OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from nexus_llm.cli.console import console_progress, print_json
from nexus_llm.cli.options import AsJson
from nexus_llm.errors import GateFailedError, GateInconclusiveError, NexusError, ServingError, UsageError

if TYPE_CHECKING:
    from nexus_llm.serve.bench.plan import BenchPlan, Lengths
    from nexus_llm.serve.bench.run import Measured, Progress

CONCURRENCY, REQUESTS = 8, 32
INTERRUPTED = 130  # 128 + SIGINT, as shells count
_TEXT = typer.Option(help="Tokens in each prompt, template included: 128, or 64-512 [default: the trace's, else 128].")
_ANSWER = typer.Option(help="Tokens in each answer: 64, or 16-256 [default: the trace's, else 64].")

_GOODPUT = typer.Option(min=0, max=1, help="Exit 3 where a smaller share of the requests met --slo.")


def bench(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The server's address, with or without /v1.", metavar="URL")],
    concurrency: Annotated[int | None, typer.Option(min=1, help="Closed loop: requests at once [default: 8].")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Requests in all [default: 32, closed loop].")] = None,
    rate: Annotated[float | None, typer.Option(help="Open loop: Poisson arrivals a second.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds in which they arrive, with --rate.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Open loop: arrivals of an Azure or Mooncake trace.")] = None,
    speed: Annotated[float | None, typer.Option(help="Play the trace so many times as fast.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of the trace.")] = None,
    input_tokens: Annotated[str | None, _TEXT] = None,
    output_tokens: Annotated[str | None, _ANSWER] = None,
    max_input_tokens: Annotated[int | None, typer.Option(min=1, help="Cut the trace's longer prompts.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(min=1, help="Cut the trace's longer answers.")] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before the first that counts.")] = 0,
    max_seconds: Annotated[float | None, typer.Option(help="End after so long; the rest is unfinished.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until one request is given up.")] = 600.0,
    slo: Annotated[str | None, typer.Option(help="Goodput: ttft=0.5,itl=0.05,stall=1,tpot=0.05,e2e=10.")] = None,
    min_goodput: Annotated[float | None, _GOODPUT] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again after 429 and 503, when retry-after says.")] = False,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Open loop: requests at once, at most.")] = 4096,
    seed: Annotated[int, typer.Option(help="Of arrivals, lengths and prompts.")] = 0,
    model: Annotated[str | None, typer.Option(help="Which of the server's models [default: its first].")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page about it.", metavar="FILE.html")] = None,
    records: Annotated[Path | None, typer.Option(help="Write one line a request.", metavar="FILE.jsonl")] = None,
    as_json: AsJson = False,
) -> int:
    """Measure throughput and latency of an OpenAI-compatible server. $OPENAI_API_KEY is sent where set.

    Ctrl-C ends it and prints what was measured so far.
    """
    _refuse_what_does_not_fit(context.params)
    from nexus_llm.serve.bench.plan import BenchPlan, Slo

    plan = BenchPlan(
        url=url,
        model="",
        load="poisson" if rate else "trace" if trace else "closed",
        concurrency=concurrency or CONCURRENCY,
        requests=limit if trace else requests or (None if rate else REQUESTS),
        rate_per_second=rate,
        duration_seconds=duration,
        trace=trace,
        trace_speed=speed or 1.0,
        input_tokens=_lengths(input_tokens, "--input-tokens"),
        output_tokens=_lengths(output_tokens, "--output-tokens"),
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        warmup=warmup,
        max_seconds=max_seconds,
        timeout_seconds=timeout,
        max_in_flight=max_in_flight,
        retry=retry,
        slo=Slo.parse(slo) if slo else Slo(),
        seed=seed,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    document = _measure_and_tell(plan, model, report=report, records=records, as_json=as_json)
    return _exit_code(document, min_goodput, as_json=as_json)


def _exit_code(document: Mapping[str, Any], min_goodput: float | None, *, as_json: bool) -> int:
    if document["stopped_early"] == "interrupted":
        return INTERRUPTED
    missed = None if min_goodput is None else missed_objective(document, min_share=min_goodput)
    if missed is not None and not as_json:
        raise missed
    return missed.exit_code if missed else 0


def missed_objective(document: Mapping[str, Any], *, min_share: float) -> NexusError | None:
    """What speaks against the measured server; None where at least `min_share` of the requests met the SLO."""
    if not document["is_valid"]:
        reasons = "; ".join(document["not_valid_because"])
        return GateInconclusiveError(
            f"the load test says nothing: {reasons}", fix="run it from a machine with free cores"
        )
    share = document["goodput"]["share"] or 0.0
    if share >= min_share:
        return None
    return GateFailedError(
        f"{share:.1%} of the requests met the SLO, at least {min_share:.1%} are wanted",
        fix="look at what was late: --records FILE.jsonl; then a smaller --rate, more replicas, or docs/performance.md",
    )


def _lengths(text: str | None, option: str) -> Lengths | None:
    from nexus_llm.serve.bench.plan import Lengths

    return Lengths.parse(text, option=option) if text else None


def _refuse_what_does_not_fit(given: Mapping[str, Any]) -> None:
    """Options that would be ignored, numbers that mean nothing, and an address with a password in it."""

    def refuse(what: str, fix: str) -> None:
        raise UsageError(what, fix=fix)

    for name in ("rate", "duration", "speed", "max_seconds", "timeout"):
        value = given[name]
        if value is not None and not 0 < value < float("inf"):
            refuse(f"--{name.replace('_', '-')} {value:g} is no positive number", "give one above 0")
    loop = "--trace" if given["trace"] else "--rate" if given["rate"] else "closed loop"
    belongs = {
        "concurrency": ("closed loop",), "requests": ("closed loop", "--rate"), "duration": ("--rate",),
        "rate": ("--rate",), "speed": ("--trace",), "limit": ("--trace",), "max_input_tokens": ("--trace",),
        "max_output_tokens": ("--trace",),
    }  # fmt: skip
    for name, loops in belongs.items():
        if given[name] is not None and loop not in loops:
            refuse(f"--{name.replace('_', '-')} means nothing with {loop}", f"leave it out, or use {loops[0]}")
    if loop == "--rate" and given["duration"] is None and given["requests"] is None:
        refuse("--rate alone never ends", "say for how long: --duration 60, or how many: --requests 500")
    if given["min_goodput"] is not None and given["slo"] is None:
        refuse("--min-goodput asks for a share of what met the SLO", "say which: --slo ttft=2,e2e=30")
    if "@" in urlsplit(given["url"]).netloc:
        refuse("the address has a name or password in it", "set $OPENAI_API_KEY instead")
    for path in (given["report"], given["records"]):
        if path is not None and not path.absolute().parent.is_dir():
            refuse(f"there is no folder for {path}", "make it first, or give another place")


def _measure_and_tell(
    plan: BenchPlan, model: str | None, *, report: Path | None, records: Path | None, as_json: bool
) -> Mapping[str, Any]:
    import asyncio
    import dataclasses

    import httpx

    from nexus_llm.serve.bench.summary import summary
    from nexus_llm.serve.client import first_model

    with httpx.Client(timeout=10, headers={"authorization": f"Bearer {plan.api_key}"}) as client:
        plan = dataclasses.replace(plan, model=model or first_model(client, plan.url))
    measured = asyncio.run(_run(plan))
    document = summary(measured, environment=_environment())
    if records is not None:
        _write_records(records, measured)
    if report is not None:
        from nexus_llm.serve.bench.report import report_html

        report.write_text(report_html(document), encoding="utf-8")
        print(f"wrote {report}", file=sys.stderr)
    if not document["requests"]["good"] and document["requests"]["failed"]:
        raise ServingError(
            f"not one of {document['requests']['sent']} requests was answered: {document['errors']}",
            fix="nexus chat URL",
        )
    if as_json:
        print_json(document)
    else:
        print_result(document)
    return document


async def _run(plan: BenchPlan) -> Measured:
    """The test; the first Ctrl-C or SIGTERM ends it in order, the second at once."""
    import asyncio

    from nexus_llm.serve.bench.run import run_bench

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)
        print(f"{signal.Signals(number).name}: ending with what was measured so far", file=sys.stderr, flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    shown, before = console_progress(), -1

    def tell(now: Progress) -> None:
        nonlocal before
        if before < 0:
            shown.start("bench", total=now.planned, unit="requests")
        failed = f", {now.failed} failed" if now.failed else ""
        shown.advance(now.finished - max(before, 0), f"{now.running} running, {now.tokens:,} tokens{failed}")
        before = now.finished

    try:
        return await run_bench(plan, stop=stop, on_progress=tell)
    finally:
        if before >= 0:
            shown.finish()


def _environment() -> dict[str, Any]:
    """The client's machine. No path and no command line: a report is shown around."""
    from datetime import UTC, datetime

    from nexus_llm.cloud.local import provenance

    known = provenance([])
    wanted = ("version", "git_commit", "python", "platform", "processor", "cores", "memory_bytes")
    return {name: known[name] for name in wanted} | {"ended_at": datetime.now(UTC).isoformat(timespec="seconds")}


def _write_records(path: Path, measured: Measured) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for row in measured.records.rows():
            lines.write(json.dumps(row) + "\n")


def print_result(document: Mapping[str, Any]) -> None:
    """The table on stdout."""
    from nexus_llm.serve.bench.report import LATENCIES, load_words

    requests, tokens = document["requests"], document["tokens"]
    print(f"{load_words(document['plan'])}: {requests['good']} of {requests['sent']} requests answered")
    print(
        f"{document['output_tokens_per_second']:.1f} tokens/s  {document['requests_per_second']:.2f} requests/s  "
        f"in {document['seconds']:.1f} s"
    )
    print(f"{'seconds':<18} {'p50':>9} {'p90':>9} {'p95':>9} {'p99':>9}")
    for field, title in LATENCIES:
        cells = (document[field][name] for name in ("p50", "p90", "p95", "p99"))
        print(f"{title.lower():<18} {' '.join('        –' if cell is None else f'{cell:9.4f}' for cell in cells)}")
    if document["goodput"]:
        goodput = document["goodput"]
        print(f"goodput {goodput['requests_per_second']:.2f} requests/s ({goodput['share'] or 0:.1%} met the SLO)")
    if tokens["counted_by"] in ("pieces", "mixed"):
        print("tokens are counted as pieces of text where the server sends no usage")
    if document["sending"]:
        sending, latest = document["sending"], document["sending"]["lateness_seconds"]["p99"]
        print(f"sent late: {sending['late']} ({sending['late_share']:.2%}), p99 {latest:.4f} s")
    if document["errors"] or requests["unfinished"]:
        print(f"errors {document['errors']}, unfinished {requests['unfinished']}")
    for reason in document["not_valid_because"]:
        print(f"not valid: {reason}")
