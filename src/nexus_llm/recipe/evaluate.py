"""How a tuned model is judged, and when it may replace its base."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nexus_llm.recipe.section import Section


class GateRecipe(Section):
    """When a tuned model may replace its base. Verdicts come from a paired bootstrap over documents."""

    min_domain_improvement: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Least relative drop of perplexity on held-out domain text; its whole confidence interval must lie beyond."""
    max_general_regression: Annotated[float, Field(ge=0)] = 0.10
    """Largest relative rise of perplexity on general text."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class EvaluateRecipe(Section):
    """How base and tuned model are compared."""

    domain_documents: Annotated[int, Field(ge=2)] = 64
    """Documents of the test split to score (fewer where the split is smaller)."""
    general_path: str | None = None
    """Files with general text (jsonl, txt, md); null takes the passages that ship with the package."""
    max_tokens_per_document: Annotated[int, Field(ge=16)] = 256
    """Only a document's first tokens are scored."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "What is a context manager in Python, and when should I use one?",
        "How do I read a text file line by line in Python?",
        "Explain to a beginner what an exception is.",
    )
    """Asked to both models, greedily, and shown side by side."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest sample answer."""
    tasks: tuple[str, ...] = ()
    """Files of domain tasks that base and tuned model are asked: docs/evaluation-tasks.md."""
    gate: GateRecipe = GateRecipe()
