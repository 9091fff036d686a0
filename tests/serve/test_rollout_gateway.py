"""Two models behind one gateway: shares, names, who may change them, and the whole rollout against a real server."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from nexus_llm.deploy.rollout import Judgement, Limits, Plan, Rollout, turned_back
from nexus_llm.deploy.rollout_driver import Hands, RolloutFolder, drive
from nexus_llm.deploy.rollout_gateway import GatewayTarget
from nexus_llm.errors import DeploymentError, PreflightError, UsageError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.child import work
from nexus_llm.serve.engines.commands import engine_command
from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineRequest, EngineStep
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.engines.supervisor import EngineState, EngineSupervisor, SupervisorLimits
from nexus_llm.serve.engines.wire import LineSplitter, add_message, encode
from nexus_llm.serve.lanes import Lane, Lanes
from nexus_llm.serve.model_folder import ServedModel, read_model
from nexus_llm.serve.rollout import GREEN_RESTS, ModelRollout
from running_server import RunningServer, running_server

TOKEN = "the-servers-own"


def lanes(model: ServedModel, *, capacities: tuple[int, int] = (100, 50)) -> Lanes:
    made = []
    for capacity in capacities:
        engine = EngineSupervisor(EngineCommand("fake", {}))
        engine.state, engine.facts = EngineState.READY, EngineFacts("fake", capacity, 0.0)
        made.append(Lane(model, engine))
    found = Lanes(made[0])
    found.add_green(made[1])
    return found


def test_shares_are_kept_exactly_and_green_without_an_engine_gets_nothing(echo_model: ServedModel) -> None:
    async def work() -> None:
        both = lanes(echo_model)
        assert both.green is not None
        assert both.capacity_tokens() == 100
        both.share = 0.1
        assert both.capacity_tokens() == 50  # the smaller one must hold whatever is let in
        assert sum(both.pick() is both.green for _ in range(1000)) in (99, 100)
        assert both.live is both.blue
        both.share = 1.0
        assert all(both.pick() is both.green for _ in range(10))
        assert both.live is both.green
        both.green.engine.state = EngineState.FAILED
        assert both.pick() is both.blue
        assert both.live is both.blue

    asyncio.run(work())


class Noted(EngineSupervisor):
    """Writes down how much it was told to rest."""

    def __init__(self) -> None:
        super().__init__(EngineCommand("fake", {}))
        self.state, self.told = EngineState.READY, list[float]()

    def pause(self, share: float) -> None:
        self.told.append(share)


def test_green_rests_while_blue_answers_and_works_once_somebody_is_sent_to_it(echo_model: ServedModel) -> None:
    async def work() -> None:
        blue, green = Noted(), Noted()
        both = Lanes(Lane(echo_model, blue))

        async def load(_: Path) -> Lane:
            return Lane(echo_model, green)

        async def last(share: float) -> None:
            async with asyncio.timeout(10):
                while not green.told or green.told[-1] != share:
                    await asyncio.sleep(0.01)

        rollout = ModelRollout(both, load=load, drain_seconds=1)
        await rollout.load(Path("green"))
        await last(0.0)
        blue.open_generations = 1
        await last(GREEN_RESTS)
        both.share = 0.1
        await last(0.0)
        assert blue.told == []
        await rollout.close()

    asyncio.run(work())


class Burning:
    """An engine whose every step takes 20 ms of a core and gives a token; `add` says how many."""

    def __init__(self) -> None:
        self._left, self._id = 0, 0

    def add(self, request: EngineRequest) -> None:
        self._left, self._id = request.max_tokens, request.id

    def cancel(self, request_id: int) -> None: ...

    def step(self) -> EngineStep:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        self._left -= 1
        return EngineStep([EngineDelta(self._id, [1], [0.0], None if self._left else "length")], 0.0)


def test_an_engine_that_rests_takes_so_much_longer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        working = threading.Thread(target=work, args=(Burning(), theirs))
        working.start()

        def seconds(number: int, share: float) -> float:
            began, splitter = time.monotonic(), LineSplitter()
            request = EngineRequest(id=number, token_ids=[1], max_tokens=10)
            ours.sendall(encode({"pause": share}) + encode(add_message(request)))
            while not any(values[3] for one in splitter.feed(ours.recv(4096)) for values in one["step"]):
                pass
            return time.monotonic() - began

        share = 10.0 * (os.cpu_count() or 1)
        assert seconds(1, share) > 9 * 0.02 * 10  # the last rest comes after the last token
        assert seconds(2, 0.0) < seconds(3, share)
        ours.shutdown(socket.SHUT_RDWR)
        working.join(10)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_who_has_no_token_changes_nothing(echo_model: ServedModel, token: str | None) -> None:
    with running_server(echo_model, EngineCommand("fake", {}), admin_token=token) as server:
        for headers in ({}, {"authorization": "Bearer guessed"}, {"authorization": "Bearer None"}):
            for method in ("GET", "POST"):
                body = {"do": "keep", "colour": "blue"}
                answer = httpx.request(method, f"{server.url}/admin/rollout", json=body, headers=headers)
                assert answer.status_code == 403, answer.text
        with pytest.raises(UsageError, match="lets nobody in"):
            GatewayTarget(httpx.Client(base_url=server.url)).state()
        if token is not None:
            assert target(server).state()["blue"]["state"] == "ready"
    with pytest.raises(DeploymentError, match="no nexus serve answers"):
        target(server).state()


@pytest.fixture
def server(tiny_folder: Path) -> Iterator[RunningServer]:
    pytest.importorskip("xllamacpp", reason="the [llama] extra is not installed")
    recipe = ServeRecipe(engine="llama.cpp", kv_cache_gib=0.05)
    model = read_model(tiny_folder, name="tiny", engine="llama.cpp")
    command, limits = engine_command(model, recipe), SupervisorLimits()
    with running_server(model, command, recipe=recipe, limits=limits, drain_seconds=60, admin_token=TOKEN) as running:
        yield running


def target(server: RunningServer, **more: Any) -> GatewayTarget:
    client = httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {TOKEN}"})
    return GatewayTarget(client, **more)


def ask(server: RunningServer, model: str = "tiny") -> str:
    said = server.client().completions.create(model=model, prompt="a", max_tokens=2, temperature=0)
    return str(said.system_fingerprint)


def copied(tiny_folder: Path, place: Path, fingerprint: str) -> Path:
    made = Path(shutil.copytree(tiny_folder, place))
    (made / "manifest.json").write_text(f'{{"id": "{fingerprint}"}}')
    return made


def rolled_out(
    server: RunningServer, folder: RolloutFolder, plan: Plan, check: Any, at: GatewayTarget | None = None
) -> Rollout:
    hands = Hands(check, now=time.time, sleep=time.sleep, poll_seconds=0.02)
    return drive(folder.begin(plan, now=time.time()), at or target(server), folder, hands)


def test_a_model_is_rolled_out_and_back_before_and_after_blue_has_gone(
    server: RunningServer, tiny_folder: Path, tmp_path: Path
) -> None:
    first = copied(tiny_folder, tmp_path / "first", "the-first")
    second = copied(tiny_folder, tmp_path / "second", "the-second")
    folder = RolloutFolder(tmp_path / "rollouts")
    seen: dict[str, str] = {}

    def check(rollout: Rollout) -> Judgement:
        seen.update({colour: ask(server, f"tiny@{colour}") for colour in ("blue", "green")})
        seen["plain"] = ask(server)
        assert rollout.facts["warm"]["completion_tokens"] > 0
        return Judgement("pass", "-")

    plan = Plan("local", server.url, str(first), canary_share=0.5, canary_seconds=0, bake_seconds=0)
    assert rolled_out(server, folder, plan, check).status == "done"
    done = rolled_out(server, folder, replace(plan, model=str(second)), check)
    assert seen == {"blue": "the-first", "green": "the-second", "plain": "the-first"}
    assert done.facts["stage"]["blue"] == str(first)
    assert ask(server) == "the-second"
    hands = Hands(check, now=time.time, sleep=time.sleep, poll_seconds=0.02)
    back = drive(turned_back(done, Judgement("fail", "asked"), now=time.time()), target(server), folder, hands)
    assert back.facts["rollback"]["how"] == "blue was loaded again"
    assert ask(server) == "the-first"

    kept_warm = rolled_out(server, folder, replace(plan, model=str(second)), lambda _: Judgement("fail", "worse"))
    assert (kept_warm.status, kept_warm.reason) == ("rolled_back", "worse")
    assert kept_warm.facts["rollback"]["how"] == "blue was warm"
    assert ask(server) == "the-first"
    with pytest.raises(openai.NotFoundError):  # without green there are no colours
        ask(server, "tiny@green")


def test_the_share_counts_for_both_colours_and_named_requests_do_not(
    server: RunningServer, tiny_folder: Path, tmp_path: Path
) -> None:
    second = copied(tiny_folder, tmp_path / "second", "the-second")
    plan = Plan("local", server.url, str(second), canary_share=0.25)
    at = target(server)
    rollout = Rollout("0001", plan, facts={"stage": at.advance(Rollout("0001", plan)) or {}}, step="warm")
    deadline = time.monotonic() + 60
    while at.advance(rollout) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    at.advance(replace(rollout, step="canary"))
    said = [ask(server) for _ in range(20)]
    assert said.count("the-second") == 5
    ask(server, "tiny@green")
    health = at.health(rollout)
    assert health.green is not None
    assert health.blue is not None
    assert (health.green.requests, health.blue.requests, health.green.failures) == (5, 15, 0)
    assert health.green.ttft_p95_seconds
    at.advance(replace(rollout, step="shift"))
    assert server.client().models.list().data[0].id == "tiny"
    assert {ask(server) for _ in range(4)} == {"the-second"}
    assert at.turn_back(rollout) == {"how": "blue was warm"}
    assert "the-second" not in {ask(server) for _ in range(4)}


def test_what_cannot_be_loaded_is_turned_back_and_too_little_memory_is_said_before(
    server: RunningServer, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = RolloutFolder(tmp_path / "rollouts")
    plan = Plan("local", server.url, str(tmp_path / "empty"), limits=Limits(cold_start_seconds=60))
    done = rolled_out(server, folder, plan, None)
    assert done.status == "rolled_back"
    assert "config.json" in done.reason
    processes = tmp_path / "proc"
    (processes / str(server.engine_pid)).mkdir(parents=True)
    (processes / str(server.engine_pid) / "status").write_text("VmRSS:\t 3145728 kB\n")
    (processes / "meminfo").write_text("MemAvailable:   1048576 kB\n")
    with pytest.raises(PreflightError, match=r"holds 3\.0 GiB, and 1\.0 GiB are free"):
        rolled_out(server, folder, replace(plan, model=str(tiny_folder)), None, target(server, processes=processes))


def test_a_loading_that_breaks_unforeseen_is_told_by_its_place_to_who_waits(echo_model: ServedModel) -> None:
    async def breaks(_: Path) -> Lane:
        raise OSError(24, "Too many open files", "secret-name")

    async def failure() -> str | None:
        both = lanes(echo_model)
        both.keep("blue")
        rollout = ModelRollout(both, load=breaks, drain_seconds=0)
        rollout.begin_loading(Path())
        await asyncio.sleep(0.1)
        return rollout.failure

    said = asyncio.run(failure()) or ""
    assert said.startswith("OSError")
    assert "secret" not in said


def test_a_server_that_is_busy_is_not_called_absent() -> None:
    def late(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("", request=request)

    client = httpx.Client(base_url="http://here", transport=httpx.MockTransport(late))
    with pytest.raises(DeploymentError, match="did not answer /admin/rollout within 60 s"):
        GatewayTarget(client).state()
