"""Engines that die, hang or do not start; clients that leave; servers that are full or stop. Nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from nexus_llm.errors import ServingError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.port import EngineDelta
from nexus_llm.serve.engines.supervisor import EngineDiedError, SupervisorLimits, TokenStream
from running_server import RunningServer, StartServer

ENDLESS: dict[str, Any] = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}
QUESTION = [{"role": "user", "content": "Say all of this again, please."}]


def eventually(claim: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.01)


def ask(server: RunningServer, **options: Any) -> openai.types.chat.ChatCompletion:
    return server.client().chat.completions.create(model="echo", messages=QUESTION, **options)


def metric(server: RunningServer, name: str) -> float:
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith(name + "{"):
            return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_an_engine_that_dies_before_the_first_token_is_replaced_and_nobody_notices(
    start: StartServer, tmp_path: Path
) -> None:
    marker = tmp_path / "die-once"
    server = start(end_token_id=2, die_at_step=1, die_marker=str(marker))
    marker.touch()
    assert ask(server).choices[0].message.content == "user\nSay all of this again, please."
    assert metric(server, "nexus_engine_restarts") == 1


def test_an_engine_that_dies_in_the_middle_of_a_stream_ends_it_with_an_error(
    start: StartServer, tmp_path: Path
) -> None:
    marker = tmp_path / "die-once"
    server = start(end_token_id=2, die_at_step=6, die_marker=str(marker), step_seconds=0.01)
    marker.touch()
    pieces = []
    with pytest.raises(openai.APIError, match="engine died"):
        for chunk in ask(server, stream=True):
            pieces.append(chunk.choices[0].delta.content or "")
    assert "".join(pieces) == "use"
    assert ask(server).choices[0].finish_reason == "stop"  # the next one is answered by the new engine


def test_a_whole_answer_that_the_engine_did_not_survive_is_a_500(start: StartServer, tmp_path: Path) -> None:
    marker = tmp_path / "die-once"
    server = start(end_token_id=2, die_at_step=6, die_marker=str(marker))
    marker.touch()
    with pytest.raises(openai.InternalServerError) as caught:
        ask(server)
    assert caught.value.code == "engine_died"


def test_a_request_that_kills_every_engine_is_tried_twice_only(start: StartServer) -> None:
    server = start(die_at_step=1)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(server)
    assert caught.value.code == "engine_died"


def test_an_engine_that_dies_too_often_ends_the_server_with_a_reason(start: StartServer) -> None:
    server = start(die_at_step=1, limits=SupervisorLimits(first_pause_seconds=0.01, max_deaths=1))
    with pytest.raises(openai.APIStatusError) as caught:
        ask(server)
    assert caught.value.status_code >= 500
    server.wait()
    assert isinstance(server.background.error, ServingError)
    assert "too often" in server.background.error.what


def test_a_killed_engine_is_started_again_while_the_server_stays_healthy(start: StartServer) -> None:
    server = start(end_token_id=2, limits=SupervisorLimits(first_pause_seconds=0.3))
    first = server.engine_pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
    assert httpx.get(f"{server.url}/health").status_code == 200
    eventually(lambda: httpx.get(f"{server.url}/ready").status_code == 200)
    assert server.engine_pid != first


def test_an_engine_starts_under_a_gateway_with_a_thousand_open_connections(start: StartServer) -> None:
    """`select` takes no descriptor above 1,023, and the engine inherits its socket's number."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most < 1_500:
        pytest.skip(f"this user may open {most} files at once; raise it with: ulimit -n 4096")
    with contextlib.ExitStack() as held:
        for _ in range(1_100):
            held.enter_context(Path(os.devnull).open())
        assert ask(start(end_token_id=2)).choices


def test_a_restart_that_finds_no_descriptor_is_tried_again(
    start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(end_token_id=2, limits=SupervisorLimits(first_pause_seconds=0.05, max_deaths=50))
    pid, (soft, hard) = server.engine_pid, resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: caplog.messages.count("engine.died") >= 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ask(server).choices[0].finish_reason == "stop"


def test_requests_that_come_while_the_engine_restarts_wait_for_it(start: StartServer) -> None:
    server = start(end_token_id=2, limits=SupervisorLimits(first_pause_seconds=0.3))
    os.kill(server.engine_pid, signal.SIGKILL)
    eventually(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
    assert ask(server).choices[0].finish_reason == "stop"


def test_an_engine_that_hangs_is_killed_and_replaced(start: StartServer) -> None:
    server = start(end_token_id=2, hang_at_step=3, limits=SupervisorLimits(first_pause_seconds=0.01, stall_seconds=0.5))
    with pytest.raises(openai.InternalServerError):
        ask(server)


def test_an_engine_that_cannot_load_is_reported_in_two_lines(start: StartServer) -> None:
    with pytest.raises(ServingError, match="cannot start: RuntimeError: told to fail") as caught:
        start(fail_to_load=True)
    assert caught.value.fix


def test_an_engine_that_never_gets_ready_is_given_up(start: StartServer) -> None:
    with pytest.raises(ServingError, match=r"not ready after 0\.3 s"):
        start(load_seconds=60, limits=SupervisorLimits(start_seconds=0.3))


def test_while_the_model_loads_the_server_is_alive_but_not_ready(start: StartServer) -> None:
    server = start(load_seconds=0.8, wait_until_ready=False)
    eventually(lambda: httpx.get(f"{server.url}/health").status_code == 200)
    assert httpx.get(f"{server.url}/ready").json() == {"status": "loading"}
    with pytest.raises(openai.InternalServerError) as caught:
        ask(server)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    eventually(lambda: httpx.get(f"{server.url}/ready").status_code == 200)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_frees_its_place_in_the_engine(start: StartServer, is_stream: bool) -> None:
    server = start(step_seconds=0.01)
    body = {"model": "echo", "messages": QUESTION, "stream": is_stream, **ENDLESS["extra_body"], "max_tokens": 1500}
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=0.3) as answer,
    ):
        for _ in answer.iter_bytes():
            if is_stream:
                time.sleep(0.1)
                raise httpx.ReadTimeout("left on purpose")
    eventually(lambda: metric(server, "vllm:num_requests_running") == 0)
    eventually(lambda: metric(server, "vllm:kv_cache_usage_perc") == 0, seconds=3)
    assert metric(server, "nexus_client_disconnects_total") == 1


def test_a_stop_string_frees_the_place_in_the_engine(start: StartServer) -> None:
    server = start(step_seconds=0.005)
    assert ask(server, stop="all", **ENDLESS).choices[0].message.content == "user\nSay "
    assert metric(server, "vllm:num_requests_running") == 0
    eventually(lambda: metric(server, "vllm:kv_cache_usage_perc") == 0, seconds=3)


def test_a_full_queue_answers_429_with_the_time_to_wait(start: StartServer) -> None:
    server = start(step_seconds=0.01, recipe=ServeRecipe(max_running=1, max_waiting=1))

    async def flood() -> list[object]:
        async with server.async_client() as client:
            asked = [client.chat.completions.create(model="echo", messages=QUESTION, max_tokens=20) for _ in range(6)]
            return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(flood())
    refused = [outcome for outcome in outcomes if isinstance(outcome, openai.RateLimitError)]
    assert len(refused) == 4
    assert refused[0].code == "queue_full"
    assert int(refused[0].response.headers["retry-after"]) >= 1
    assert metric(server, "vllm:num_requests_waiting") == 0


def test_waiting_requests_are_answered_first_come_first_served(start: StartServer) -> None:
    server = start(step_seconds=0.01, recipe=ServeRecipe(max_running=1))
    order: list[int] = []

    def one(number: int) -> None:
        server.client().completions.create(model="echo", prompt="x", max_tokens=30)
        order.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    with ask(server, stream=True, **ENDLESS) as running:
        next(iter(running))
        for number, thread in enumerate(threads):
            thread.start()
            eventually(lambda count=number + 1: metric(server, "vllm:num_requests_waiting") == count)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]


def test_draining_finishes_open_streams_and_refuses_new_ones(start: StartServer) -> None:
    server = start(end_token_id=2, step_seconds=0.02)
    pid = server.engine_pid
    stream = ask(server, stream=True)
    next(iter(stream))
    server.request_stop()
    eventually(lambda: httpx.get(f"{server.url}/ready").json() == {"status": "draining"})
    with pytest.raises(openai.InternalServerError) as caught:
        ask(server)
    assert caught.value.status_code == 503
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "stop"
    server.wait()
    assert server.background.error is None
    assert not is_alive(pid)


def test_a_stream_that_outlasts_the_drain_is_told_so(start: StartServer) -> None:
    server = start(step_seconds=0.02, drain_seconds=0.2)
    stream = ask(server, stream=True, **ENDLESS)
    next(iter(stream))
    server.request_stop()
    with pytest.raises(openai.APIError, match="engine is down"):
        list(stream)
    server.wait()


def test_a_second_stop_does_not_wait(start: StartServer) -> None:
    server = start(step_seconds=0.02, drain_seconds=60)
    stream = ask(server, stream=True, **ENDLESS)
    next(iter(stream))
    server.request_stop()
    server.request_stop()
    server.wait()


def test_no_engine_outlives_a_gateway_that_is_killed(tmp_path: Path) -> None:
    """`kill -9` gives the gateway no chance to say goodbye."""
    import subprocess
    import sys

    script = tmp_path / "gateway.py"
    script.write_text(
        "import asyncio\n"
        "from nexus_llm.serve.engines.process import EngineCommand\n"
        "from nexus_llm.serve.engines.supervisor import EngineSupervisor\n"
        "async def main():\n"
        "    engine = EngineSupervisor(EngineCommand('fake', {}))\n"
        "    await engine.start()\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    gateway = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert gateway.stdout is not None
    engine = int(gateway.stdout.readline())
    assert is_alive(engine)
    gateway.kill()
    gateway.wait()
    eventually(lambda: not is_alive(engine), seconds=5)


def test_a_stalled_reader_does_not_stop_the_others(start: StartServer) -> None:
    server = start(step_seconds=0.001, recipe=ServeRecipe())
    body = {"model": "echo", "prompt": "x" * 50, "stream": True, "max_tokens": 1900}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as slow:
        lines = slow.iter_lines()
        next(lines)  # and then reads nothing while others are served
        done = threading.Event()

        def other() -> None:
            server.client().completions.create(model="echo", prompt="abc", max_tokens=100)
            done.set()

        threading.Thread(target=other).start()
        assert done.wait(20)


def spelled(stream: str) -> str:
    """The text of a streamed answer."""
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_a_hundred_streams_survive_the_engines_death_or_are_told(start: StartServer) -> None:
    """`kill -9` under load: who has a part of an answer is told, who has nothing yet never hears of it."""
    recipe = ServeRecipe(max_running=40, max_waiting=100)
    server = start(end_token_id=2, step_seconds=0.1, recipe=recipe, limits=SupervisorLimits(first_pause_seconds=0.2))
    body = {"model": "echo", "messages": QUESTION, "stream": True}
    begun = threading.Event()

    async def one(web: httpx.AsyncClient) -> tuple[int, str]:
        pieces = []
        async with web.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                pieces.append(line)
                begun.set()
        return answer.status_code, "\n".join(pieces)

    async def crowd() -> list[tuple[int, str]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=120, limits=limits) as web:
            streams = [asyncio.create_task(one(web)) for _ in range(100)]
            while not begun.is_set():
                await asyncio.sleep(0.01)
            os.kill(server.engine_pid, signal.SIGKILL)
            return await asyncio.gather(*streams)

    outcomes = asyncio.run(crowd())
    whole = [text for _, text in outcomes if text.rstrip().endswith("data: [DONE]")]
    told = [text for _, text in outcomes if "engine_died" in text]
    assert {status for status, _ in outcomes} == {200}, "nobody without a token gets an error"
    assert len(whole) + len(told) == 100, "none ends without a word"
    assert 60 <= len(whole) < 100, "those that waited are answered by the next engine"
    assert {spelled(text) for text in whole} == {"user\nSay all of this again, please."}
    assert metric(server, "vllm:num_requests_running") == 0
    assert ask(server).choices[0].finish_reason == "stop"


def test_an_end_that_comes_together_with_the_last_tokens_is_not_lost() -> None:
    """Both before the reader wakes, as on a busy machine: it would have waited for ever."""

    async def read() -> None:
        stream = TokenStream()
        reading = asyncio.create_task(stream.next())
        await asyncio.sleep(0)
        stream.push(EngineDelta(1, [5]))
        stream.fail(EngineDiedError())
        assert [delta.token_ids for delta in await reading] == [[5]]
        with pytest.raises(EngineDiedError):
            await asyncio.wait_for(stream.next(), 10)

    asyncio.run(read())
