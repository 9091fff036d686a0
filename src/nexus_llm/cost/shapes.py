"""How large a model is, from its public config.json, without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from nexus_llm.arithmetic import Shape, shape
from nexus_llm.errors import CostError


def known_shapes() -> Mapping[str, Shape]:
    """Sizes of the models that recipes name most, by the hub's name without its owner.

    Source: the config.json of each repository on the hub (`shapes.json`), written down without looking them up again;
    a test compares the parameter counts with the models' names.
    """
    text = resources.files("nexus_llm.cost").joinpath("shapes.json").read_text(encoding="utf-8")
    return {name: shape(config) for name, config in json.loads(text).items()}


def context_tokens(name: str, config: Mapping[str, Any] | None = None) -> int | None:
    """How many tokens the model that `model_size` names reads; None where nothing says it."""
    if config is None:
        text = resources.files("nexus_llm.cost").joinpath("shapes.json").read_text(encoding="utf-8")
        config = json.loads(text).get(name, {})
    found = config.get("max_position_embeddings")
    return found if isinstance(found, int) and found > 0 else None


def model_size(base: str, config: Mapping[str, Any] | None = None) -> tuple[str, Shape]:
    """The name and the sizes of the model that a recipe's `model.base` names; `config` is its config.json if at hand.

    Raises:
        CostError: the model is not known here and no config.json is given.
    """
    name = base.removeprefix("hf:").split("@")[0].rstrip("/").split("/")[-1]
    if config is not None:
        return name, shape(config)
    plain = name.lower().removesuffix("-instruct")
    for known, sizes in known_shapes().items():
        if plain == known.lower():
            return known, sizes
    raise CostError(
        f"the size of the model {base!r} is not known, and without it there is no cost",
        fix=f"set cost.model_config_path to its config.json; known are {', '.join(known_shapes())}",
    )
