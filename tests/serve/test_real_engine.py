"""The whole server with the real engine: a tiny random model in every run, the real small model in the long suite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.commands import engine_command
from nexus_llm.serve.engines.port import EngineRequest
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.model_folder import read_model
from running_server import RunningServer, running_server

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


def serve(folder: Path, name: str) -> Iterator[RunningServer]:
    pytest.importorskip("openvino_genai")
    model, recipe = read_model(folder, name=name), ServeRecipe(kv_cache_gib=0.5)
    with running_server(model, engine_command(model, recipe), recipe=recipe, limits=SupervisorLimits()) as server:
        yield server


@pytest.fixture(scope="module")
def tiny_server(tiny_folder: Path) -> Iterator[RunningServer]:
    yield from serve(tiny_folder, "tiny")


@pytest.fixture(scope="module")
def small_server(small_folder: Path) -> Iterator[RunningServer]:
    yield from serve(small_folder, "small")


def test_chat_stream_and_whole_answer_agree_on_the_real_engine(tiny_server: RunningServer) -> None:
    asked = {"model": "tiny", "messages": QUESTION, "temperature": 1.0, "seed": 4, "max_tokens": 20}
    whole = tiny_server.client().chat.completions.create(**asked)
    chunks = list(
        tiny_server.client().chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_the_server_sends_the_ids_that_the_template_makes(tiny_server: RunningServer) -> None:
    answer = tiny_server.client().chat.completions.create(model="tiny", messages=QUESTION, max_tokens=1)
    assert answer.usage.prompt_tokens == len(tiny_server.model.tokenizer.encode_prompt(QUESTION))


def test_thirty_two_real_streams_at_once(tiny_server: RunningServer) -> None:
    async def one(client: openai.AsyncOpenAI, seed: int) -> int:
        stream = await client.chat.completions.create(
            model="tiny", messages=QUESTION, stream=True, seed=seed, max_tokens=40, temperature=1.0,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
        )  # fmt: skip
        return [chunk.usage.completion_tokens async for chunk in stream if chunk.usage][-1]

    async def all_of_them() -> list[int]:
        async with tiny_server.async_client() as client:
            return await asyncio.gather(*(one(client, seed) for seed in range(32)))

    assert asyncio.run(all_of_them()) == [40] * 32


def test_unseeded_answers_differ(tiny_server: RunningServer) -> None:
    """The engine's own default seed is 0 for every request."""
    texts = {
        tiny_server.client()
        .chat.completions.create(model="tiny", messages=QUESTION, max_tokens=12, temperature=1.5)
        .choices[0]
        .message.content
        for _ in range(4)
    }
    assert len(texts) > 1


@pytest.mark.parametrize(
    "extreme",
    [
        {"temperature": 2.0}, {"temperature": 1e-9}, {"top_p": 1e-6}, {"presence_penalty": -2.0},
        {"frequency_penalty": 2.0}, {"seed": -1}, {"seed": 2**70},
        {"extra_body": {"top_k": 1}}, {"extra_body": {"top_k": 2**70}}, {"extra_body": {"repetition_penalty": 2.0}},
        {"extra_body": {"repetition_penalty": 0.001}},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_that_the_gateway_lets_through_the_engine_takes(
    tiny_server: RunningServer, extreme: dict[str, object]
) -> None:
    before = tiny_server.engine_pid
    answer = tiny_server.client().chat.completions.create(model="tiny", messages=QUESTION, max_tokens=3, **extreme)
    assert answer.usage.completion_tokens >= 1
    assert tiny_server.engine_pid == before


def test_a_request_that_the_engine_refuses_harms_nobody(tiny_server: RunningServer) -> None:
    """The gateway checks first; this goes behind its back."""
    from nexus_llm.serve.engines.supervisor import TokenStream

    background = tiny_server.background
    assert background.server is not None
    assert background.loop is not None
    engine = background.server.engine

    async def submit() -> str | None:
        stream = TokenStream()
        engine.submit(EngineRequest(id=10**9, token_ids=[1], max_tokens=1, presence_penalty=9.0), stream)
        return (await stream.next())[0].finish

    assert asyncio.run_coroutine_threadsafe(submit(), background.loop).result(10) == "refused"
    assert tiny_server.client().completions.create(model="tiny", prompt="x", max_tokens=1).choices


def test_the_metrics_carry_the_names_that_dashboards_know(tiny_server: RunningServer) -> None:
    tiny_server.client().completions.create(model="tiny", prompt="x", max_tokens=3)
    page = httpx.get(f"{tiny_server.url}/metrics").text
    for name in (
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total",
        "vllm:time_to_first_token_seconds_count", "vllm:inter_token_latency_seconds_count",
        "vllm:request_time_per_output_token_seconds_count", "vllm:e2e_request_latency_seconds_count",
        "vllm:request_queue_time_seconds_count", "vllm:request_prefill_time_seconds_count",
        "vllm:request_decode_time_seconds_count", "nexus_engine_up", "nexus_http_responses_total",
    ):  # fmt: skip
        assert f"\n{name}{{" in page, name


@pytest.mark.lifecycle
def test_the_real_small_model_knows_a_capital(small_server: RunningServer) -> None:
    client = small_server.client()
    answer = client.chat.completions.create(model="small", messages=QUESTION, temperature=0, max_tokens=40)
    assert "Paris" in answer.choices[0].message.content
    cut = client.chat.completions.create(model="small", messages=QUESTION, temperature=0, stop=["Par"])
    assert "Par" not in cut.choices[0].message.content
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.lifecycle
def test_a_real_engine_that_is_killed_comes_back(small_server: RunningServer) -> None:
    import os
    import signal

    os.kill(small_server.engine_pid, signal.SIGKILL)
    answer = small_server.client().chat.completions.create(
        model="small", messages=QUESTION, temperature=0, max_tokens=40
    )
    assert "Paris" in answer.choices[0].message.content
