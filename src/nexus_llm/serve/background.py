"""A server in a thread of its own, for a command that talks to it and is gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nexus_llm.errors import ServingError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.listening import bound_socket
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.relay import Upstream
from nexus_llm.serve.server import Server, ServerInfo

STOP_SECONDS = 30.0


@dataclass
class BackgroundServer:
    """A running server. Its thread ends when it is stopped or fails."""

    thread: threading.Thread
    listening: threading.Event = field(default_factory=threading.Event)
    """Set once it has a port, or never will."""
    ready: threading.Event = field(default_factory=threading.Event)
    """Set once the model answers, or never will."""
    url: str = ""
    sagemaker_url: str = ""
    """Of SageMaker's port, where it was asked for."""
    info: ServerInfo | None = None
    error: BaseException | None = None
    server: Server | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def request_stop(self) -> None:
        """Lets it drain; asked a second time, it stops at once."""
        if self.loop is not None and self.server is not None:
            with contextlib.suppress(RuntimeError):  # it has stopped by itself
                self.loop.call_soon_threadsafe(self.server.request_stop)


@contextlib.contextmanager
def background_server(
    model: ServedModel,
    command: EngineCommand,
    *,
    recipe: ServeRecipe,
    drain_seconds: float = 0.0,
    limits: SupervisorLimits | None = None,
    wait_until_ready: bool = True,
    with_sagemaker: bool = False,
    upstream: Upstream | None = None,
    admin_token: str | None = None,
) -> Iterator[BackgroundServer]:
    """A server on a free loopback port, stopped with its engine at the end.

    Raises:
        ServingError: the engine cannot start.
    """

    def make() -> Server:
        server = Server(model, command, recipe=recipe, drain_seconds=drain_seconds, limits=limits, upstream=upstream)
        server.admin_token = admin_token
        return server

    def work() -> None:
        try:
            asyncio.run(_serve(background, make, with_sagemaker=with_sagemaker))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            background.error = error
        finally:
            background.listening.set()
            background.ready.set()

    background = BackgroundServer(threading.Thread(target=work, name="server", daemon=True))
    background.thread.start()
    try:
        (background.ready if wait_until_ready else background.listening).wait()
        if background.error is not None:
            raise background.error
        yield background
    finally:
        background.request_stop()
        background.request_stop()
        background.thread.join(STOP_SECONDS)
        if background.thread.is_alive():
            raise ServingError("the server did not stop", fix="end the process; the engine ends with it")


async def _serve(background: BackgroundServer, make: Callable[[], Server], *, with_sagemaker: bool) -> None:
    def on_ready(info: ServerInfo) -> None:
        background.info = info
        background.ready.set()

    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(bound_socket("127.0.0.1", 0))
        sagemaker = sockets.enter_context(bound_socket("127.0.0.1", 0)) if with_sagemaker else None
        background.server = make()
        background.loop = asyncio.get_running_loop()
        background.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if sagemaker is not None:
            background.sagemaker_url = f"http://127.0.0.1:{sagemaker.getsockname()[1]}"
        background.listening.set()
        await background.server.run(listener, sagemaker=sagemaker, on_ready=on_ready)
