"""What `/v1/models` tells of a model and its adapters, beyond OpenAI's members what the page has to know."""

from __future__ import annotations

from typing import Any

from nexus_llm.recipe import KeysRecipe
from nexus_llm.serve.engines.port import EngineFacts
from nexus_llm.serve.model_folder import ServedModel


def model_cards(
    model: ServedModel, facts: EngineFacts | None, *, created: int, keys: KeysRecipe
) -> dict[str, dict[str, Any]]:
    """Name → card, of the model first and then of its adapters; `created` is in seconds since 1970.

    The member `nexus` holds what the engine can do beyond plain answers (nothing while it loads), what sampling holds
    where a request says nothing (null where that is not known), and what tokens cost in US dollars (null where no price
    is configured).
    """
    prices = {
        "usd_per_million_prompt_tokens": keys.usd_per_million_prompt_tokens,
        "usd_per_million_completion_tokens": keys.usd_per_million_completion_tokens,
    }
    is_known = facts is not None and facts.name != "openai"  # an upstream does not tell its defaults
    sampling = {"temperature": model.sampling.temperature, "top_p": model.sampling.top_p} if is_known else None
    nexus = {
        "engine": facts.name if facts is not None else None,
        "features": sorted(facts.features) if facts is not None else [],
        "sampling": sampling,
        "prices": prices if any(prices.values()) else None,
    }
    card = {"object": "model", "created": created, "owned_by": "nexus-llm", "max_model_len": model.context_tokens}
    return {
        name: {"id": name, **card, "nexus": {**nexus, "is_adapter": name in model.adapters}}
        for name in (model.name, *model.adapters)
    }
