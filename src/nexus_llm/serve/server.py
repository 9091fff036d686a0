"""Runs gateway and engine until somebody asks to stop, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nexus_llm.errors import NexusError, ServingError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.access.access import Access
from nexus_llm.serve.admission import Admission
from nexus_llm.serve.connections import WebServer, raise_descriptor_limit, web_server
from nexus_llm.serve.core_dumps import forbid_core_dumps
from nexus_llm.serve.dialects.sagemaker import create_sagemaker_app
from nexus_llm.serve.engines.commands import engine_command
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.engines.supervisor import EngineSupervisor, SupervisorLimits
from nexus_llm.serve.gateway import create_app
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.lanes import Lane, Lanes
from nexus_llm.serve.listening import address_of, bound_socket
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.model_folder import ServedModel, read_model
from nexus_llm.serve.relay import Relay, Upstream
from nexus_llm.serve.relay_engine import UpstreamEngine, relayed_model, upstream_of
from nexus_llm.serve.rollout import ModelRollout
from nexus_llm.serve.telemetry.telemetry import Telemetry

log = logging.getLogger("nexus_llm.serve.server")

DRAIN_POLL_SECONDS = 0.05
FLUSH_SECONDS = 2.0  # for answers that end with an error when draining takes too long
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    url: str
    model: str
    engine_pid: int
    load_seconds: float
    is_loopback: bool
    needs_keys: bool = False
    sagemaker_url: str | None = None


def run_server(
    folder: Path,
    *,
    recipe: ServeRecipe,
    model_name: str,
    host: str,
    port: int,
    drain_seconds: float = 30.0,
    on_ready: Callable[[ServerInfo], None] = lambda _info: None,
    upstream_key: str | None = None,
    database_password: Callable[[], str] | None = None,
    admin_token: str | None = None,
    find_folder: Callable[[], Path] | None = None,
) -> None:
    """Serves a packaged model folder until SIGINT or SIGTERM, then lets open answers finish for `drain_seconds`.

    A second signal stops at once. SIGHUP swaps the model for the one in `find_folder()`, without dropping an answer.
    `on_ready` is called when the model answers. `database_password` gives one for each connection. `admin_token` opens
    `/admin/rollout` where there are no keys.

    Raises:
        ServingError: the port is taken, the folder is no packaged model, or the engine cannot start or dies too often.
    """
    raise_descriptor_limit()
    forbid_core_dumps()
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(bound_socket(host, port))
        sagemaker = sockets.enter_context(bound_socket(host, recipe.sagemaker_port)) if recipe.sagemaker else None
        model, command, upstream = prepare(folder, name=model_name, recipe=recipe, upstream_key=upstream_key)

        async def serve() -> None:
            server = Server(
                model,
                command,
                recipe=recipe,
                drain_seconds=drain_seconds,
                upstream=upstream,
                folder=folder.resolve(),
            )
            server.database_password, server.admin_token = database_password, admin_token
            if find_folder is not None and upstream is None:
                server.swap_on_hangup(find_folder)
            await server.run(listener, sagemaker=sagemaker, on_ready=ready, handle_signals=True)

        def ready(info: ServerInfo) -> None:
            settle_memory()
            on_ready(info)

        run_loop(serve())


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs it on uvloop where that is installed (10 to 16 % less work a request), else on asyncio's own loop."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if importlib.util.find_spec("uvloop") is not None:
        loop_factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


def settle_memory() -> None:
    """Takes all that was loaded so far out of garbage collection, which stops every stream while it searches."""
    gc.collect()
    gc.freeze()


def prepare(
    folder: Path, *, name: str, recipe: ServeRecipe, upstream_key: str | None = None
) -> tuple[ServedModel, EngineCommand, Upstream | None]:
    """What a server needs to answer as the recipe says: the model, its engine, and the upstream that is one instead."""
    if recipe.engine == "openai":
        return relayed_model(name), EngineCommand("openai", {}), upstream_of(recipe, model=name, key=upstream_key)
    model = _read(folder, name=name, recipe=recipe)
    return model, engine_command(model, recipe), None


def _read(folder: Path, *, name: str, recipe: ServeRecipe) -> ServedModel:
    model = read_model(folder, name=name, engine=recipe.engine)
    return replace(model, adapters=tuple(recipe.adapters))


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Ends what still works for a client, such as one that does not read: what it used is to be counted."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Server:
    """One gateway with its engine. Make it inside a running event loop."""

    def __init__(
        self,
        model: ServedModel,
        command: EngineCommand,
        *,
        recipe: ServeRecipe,
        drain_seconds: float = 30.0,
        limits: SupervisorLimits | None = None,
        upstream: Upstream | None = None,
        folder: Path | None = None,
    ) -> None:
        engine = EngineSupervisor(command, limits=limits) if upstream is None else UpstreamEngine()
        self.database_password: Callable[[], str] | None = None
        self.admin_token: str | None = None
        """Opens `/admin/rollout` where there are no keys."""
        self._lanes = Lanes(Lane(model, engine, folder))
        # Longer than any answer may take: a swap has all the time that there is, and cuts nobody off.
        longest = recipe.max_waiting_seconds + recipe.timeouts.answer_seconds
        self._rollout = ModelRollout(self._lanes, load=self._load, drain_seconds=longest)
        self._upstream = upstream
        self._engine_name = command.name
        self._recipe = recipe
        self._drain_seconds = drain_seconds
        self._stop_requests = 0
        self._stop_wanted = asyncio.Event()
        self._limits = limits
        self._hangup: asyncio.Task[None] | None = None

    @property
    def engine(self) -> EngineSupervisor:
        """The one that speaks for the server."""
        return self._lanes.live.engine

    def request_stop(self) -> None:
        """Drains and stops; asked a second time, stops at once."""
        self._stop_requests += 1
        self._stop_wanted.set()

    async def swap(self, folder: Path) -> None:
        """See `ModelRollout.swap`."""
        await self._rollout.swap(folder)

    async def _load(self, folder: Path) -> Lane:
        # Reading a tokenizer takes a second: beside the event loop, or every stream would stop for it.
        name = self._lanes.blue.model.name
        model = await asyncio.to_thread(_read, folder, name=name, recipe=self._recipe)
        engine = EngineSupervisor(engine_command(model, self._recipe), limits=self._limits)
        try:
            await engine.start()
        except BaseException:
            await engine.stop()
            raise
        return Lane(model, engine, folder)

    def swap_on_hangup(self, find_folder: Callable[[], Path]) -> None:
        """Swaps at each SIGHUP. What goes wrong is logged, and the old model goes on."""

        async def swap() -> None:
            try:
                await self.swap(await asyncio.to_thread(find_folder))
            except NexusError as error:
                log.error("server.swap_failed", extra={"reason": error.what})

        def begin() -> None:
            self._hangup = asyncio.get_running_loop().create_task(swap())

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, begin)

    async def run(
        self,
        listener: socket.socket,
        *,
        sagemaker: socket.socket | None = None,
        on_ready: Callable[[ServerInfo], None],
        handle_signals: bool = False,
    ) -> None:
        """Serves on `listener`, and SageMaker on its own socket where there is one, until `request_stop`.

        Raises:
            ServingError: the engine cannot start or dies too often, or the keys' database cannot be used.
        """
        access = await asyncio.to_thread(self._open_access)
        generator = await self._make_generator()
        if handle_signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self.request_stop)
        rollout = None if self._upstream is not None else self._rollout
        app = create_app(generator, access, rollout=rollout, admin_token=self.admin_token)
        webs: list[tuple[WebServer, socket.socket]] = [(web_server(app, generator), listener)]
        if sagemaker is not None:
            webs.append((web_server(create_sagemaker_app(generator), generator), sagemaker))
        serving = [asyncio.create_task(web.serve(sockets=[place])) for web, place in webs]
        try:
            await self._until_stop_is_wanted(partial(self._info, listener, sagemaker), on_ready)
            await self._drain(generator)
        finally:
            if self._hangup is not None:
                self._hangup.cancel()
                await asyncio.gather(self._hangup, return_exceptions=True)
            await self._rollout.close()
            await self._lanes.blue.engine.stop()
            await self._flush(generator)
            for web, _ in webs:
                web.should_exit = web.force_exit = True
            await asyncio.gather(*serving)
            await _end([task for web, _ in webs for task in web.server_state.tasks])
            generator.close()
            await generator.telemetry.aclose()
            if access is not None:
                await asyncio.to_thread(access.close)

    def _open_access(self) -> Access | None:
        keys = self._recipe.keys
        return None if keys.database is None else Access.open(keys, password=self.database_password)

    async def _make_generator(self) -> Generator:
        loop = asyncio.get_running_loop()
        metrics = ServerMetrics(self._lanes.blue.model.name, engine=self._engine_name)
        recipe = self._recipe

        def capacity_tokens() -> int | None:
            tokens = self._lanes.capacity_tokens()  # a swap changes it; an upstream tells none
            return None if tokens is None else int(tokens * recipe.kv_overcommit)

        admission = Admission(
            max_running=recipe.max_running,
            max_waiting=recipe.max_waiting,
            clock=loop.time,
            max_waiting_tokens=recipe.max_waiting_tokens,
            max_waiting_seconds=recipe.max_waiting_seconds,
            capacity_tokens=capacity_tokens,
        )
        metrics.track(admission, lambda: self.engine)
        # Beside the event loop: the first text that is redacted compiles the search for personal data.
        opening = partial(Telemetry.open, self._recipe, model_name=self._lanes.blue.model.name, metrics=metrics)
        telemetry = await asyncio.to_thread(opening)
        telemetry.start(lambda: (admission.waiting, admission.running))
        relay = None
        if self._upstream is not None and isinstance(self.engine, UpstreamEngine):
            relay = Relay(
                self._upstream,
                served_name=self._lanes.blue.model.name,
                admission=admission,
                metrics=metrics,
                timeouts=recipe.timeouts,
            )
            self.engine.relay = relay
        return Generator(self._lanes, recipe, admission=admission, metrics=metrics, telemetry=telemetry, relay=relay)

    async def _until_stop_is_wanted(
        self, info: Callable[[float], ServerInfo], on_ready: Callable[[ServerInfo], None]
    ) -> None:
        stop = asyncio.create_task(self._stop_wanted.wait())
        start = asyncio.create_task(self.engine.start())
        try:
            first_news: set[asyncio.Future[Any]] = {start, stop}
            await asyncio.wait(first_news, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return
            facts = start.result()
            log.info("server.ready", extra={"load_seconds": round(facts.load_seconds, 2)})
            on_ready(info(facts.load_seconds))
            if not await self._stops_by_wish(stop):
                raise ServingError(
                    "the engine died too often and was given up",
                    fix="look for engine.died in the log above; less memory (serve.kv_cache_gib) may help",
                )
        finally:
            for task in (start, stop):
                task.cancel()
            await asyncio.gather(start, stop, return_exceptions=True)

    async def _stops_by_wish(self, stop: asyncio.Task[Any]) -> bool:
        """Waits for the end: True when somebody wants it, False when the engine in use was given up."""
        while True:
            self._lanes.changed.clear()
            changed = asyncio.create_task(self._lanes.changed.wait())
            given_up = {lane.engine.given_up for lane in self._lanes.all if not lane.engine.given_up.done()}
            ends: set[asyncio.Future[Any]] = {stop, changed, *given_up}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if stop.done() or self.engine.given_up.done():
                return stop.done()

    def _info(self, listener: socket.socket, sagemaker: socket.socket | None, load_seconds: float) -> ServerInfo:
        host = listener.getsockname()[0]
        return ServerInfo(
            url=address_of(listener),
            model=self._lanes.blue.model.name,
            engine_pid=self.engine.pid or 0,
            load_seconds=load_seconds,
            is_loopback=host in LOOPBACK,
            needs_keys=self._recipe.keys.database is not None and self._recipe.keys.require_keys,
            sagemaker_url=None if sagemaker is None else address_of(sagemaker),
        )

    async def _drain(self, generator: Generator) -> None:
        """Takes nothing new and waits for open answers to end."""
        generator.is_draining = True
        deadline = asyncio.get_running_loop().time() + self._drain_seconds
        log.info("server.draining", extra={"open": generator.open_answers})
        while generator.open_answers and self._stop_requests < 2:
            if asyncio.get_running_loop().time() > deadline:
                log.warning("server.drain_timeout", extra={"open": generator.open_answers})
                return
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    async def _flush(self, generator: Generator) -> None:
        """Lets answers that the engine's end cut off tell their clients so."""
        deadline = asyncio.get_running_loop().time() + FLUSH_SECONDS
        while generator.open_answers and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(DRAIN_POLL_SECONDS)
