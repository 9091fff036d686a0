"""What is shipped: the formats of a package, and how far each may be from the model that was trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nexus_llm.recipe.section import Section, Share

Format = Literal["gguf-f16", "gguf-q8_0", "gguf-q4_k_m", "openvino-f16", "openvino-int8"]
Compared = Literal["merged", "gguf-f16", "gguf-q8_0", "gguf-q4_k_m", "openvino-f16", "openvino-int8"]


class EquivalenceLimits(Section):
    """How far one form of the model may be from the model as it was trained, on held-out text."""

    max_mean_kl: Annotated[float, Field(ge=0)]
    """Kullback-Leibler divergence from the trained model's next-token distribution, in nats, mean over the tokens."""
    max_kl: Annotated[float, Field(ge=0)]
    """The same at the worst token."""
    min_top_1_share: Share
    """Least share of tokens after which both find the same token likeliest."""
    max_perplexity_change_share: Annotated[float, Field(ge=0)]
    """Largest relative difference of the perplexities, up or down."""


def _limits(mean_kl: float, kl: float, top_1_share: float, change_share: float) -> EquivalenceLimits:
    return EquivalenceLimits(
        max_mean_kl=mean_kl,
        max_kl=kl,
        min_top_1_share=top_1_share,
        max_perplexity_change_share=change_share,
    )


# Measured with SmolLM2-135M (docs/packaging.md) and set about three times as wide.
MEASURED_LIMITS: dict[Compared, EquivalenceLimits] = {
    "merged": _limits(0.003, 0.1, 0.95, 0.02),
    "gguf-f16": _limits(0.004, 0.15, 0.95, 0.02),
    "gguf-q8_0": _limits(0.02, 0.3, 0.88, 0.04),
    "gguf-q4_k_m": _limits(0.15, 1.5, 0.75, 0.15),
    "openvino-f16": _limits(0.004, 0.15, 0.95, 0.02),
    "openvino-int8": _limits(0.02, 0.3, 0.88, 0.04),
}


class ServedLimits(Section):
    """How far our own server's answers may be from the trained model's, on the same text."""

    max_mean_log_probability_error: Annotated[float, Field(ge=0)] = 0.2
    """Of the text's own tokens, in nats."""
    min_next_token_share: Share = 0.6
    """Least share of rows after which the server says the token that the trained model finds likeliest."""
    max_perplexity_change_share: Annotated[float, Field(ge=0)] = 0.04


class EquivalenceRecipe(Section):
    """The gate that a package passes before it exists: trained = merged = quantised = served."""

    tokens: Annotated[int, Field(ge=0)] = 512
    """Held-out tokens to compare on; 0 measures nothing, and the model card says so."""
    limits: dict[Compared, EquivalenceLimits] = {}
    """In place of the measured defaults, by the form that they are for."""

    served: ServedLimits = ServedLimits()

    def limits_for(self, name: Compared) -> EquivalenceLimits:
        """What holds for one form."""
        return self.limits.get(name, MEASURED_LIMITS[name])


class PackageRecipe(Section):
    """What is shipped."""

    formats: tuple[Format, ...] = ("gguf-q8_0",)
    """Weights beside the merged safetensors, which are always there: `gguf-*` for llama.cpp (q8_0 for OpenVINO GenAI
    too), `openvino-*` for OpenVINO GenAI. The server takes the first that its engine reads."""
    equivalence: EquivalenceRecipe = EquivalenceRecipe()
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Goes into generation_config.json: what a request gets that names none (0: always the likeliest token). null keeps
    the base model's; where that has none either, it is OpenAI's 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Likewise."""
