"""From a recipe and a model to the engine's process: its name and its settings as JSON values; pure."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

from nexus_llm.errors import MissingExtraError, ServingError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import ServedModel

ENGINE_MODULES = {
    "openvino": ("openvino_genai", "serve"),
    "llama.cpp": ("xllamacpp", "llama"),
    "transformers": ("transformers", "train"),
}
"""Engine → the module that it cannot do without, and the extra that installs it."""


def engine_command(model: ServedModel, recipe: ServeRecipe) -> EngineCommand:
    """How to run the engine that the recipe names on this model."""
    return EngineCommand(recipe.engine, _SETTINGS[recipe.engine](model, recipe))


def require_engine(recipe: ServeRecipe) -> None:
    """Checks that the recipe's engine can be run here, without loading it.

    Raises:
        MissingExtraError: its wheel is not installed.
        ServingError: its program is not there.
    """
    if recipe.engine == "vllm" and shutil.which(recipe.vllm.program) is None:
        raise ServingError(
            f"serve.vllm.program: there is no program {recipe.vllm.program!r}",
            fix="install vLLM in an environment of its own (it pins its own torch) and name its bin/vllm there",
        )
    module, extra = ENGINE_MODULES.get(recipe.engine, (None, ""))
    if module is not None and importlib.util.find_spec(module) is None:
        raise MissingExtraError.for_extra(extra, module)


def _openvino(model: ServedModel, recipe: ServeRecipe) -> dict[str, Any]:
    return {"weights": str(model.weights), "kv_cache_gib": recipe.kv_cache_gib}


def _llama_cpp(model: ServedModel, recipe: ServeRecipe) -> dict[str, Any]:
    tokenizer = model.weights.parent / "tokenizer.json"
    return {"weights": str(model.weights), "tokenizer": str(tokenizer), **_sampled(model, recipe)}


def _transformers(model: ServedModel, recipe: ServeRecipe) -> dict[str, Any]:
    return {"folder": str(model.weights), **_sampled(model, recipe)}


def _sampled(model: ServedModel, recipe: ServeRecipe) -> dict[str, Any]:
    return {
        "kv_cache_gib": recipe.kv_cache_gib,
        "max_running": recipe.max_running,
        "stop_token_ids": list(model.stop_token_ids),
        "adapters": dict(recipe.adapters),
    }


def _vllm(model: ServedModel, recipe: ServeRecipe) -> dict[str, Any]:
    return {
        "folder": str(model.weights),
        "max_running": recipe.max_running,
        "context_tokens": recipe.vllm.context_tokens or model.context_tokens,
        "gpu_memory_share": recipe.vllm.gpu_memory_share,
        "gpus": recipe.vllm.gpus,
        "adapters": dict(recipe.adapters),
        "arguments": list(recipe.vllm.arguments),
        "program": [recipe.vllm.program],
    }


_SETTINGS: dict[str, Callable[[ServedModel, ServeRecipe], dict[str, Any]]] = {
    "openvino": _openvino,
    "llama.cpp": _llama_cpp,
    "transformers": _transformers,
    "vllm": _vllm,
}
