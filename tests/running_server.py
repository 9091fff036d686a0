"""Real servers on free loopback ports, each in a thread of its own, for tests and benchmarks of serving."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai

from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.server import Server, ServerInfo, bound_socket

START_SECONDS = 60
QUICK_LIMITS = SupervisorLimits(first_pause_seconds=0.05, max_deaths=3, stop_seconds=2)


@dataclass
class RunningServer:
    """A server in a thread of its own."""

    info: ServerInfo
    server: Server
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    errors: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.info.url

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=30, **options)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def request_stop(self) -> None:
        self.loop.call_soon_threadsafe(self.server.request_stop)

    def wait(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()


StartServer = Callable[..., RunningServer]


@contextlib.contextmanager
def running_server(
    model: ServedModel,
    command: EngineCommand,
    *,
    recipe: ServeRecipe | None = None,
    drain_seconds: float = 5.0,
    limits: SupervisorLimits = QUICK_LIMITS,
    wait_until_ready: bool = True,
) -> Iterator[RunningServer]:
    """A server that listens; stopped, with its engine, at the end."""
    known = threading.Event()
    running: list[RunningServer] = []
    errors: list[BaseException] = []

    def work() -> None:
        async def main() -> None:
            server = Server(model, command, recipe=recipe or ServeRecipe(), drain_seconds=drain_seconds, limits=limits)
            with bound_socket("127.0.0.1", 0) as listener:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                info = ServerInfo(url, model.name, 0, 0.0, True)
                running.append(RunningServer(info, server, asyncio.get_running_loop(), thread, errors))

                def ready(info: ServerInfo) -> None:
                    running[0].info = info
                    known.set()

                if not wait_until_ready:
                    known.set()
                await server.run(listener, on_ready=ready)

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - the thread of a test must hand on whatever it met
            errors.append(error)
        finally:
            known.set()

    thread = threading.Thread(target=work, name="server")
    thread.start()
    assert known.wait(START_SECONDS)
    if errors and not running:
        raise errors[0]
    try:
        yield running[0]
    finally:
        with contextlib.suppress(RuntimeError):  # it has stopped by itself
            running[0].request_stop()
            running[0].request_stop()
        running[0].wait()
