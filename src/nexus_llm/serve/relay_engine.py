"""A server without an engine of its own: what stands in the engine's place where requests go to an upstream."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ServingError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.port import EngineFacts, EngineRequest
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.engines.supervisor import EngineDownError, EngineState, EngineSupervisor, TokenStream
from nexus_llm.serve.model_folder import SamplingDefaults, ServedModel
from nexus_llm.serve.relay import Relay, Upstream


class UpstreamEngine(EngineSupervisor):
    """No process: ready once the upstream has answered."""

    def __init__(self) -> None:
        super().__init__(EngineCommand("openai", {}))
        self.relay: Relay | None = None

    async def start(self) -> EngineFacts:
        """Asks the upstream for its models, once.

        Raises:
            ServingError: it does not answer, or refuses the key.
        """
        started = time.monotonic()
        assert self.relay is not None
        if not await self.relay.is_healthy():
            self.state = EngineState.FAILED
            raise ServingError(
                "the upstream of the openai engine does not answer GET /models, or refuses the key",
                fix="check serve.upstream.url and the variable that serve.upstream.key_variable names",
            )
        self.state = EngineState.READY
        self.facts = EngineFacts("openai", 0, time.monotonic() - started, ())
        return self.facts

    def submit(self, request: EngineRequest, stream: TokenStream) -> None:  # noqa: ARG002
        """Nothing that speaks in tokens can be done here."""
        raise EngineDownError

    async def stop(self) -> None:
        self.state = EngineState.STOPPED
        if self.relay is not None:
            await self.relay.close()


def relayed_model(name: str) -> ServedModel:
    """What the gateway knows of a model that lives elsewhere: its name."""
    # There is no tokenizer, and a made-up one would count tokens wrongly: whoever asks for it shall fail.
    tokenizer = cast("ChatTokenizer", None)
    return ServedModel(name, Path(), tokenizer, 0, (), SamplingDefaults(), None)


def upstream_of(recipe: ServeRecipe, *, model: str, key: str | None) -> Upstream:
    """Where the recipe sends requests for the model that is called `model` here."""
    told = recipe.upstream
    return Upstream(told.url, told.model or model, key, told.timeout_seconds)
