"""A stand-in for `vllm serve`: the part of its HTTP behaviour that the vLLM engine relies on, without a model.

    python fake_vllm.py serve MODEL --host H --port P ... [--die-after-tokens N] [--worker FILE]

A worker is a process of its own that leaves its number in FILE, and is ended by a server that may end by itself.

It echoes prompts as the fake engine does. Its forms are those of vLLM 0.33.0's source (wheel on PyPI, 2026-11-22) and
of vLLM 0.32.0 at work on a CPU; `make proof-vllm` runs the same tests against that one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from nexus_llm.serve.engines.fake import FakeEngine, FakeSettings
from nexus_llm.serve.engines.port import EngineDelta, EngineRequest

BLOCK_SIZE = 16
BLOCKS = 4_096
VOCABULARY = 512


class FakeVllm:
    """Runs the fake engine's steps in the background and hands its deltas to HTTP streams."""

    def __init__(self, *, model: str, adapters: list[str], die_after_tokens: int | None) -> None:
        self.names = {model, *adapters}
        self.engine = FakeEngine.load(FakeSettings(capacity_tokens=BLOCK_SIZE * BLOCKS))[0]
        self.cache_share = 0.0
        self._queues: dict[int, asyncio.Queue[EngineDelta]] = {}
        self._ids = itertools.count(1)
        self._tokens_left = die_after_tokens
        self._runner: asyncio.Task[None] | None = None

    async def answer(self, body: dict[str, Any]) -> AsyncIterator[EngineDelta]:
        """The deltas of one request; leaving early cancels it."""
        request = EngineRequest(
            id=next(self._ids), token_ids=body["prompt"], max_tokens=body["max_tokens"],
            stop_token_ids=tuple(body["stop_token_ids"]), temperature=body["temperature"], seed=body["seed"] or 0,
            logprobs=body.get("logprobs") is not None,
        )  # fmt: skip
        self._runner = self._runner or asyncio.create_task(self._run())
        news = self._queues[request.id] = asyncio.Queue()
        self.engine.add(request)
        try:
            while True:
                delta = await news.get()
                yield delta
                if delta.finish:
                    return
        finally:
            self.engine.cancel(request.id)
            del self._queues[request.id]

    async def _run(self) -> None:
        while True:
            step = self.engine.step()
            self.cache_share = step.cache_share
            for delta in step.deltas:
                self._queues[delta.id].put_nowait(delta)
                if self._tokens_left is not None:
                    self._tokens_left -= len(delta.token_ids)
                    if self._tokens_left < 0:
                        os._exit(9)
            await asyncio.sleep(0.001)


def create_app(fake: FakeVllm) -> FastAPI:
    """The web application."""
    app = FastAPI()

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/metrics")
    async def metrics() -> Response:
        sizes = f'block_size="{BLOCK_SIZE}",kv_cache_size_tokens="{BLOCK_SIZE * BLOCKS}",num_gpu_blocks="{BLOCKS}"'
        cache = f"vllm:cache_config_info{{{sizes}}} 1.0"
        return PlainTextResponse(f'{cache}\nvllm:kv_cache_usage_perc{{engine="0"}} {fake.cache_share}\n')

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await request.json()
        complaint = _complaint(body, fake.names)
        if complaint is not None:
            status, message, is_late = complaint
            error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
            if is_late and body["stream"]:  # the head of the answer is out by then
                log_line = f"(APIServer pid=1) ERROR 11-23 12:00:00 [serving.py:500] vllm.BadRequestError: {message}"
                print(log_line, file=sys.stderr, flush=True)
                return PlainTextResponse(f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n")
            return JSONResponse({"error": error}, status_code=status)
        if body["stream"]:
            return StreamingResponse(_events(fake, body), media_type="text/event-stream")
        deltas = [delta async for delta in fake.answer(body)]
        whole = EngineDelta(
            0,
            [token for delta in deltas for token in delta.token_ids],
            [value for delta in deltas for value in delta.logprobs],
            deltas[-1].finish,
        )
        return JSONResponse(_document(whole, body))

    return app


def _complaint(body: dict[str, Any], names: set[str]) -> tuple[int, str, bool] | None:
    """Status, message, and whether it comes only once the stream has begun."""
    if body["model"] not in names:
        return 404, "the model does not exist", False
    if body["max_tokens"] < 1 or not body["prompt"]:
        return 400, "the prompt or max_tokens is out of range", False
    if body["stream"] and body.get("prompt_logprobs") is not None:
        return 400, "prompt_logprobs are not available when stream is true", False
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    if schema.get("type") == "nonsense" or schema.get("pattern") == "(":
        return 400, f"the grammar is not valid: {schema}", True
    if max([*body["prompt"], *body["stop_token_ids"]]) >= VOCABULARY:
        return 400, "a token id is out of vocabulary", True
    return None


async def _events(fake: FakeVllm, body: dict[str, Any]) -> AsyncIterator[str]:
    async for delta in fake.answer(body):
        yield f"data: {json.dumps(_document(delta, body))}\n\n"
    yield "data: [DONE]\n\n"


def _document(delta: EngineDelta, body: dict[str, Any]) -> dict[str, Any]:
    reason = delta.finish if delta.finish in ("stop", "length", None) else "abort"
    choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": reason, "logprobs": None}
    if body.get("return_token_ids"):
        choice["token_ids"] = delta.token_ids
    if body.get("logprobs") is not None:
        choice["logprobs"] = _logprobs(delta, body["logprobs"])
    if body.get("prompt_logprobs") is not None:
        # The token itself and, where more are asked for, the likeliest others; each place holds all of them.
        scored = [
            {
                str((token + n) % VOCABULARY): {"logprob": -1.0 - n, "rank": 1 + n}
                for n in range(body["prompt_logprobs"] or 1)
            }
            for token in body["prompt"][1:]
        ]
        choice["prompt_logprobs"] = [None, *scored]
    return {"id": "cmpl-0", "object": "text_completion", "model": body["model"], "choices": [choice]}


def _logprobs(delta: EngineDelta, count: int) -> dict[str, Any]:
    tops = [
        {f"token_id:{(token + n) % VOCABULARY}": value - n for n in range(max(1, count))}
        for token, value in zip(delta.token_ids, delta.logprobs, strict=True)
    ]
    names = [f"token_id:{token}" for token in delta.token_ids]
    return {"tokens": names, "token_logprobs": delta.logprobs, "top_logprobs": tops, "text_offset": []}


def main(arguments: list[str]) -> int:
    """Serves until it is killed."""
    import uvicorn

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--lora-modules", nargs="*", default=[])
    parser.add_argument("--die-after-tokens", type=int)
    parser.add_argument("--worker", type=Path)
    options, _others = parser.parse_known_args(arguments)
    adapters = [module.partition("=")[0] for module in options.lora_modules]
    fake = FakeVllm(model=options.served_model_name, adapters=adapters, die_after_tokens=options.die_after_tokens)
    with contextlib.ExitStack() as stack:
        if options.worker is not None:
            worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            stack.callback(worker.kill)
            options.worker.write_text(str(worker.pid))
        uvicorn.run(create_app(fake), host=options.host, port=options.port, log_level="error", access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
