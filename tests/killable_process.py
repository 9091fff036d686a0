"""Processes of their own that can be killed, forked from one that has already imported what takes seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

# Only what is installed: in CPython 3.11 the server that is forked from does not look into tests/.
_PRELOADED = [
    "nexus_llm.train.loop",
    "nexus_llm.train.stage",
    "nexus_llm.train.fused.learner",
    "safetensors.torch",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
]


def start_process(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that runs `work`, a function that can be imported by name."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process
