"""How a tuned model is judged, and when it may replace its base."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import Field, model_validator

from nexus_llm.recipe.section import Section, Share

RuleName = Literal["max_regression", "min_improvement", "min_score"]


class TaskRule(Section):
    """When a tuned model may replace its base, by one task. Each field that is given is a rule of its own.

    The unit is that of the task's metric: 0.02 of an accuracy is two points of a hundred.
    """

    max_regression: Annotated[float, Field(ge=0)] | None = None
    """Largest loss against the base; the whole confidence interval must lie within."""
    min_improvement: Annotated[float, Field(ge=0)] | None = None
    """Least gain against the base; the whole interval must lie beyond."""
    min_score: float | None = None
    """Worst score of the tuned model itself, whatever the base has (a highest one, where lower is better)."""

    @model_validator(mode="after")
    def _rules_something(self) -> TaskRule:
        if self.limits():
            return self
        raise ValueError("a task has no rule: give at least one of max_regression, min_improvement, min_score")

    def limits(self) -> dict[RuleName, float]:
        """The rules that are given, by name."""
        return cast(dict[RuleName, float], self.model_dump(exclude_none=True))


class GateRecipe(Section):
    """When a tuned model may replace its base. Verdicts come from paired tests, corrected for how many there are."""

    min_domain_improvement: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Least relative drop of perplexity on held-out domain text; its whole confidence interval must lie beyond."""
    max_general_regression: Annotated[float, Field(ge=0)] = 0.10
    """Largest relative rise of perplexity on general text."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    tasks: dict[str, TaskRule] = {}
    """Rules by the name of a task that `evaluate.benchmarks` or `evaluate.tasks` measures."""
    max_error_share: Share = 0.01
    """Items of a task that may lack a score; with more of them, its verdict is inconclusive."""


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
    benchmarks: tuple[str, ...] = ()
    """Public benchmarks that both models go through, by their names in lm-evaluation-harness."""
    datasets: str | None = None
    """Folder with the benchmarks' data; null fetches them from the hub."""
    benchmark_items: Annotated[int, Field(ge=1)] | None = None
    """Items of each benchmark, from its start; null takes all."""
    tasks: tuple[str, ...] = ()
    """Files of domain tasks that both models go through: docs/evaluation-tasks.md."""
    gate: GateRecipe = GateRecipe()

    @model_validator(mode="after")
    def _rules_have_something_to_judge(self) -> EvaluateRecipe:
        if not self.gate.tasks or self.benchmarks or self.tasks:
            return self
        raise ValueError(
            "gate.tasks has rules, and nothing is measured: name tasks in evaluate.benchmarks or evaluate.tasks"
        )
