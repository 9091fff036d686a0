"""`nexus bench` beside GuideLLM on one server, in turns, and what one core of our client can read.

    python benchmarks/load_test_agreement.py --model FOLDER --guidellm PATH [--rounds 3] [--note TEXT]

`FOLDER` has a tokenizer (`tokenizer.json` and its config); the server is our gateway with the fake engine at a fixed
time a step, so that what scatters is the clients and the machine. `PATH` is the command of a GuideLLM in an environment
of its own (`pip install guidellm`); it needs no network: the tokenizer is the folder's, the prompts are synthetic.

The words differ: GuideLLM's "inter token latency" is (last token − first token) ÷ (tokens − 1) of a request, which we
call time per output token; both count latencies of a closed loop from the sending of a request.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
STREAMS, REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS = 8, 64, 128, 64
STEP_SECONDS = 0.02
CAPACITY = {"streamed": (64, 400, 64), "short": (64, 1_000, 1)}  # (at once, requests, output tokens)
WORDS = " the way that people read and write about work and time in the world of today"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "NO_COLOR": "1"}
COMPARED = ("output_tokens_per_second", "ttft_p50", "tpot_p50", "e2e_p50", "e2e_p95")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--guidellm", default="guidellm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        _serve(arguments.model, arguments.serve)
        return
    with _server(arguments.model, 0.0) as url:
        capacity = {name: _capacity(url, *sizes) for name, sizes in CAPACITY.items()}
    ours, theirs = [], []
    with _server(arguments.model, STEP_SECONDS) as url:
        for number in range(arguments.rounds):
            turns = [lambda n=number: ours.append(_ours(url, seed=n)), lambda: theirs.append(_theirs(url, arguments))]
            for turn in turns if number % 2 else reversed(turns):
                turn()
            print(f"round {number + 1}: ours {ours[-1]}, GuideLLM {theirs[-1]}", file=sys.stderr, flush=True)
    _write(ours, theirs, capacity, arguments)


def _ours(url: str, *, seed: int) -> dict[str, float]:
    told = _bench(url, STREAMS, REQUESTS, OUTPUT_TOKENS, seed=seed)
    return {
        "output_tokens_per_second": told["output_tokens_per_second"],
        "ttft_p50": told["ttft_seconds"]["p50"],
        "tpot_p50": told["time_per_output_token_seconds"]["p50"],
        "e2e_p50": told["e2e_seconds"]["p50"],
        "e2e_p95": told["e2e_seconds"]["p95"],
        "input_tokens": told["tokens"]["input_per_request"]["p50"],
    }


def _bench(url: str, streams: int, requests: int, output_tokens: int, *, seed: int = 0) -> dict[str, Any]:
    sizes = ["--input-tokens", str(INPUT_TOKENS), "--output-tokens", str(output_tokens), "--seed", str(seed)]
    load = ["--concurrency", str(streams), "--requests", str(requests), "--json"]
    command = [sys.executable, "-m", "nexus_llm.cli", "bench", url, *load, *sizes]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert told["errors"] == {}, told["errors"]
    return told


def _theirs(url: str, arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "benchmarks.json"
        backend: dict[str, Any] = {
            "kind": "openai_http",
            "target": url,
            "model": "fake",
            "request_format": "/v1/chat/completions",
        }
        data = {"kind": "synthetic_text", "prompt_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
        tokenizer = {"kind": "huggingface_auto", "model": str(arguments.model.absolute())}
        options = {
            "--backend": backend, "--data": data, "--tokenizer": tokenizer,
            "--profile": {"kind": "concurrent", "streams": STREAMS},
            "--constraint": {"kind": "max_requests", "count": REQUESTS},
            "--output": {"kind": "json", "path": str(made)},
        }  # fmt: skip
        command = [arguments.guidellm, "run", "--disable-console"]
        for name, value in options.items():
            command += [name, json.dumps(value)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | OFFLINE
        subprocess.run(command, check=True, env=environment, cwd=folder)
        done = json.loads(made.read_text())["benchmarks"][0]
        counts = done["scheduler_metrics"]["requests_made"]
        assert counts["successful"] == REQUESTS, counts
        metrics = done["metrics"]
    seconds = {"ttft": 1000, "tpot": 1000, "e2e": 1}  # two of its three latencies are in milliseconds
    found = {"ttft": "time_to_first_token_ms", "tpot": "inter_token_latency_ms", "e2e": "request_latency"}
    told = {
        f"{name}_{quantile}": metrics[found[name]]["successful"]["percentiles"][quantile] / seconds[name]
        for name, quantile in (("ttft", "p50"), ("tpot", "p50"), ("e2e", "p50"), ("e2e", "p95"))
    }
    rate = metrics["output_tokens_per_second"]["successful"]["mean"]
    given = metrics["prompt_token_count"]["successful"]["percentiles"]["p50"]
    return {"output_tokens_per_second": round(rate, 2)} | {name: round(value, 5) for name, value in told.items()} | {
        "input_tokens": given
    }  # fmt: skip


def _capacity(url: str, streams: int, requests: int, output_tokens: int) -> dict[str, float]:
    """What the client did in each second of its own processor time: the server's speed does not matter to it."""
    told = _bench(url, streams, requests, output_tokens)
    cpu = told["client"]["core_share"] * told["seconds"]
    return {
        "output_tokens_per_answer": output_tokens,
        "tokens_per_client_cpu_second": round(told["tokens"]["output"] / cpu),
        "requests_per_client_cpu_second": round(told["requests"]["good"] / cpu),
        "client_core_share": told["client"]["core_share"],
    }


@contextlib.contextmanager
def _server(model: Path, step_seconds: float) -> Iterator[str]:
    command = [sys.executable, __file__, "--model", str(model), "--serve", str(step_seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(60)


def _serve(model: Path, step_seconds: float) -> None:
    """Our gateway with the fake engine, until standard input is closed."""
    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.recipe import ServeRecipe
    from nexus_llm.serve.background import background_server
    from nexus_llm.serve.engines.process import EngineCommand
    from nexus_llm.serve.model_folder import SamplingDefaults, ServedModel

    tokenizer = ChatTokenizer.load(model)
    served = ServedModel("fake", Path("none"), tokenizer, 8_192, (), SamplingDefaults(temperature=0.0), None)
    # Words, since both wait for the first text: the engine's own echo begins with a control token, which has none.
    settings = {"step_seconds": step_seconds, "script": tokenizer.encode_text(WORDS)}
    with background_server(served, EngineCommand("fake", settings), recipe=ServeRecipe()) as background:
        print(background.url, flush=True)
        sys.stdin.read()


def _write(
    ours: list[dict[str, float]],
    theirs: list[dict[str, float]],
    capacity: dict[str, Any],
    arguments: argparse.Namespace,
) -> None:
    from nexus_llm.cloud.local import processor_name

    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {processor_name()}",
        "versions": {"aiohttp": importlib.metadata.version("aiohttp"), "guidellm": _guidellm_version(arguments)},
        "note": arguments.note,
        "load": f"{STREAMS} streams, {REQUESTS} requests, {INPUT_TOKENS} tokens in, {OUTPUT_TOKENS} out; "
        f"fake engine, {STEP_SECONDS} s a step",
        "median_ratio_ours_to_guidellm": {
            name: round(statistics.median(a[name] / b[name] for a, b in zip(ours, theirs, strict=True)), 3)
            for name in COMPARED
        },
        "ours": ours,
        "guidellm": theirs,
        "client_capacity": capacity,
    }
    stem = f"load_test_agreement_{platform.machine()}-{os.cpu_count()}-cores_{result['date']}"
    (RESULTS / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"{stem}.md").write_text(_page(result))
    print(json.dumps(result, indent=2))


def _page(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"# `nexus bench` beside GuideLLM, {result['date']}",
        "",
        f"{result['hardware']}; {versions}. {result['load']}; {len(result['ours'])} rounds in turns on one server. "
        f"Ratios are medians of ours ÷ GuideLLM's. {result['note']}",
        "",
        "| what | ours ÷ GuideLLM |",
        "|---|---:|",
        *(f"| {name} | {ratio} |" for name, ratio in result["median_ratio_ours_to_guidellm"].items()),
        "",
        "| our client, all answers | a second of its own processor time | share of a core |",
        "|---|---:|---:|",
        *(
            f"| {name} | {one['tokens_per_client_cpu_second']} tokens | {one['client_core_share']} |"
            for name, one in result["client_capacity"].items()
        ),
        "",
        "Written by `benchmarks/load_test_agreement.py`, which says how it measures. Pieces that come several to a "
        "read cost the client less than one read a piece.",
    ]
    return "\n".join(lines) + "\n"


def _guidellm_version(arguments: argparse.Namespace) -> str:
    told = subprocess.run([arguments.guidellm, "--version"], check=True, capture_output=True, text=True).stdout
    return told.strip().rsplit(" ", 1)[-1]


if __name__ == "__main__":
    main()
