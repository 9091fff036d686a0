"""Servers on free loopback ports, each in a thread of its own, as tests of serving use them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai

from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.background import BackgroundServer, background_server
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.relay import Upstream

QUICK_LIMITS = SupervisorLimits(first_pause_seconds=0.05, max_deaths=3, stop_seconds=2)


@dataclass(frozen=True)
class RunningServer:
    """A server and the clients that talk to it."""

    background: BackgroundServer
    model: ServedModel

    @property
    def url(self) -> str:
        return self.background.url

    @property
    def engine_pid(self) -> int:
        assert self.background.server is not None
        return self.background.server.engine.pid or 0

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60, **options)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def request_stop(self) -> None:
        self.background.request_stop()

    def wait(self) -> None:
        self.background.thread.join(30)
        assert not self.background.thread.is_alive()


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
    with_sagemaker: bool = False,
    upstream: Upstream | None = None,
    admin_token: str | None = None,
) -> Iterator[RunningServer]:
    """A server that listens; stopped, with its engine, at the end."""
    with background_server(
        model,
        command,
        recipe=recipe or ServeRecipe(),
        drain_seconds=drain_seconds,
        limits=limits,
        wait_until_ready=wait_until_ready,
        with_sagemaker=with_sagemaker,
        upstream=upstream,
        admin_token=admin_token,
    ) as background:
        yield RunningServer(background, model)
