"""What is shipped: the formats of a package and what they must agree on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nexus_llm.recipe.section import Section


class PackageRecipe(Section):
    """What is shipped."""

    format: Literal["gguf-q8_0"] = "gguf-q8_0"
    """Weights for the serving engine, beside the merged safetensors."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Goes into generation_config.json: what a request gets that names none (0: always the likeliest token). null keeps
    the base model's; where that has none either, it is OpenAI's 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Likewise."""
