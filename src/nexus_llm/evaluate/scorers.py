"""How an answer to an item of a domain task becomes numbers: one section of the task's YAML a scorer.

Every score lies between 0 and 1, and more is better.
"""
# ruff: noqa: ARG002 - few scorers look at the tools

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nexus_llm.errors import MissingExtraError
from nexus_llm.evaluate.function_calls import calls_in, mismatch
from nexus_llm.evaluate.results import ItemResult
from nexus_llm.recipe.section import Section
from nexus_llm.records import Answer

NO_LABEL = "(none of them)"
"""What a classification's answer is, where it names no choice or several."""
# A sign behind a digit or letter is none: "5-3" has no negative number.
_NUMBER = re.compile(r"(?:(?<![\w.])[-−+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_FENCE = re.compile(r"\A\s*```\w*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class _Scorer(Section):
    """What all scorers have."""

    metric: ClassVar[str]
    """Name of the score that the task is judged by."""

    def wrong_target(self, target: Any) -> tuple[str, str] | None:
        """Why an item's target cannot be scored against, and the fix; None where it can."""
        return None if _texts(target) else ("has no text to compare with", "give a text, a number or a list of them")

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Metric → value for one answer."""
        raise NotImplementedError

    def overall(self, items: Sequence[ItemResult]) -> dict[str, float]:
        """What can only be said of all items together."""
        return {}


class ExactScorer(_Scorer):
    """The answer is the target, or one of a list of targets."""

    type: Literal["exact"]
    ignore_case: bool = True
    ignore_punctuation: bool = False
    metric: ClassVar[str] = "exact"

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        said = self._plain(answer.text)
        return {"exact": float(any(said == self._plain(one) for one in _texts(target)))}

    def _plain(self, text: str) -> str:
        cased = text.lower() if self.ignore_case else text
        bare = re.sub(r"[^\w\s]|_", " ", cased) if self.ignore_punctuation else cased
        return " ".join(bare.split())


class ContainsScorer(_Scorer):
    """The target stands in the answer; of a list of targets all of them, or any."""

    type: Literal["contains"]
    ignore_case: bool = True
    of_several: Literal["all", "any"] = "all"
    metric: ClassVar[str] = "contains"

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        said = answer.text.lower() if self.ignore_case else answer.text
        found = [(one.lower() if self.ignore_case else one) in said for one in _texts(target)]
        return {"contains": float(all(found) if self.of_several == "all" else any(found))}


class RegexScorer(_Scorer):
    """What a pattern finds in the answer (its first group, else all of it) is the target. Without a pattern the target
    is one, and must be found."""

    type: Literal["regex"]
    pattern: str | None = None
    which: Literal["first", "last"] = "first"
    """Of several places that match."""
    metric: ClassVar[str] = "regex"

    @model_validator(mode="after")
    def _compiles(self) -> RegexScorer:
        if wrong := self.pattern is not None and _wrong_pattern(self.pattern):
            raise ValueError(f"scorer.pattern is no regular expression ({wrong}): mend it")
        return self

    def wrong_target(self, target: Any) -> tuple[str, str] | None:
        if self.pattern is None:
            wrong = next((found for one in _texts(target) if (found := _wrong_pattern(one))), None)
            return (f"is no regular expression ({wrong})", "mend it") if wrong else super().wrong_target(target)
        return super().wrong_target(target)

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        if self.pattern is None:
            return {"regex": float(any(re.search(one, answer.text) for one in _texts(target)))}
        found = list(re.finditer(self.pattern, answer.text))
        if not found:
            return {"regex": 0.0}
        match = found[0 if self.which == "first" else -1]
        said = match[1] if match.re.groups else match[0]
        return {"regex": float((said or "").strip() in [one.strip() for one in _texts(target)])}


class JsonSchemaScorer(_Scorer):
    """The answer is JSON, alone or in one code fence, and fits a JSON Schema: the one given here, else the target."""

    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    metric: ClassVar[str] = "valid"

    @model_validator(mode="after")
    def _is_schema(self) -> JsonSchemaScorer:
        if wrong := self.json_schema is not None and _wrong_schema(self.json_schema):
            raise ValueError(f"scorer.schema is no JSON Schema ({wrong}): mend it")
        return self

    def wrong_target(self, target: Any) -> tuple[str, str] | None:
        if self.json_schema is not None:
            return None
        wrong = _wrong_schema(target) if isinstance(target, dict) else "it is no object"
        return (f"is no JSON Schema ({wrong})", "mend it, or give scorer.schema") if wrong else None

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        import jsonschema_rs

        fence = _FENCE.match(answer.text)
        try:
            value = json.loads(fence[1] if fence else answer.text)
        except (ValueError, RecursionError):
            return {"valid": 0.0, "is_json": 0.0}
        schema = self.json_schema if self.json_schema is not None else target
        return {"valid": float(jsonschema_rs.is_valid(schema, value)), "is_json": 1.0}


class RougeScorer(_Scorer):
    """Overlap with a reference text, by the library rouge-score (Lin 2004): F-measures of ROUGE-1, -2 and -L. Of
    several references the best one counts."""

    type: Literal["rouge"]
    use_stemmer: bool = False
    metric: ClassVar[str] = "rougeL"

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        try:
            from rouge_score.rouge_scorer import RougeScorer as Library
        except ImportError as error:
            raise MissingExtraError.for_extra("eval", error.name or "rouge_score") from error
        found = Library(["rouge1", "rouge2", "rougeL"], use_stemmer=self.use_stemmer).score_multi(
            _texts(target), answer.text
        )
        return {name: float(one.fmeasure) for name, one in found.items()}


class NumericScorer(_Scorer):
    """A number in the answer is the last number of the target, within a tolerance. `1,234.5` is read as 1234.5."""

    type: Literal["numeric"]
    which: Literal["first", "last"] = "last"
    """Of several numbers in the answer."""
    absolute_tolerance: Annotated[float, Field(ge=0)] = 0.0
    relative_tolerance: Annotated[float, Field(ge=0)] = 1e-9
    metric: ClassVar[str] = "numeric"

    def wrong_target(self, target: Any) -> tuple[str, str] | None:
        texts = _texts(target)
        return None if texts and all(map(numbers, texts)) else ("has no number", "give a number")

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        found = numbers(answer.text)
        if not found:
            return {"numeric": 0.0}
        said = found[0 if self.which == "first" else -1]
        absolute, relative = self.absolute_tolerance, self.relative_tolerance
        wanted = [numbers(one)[-1] for one in _texts(target)]
        return {"numeric": float(any(math.isclose(said, one, rel_tol=relative, abs_tol=absolute) for one in wanted))}


class ClassificationScorer(_Scorer):
    """The answer names one of the choices: it is the choice, or contains it and none that is not part of it."""

    type: Literal["classification"]
    choices: Annotated[tuple[str, ...], Field(min_length=2)]
    by: Literal["answer", "likelihood"] = "answer"
    """`likelihood` asks for no answer: the choice whose text behind the prompt is likeliest counts (`chat: false`)."""
    metric: ClassVar[str] = "accuracy"

    @model_validator(mode="after")
    def _are_distinct(self) -> ClassificationScorer:
        twice = [name for name, count in Counter(_word_form(one) for one in self.choices).items() if count > 1]
        if twice:
            raise ValueError(f"scorer.choices has {twice[0]!r} twice: no answer could tell them apart, remove one")
        return self

    def wrong_target(self, target: Any) -> tuple[str, str] | None:
        if str(target) in self.choices:
            return None
        import difflib

        near = difflib.get_close_matches(str(target), self.choices, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]!r}?" if near else "mend the label, or add it to scorer.choices"
        return f"{str(target)!r} is not one of the {len(self.choices)} choices", fix

    def label(self, text: str) -> str:
        """The choice that an answer names, or NO_LABEL. Case, `_` and punctuation do not count.

        >>> scorer = ClassificationScorer(type="classification", choices=("card_lost", "card_lost_abroad", "refund"))
        >>> scorer.label("Card lost."), scorer.label("It is card_lost_abroad"), scorer.label("refund or card lost")
        ('card_lost', 'card_lost_abroad', '(none of them)')
        """
        said = f" {_word_form(text)} "
        named = [one for one in self.choices if f" {_word_form(one)} " in said]
        longest = max(named, key=len, default=NO_LABEL)
        return longest if all(_word_form(one) in _word_form(longest) for one in named) else NO_LABEL

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {"accuracy": float(self.label(answer.text) == str(target))}

    def overall(self, items: Sequence[ItemResult]) -> dict[str, float]:
        pairs = [(one.wanted, self.label(one.answer)) for one in items if one.error is None]
        return {"macro_f1": macro_f1(pairs), "no_label": float(sum(answer == NO_LABEL for _, answer in pairs))}


class FunctionCallScorer(_Scorer):
    """The answer calls the functions that the target lists, as `function_calls` judges it; no target: it calls none."""

    type: Literal["function_call"]
    metric: ClassVar[str] = "match"

    def wrong_target(self, target: Any) -> tuple[str, str] | None:
        calls = target or []
        is_well_formed = isinstance(calls, list) and all(
            isinstance(call, dict)
            and len(call) == 1
            and all(isinstance(one, dict) and all(isinstance(v, list) for v in one.values()) for one in call.values())
            for call in calls
        )
        return None if is_well_formed else ("is no list of calls", "write [{name: {parameter: [allowed values]}}]")

    def scores(self, answer: Answer, target: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        calls = answer.tool_calls or calls_in(answer.text)
        return {"match": float(mismatch(calls, target or [], tools) is None)}


class JudgeScorer(_Scorer):
    """A second model (`--judge`) prefers the answer to the target, both ways round: 1 preferred, 0 not, 0.5 a tie."""

    type: Literal["judge"]
    criteria: str = "Which answer is more correct, complete and useful?"
    metric: ClassVar[str] = "preferred"


Scorer = Annotated[
    ExactScorer
    | ContainsScorer
    | RegexScorer
    | JsonSchemaScorer
    | RougeScorer
    | NumericScorer
    | ClassificationScorer
    | FunctionCallScorer
    | JudgeScorer,
    Field(discriminator="type"),
]


def numbers(text: str) -> list[float]:
    """The numbers in a text, in order.

    >>> numbers("From 1,234.5 to −7 and .5, so #### 18.")
    [1234.5, -7.0, 0.5, 18.0]
    """
    return [float(one.replace(",", "").replace("−", "-")) for one in _NUMBER.findall(text)]


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Mean over the wanted labels of F1, each label alike, from (wanted, answered) pairs; NaN without pairs.

    A label that was answered but never wanted lowers others' recall and has no F1 of its own.

    >>> macro_f1([("a", "a"), ("a", "b"), ("b", "b")])
    0.6666666666666666
    """
    wanted, answered = Counter(one for one, _ in pairs), Counter(one for _, one in pairs)
    right = Counter(one for one, other in pairs if one == other)
    scores = [2 * right[label] / (wanted[label] + answered[label]) for label in sorted(wanted)]
    return sum(scores) / len(scores) if scores else math.nan


def _texts(target: Any) -> list[str]:
    """What a target allows, as texts."""
    several = target if isinstance(target, list) else [target]
    return [str(one) for one in several if isinstance(one, str | int | float) and str(one)]


def _word_form(text: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", text.lower()).split())


def _wrong_pattern(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return None


def _wrong_schema(schema: dict[str, Any]) -> str | None:
    try:
        import jsonschema_rs
    except ImportError as error:
        raise MissingExtraError.for_extra("eval", "jsonschema_rs") from error
    try:
        jsonschema_rs.validator_for(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        return str(getattr(error, "message", None) or error).splitlines()[0]
    return None
