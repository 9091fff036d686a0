"""`nexus bench`: a load test of any OpenAI-compatible server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import console_progress, print_json
from nexus_llm.cli.options import AsJson
from nexus_llm.errors import ServingError

if TYPE_CHECKING:
    from nexus_llm.serve.bench import RequestTimes


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command("bench")(bench)


def bench(
    url: Annotated[str, typer.Argument(help="The server's address, with or without /v1.", metavar="URL")],
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at any moment.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Requests in all.")] = 32,
    input_tokens: Annotated[int, typer.Option(min=1, help="Tokens in each prompt, template included.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=1, help="Tokens in each answer.")] = 64,
    model: Annotated[str | None, typer.Option(help="Which of the server's models [default: its first].")] = None,
    as_json: AsJson = False,
) -> int:
    """Measure throughput and latency of an OpenAI-compatible server. $OPENAI_API_KEY is sent where set."""
    import asyncio

    import httpx

    from nexus_llm.serve.bench import BenchPlan, run_bench
    from nexus_llm.serve.client import first_model

    key = os.environ.get("OPENAI_API_KEY", "none")
    with httpx.Client(timeout=10, headers={"authorization": f"Bearer {key}"}) as client:
        name = model or first_model(client, url)
    plan = BenchPlan(url, name, concurrency, requests, input_tokens, output_tokens, api_key=key)
    progress = console_progress()
    progress.start("bench", total=requests, unit="requests")

    def on_finished(times: RequestTimes) -> None:
        progress.advance(1, f"{times.error}" if times.error else "")

    result = asyncio.run(run_bench(plan, on_finished=on_finished))
    progress.finish()
    if sum(result["errors"].values()) == requests:
        raise ServingError(f"not one of {requests} requests was answered: {result['errors']}", fix="nexus chat URL")
    if as_json:
        print_json(result)
    else:
        _print_result(result)
    return 0


def _print_result(result: dict[str, Any]) -> None:
    print(f"{result['output_tokens_per_second']:.1f} tokens/s  {result['requests_per_second']:.2f} requests/s")
    print(f"{'seconds':<14} {'p50':>8} {'p95':>8} {'p99':>8}")
    for title, field in (("first token", "ttft"), ("between tokens", "inter_token"), ("whole answer", "e2e")):
        shown = [f"{value:8.3f}" if value is not None else "       –" for value in result[f"{field}_seconds"].values()]
        print(f"{title:<14} {' '.join(shown)}")
    if result["errors"]:
        print(f"errors {result['errors']}")
