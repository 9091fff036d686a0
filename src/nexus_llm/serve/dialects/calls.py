"""Calls of tools in an answer, as far as the dialects have to know them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from nexus_llm.serve.answers import WholeChoice
from nexus_llm.serve.text import TextDelta


class Call(Protocol):
    """One function that the model calls."""

    @property
    def name(self) -> str:
        """Of the function."""

    @property
    def arguments(self) -> str:
        """A JSON object as text."""


def calls_of(part: TextDelta | WholeChoice) -> Sequence[Call]:
    """The calls in a piece of an answer, or in a whole one, in their order; pieces carry whole calls only."""
    calls: Sequence[Call] = getattr(part, "calls", ())
    return calls


def arguments_of(call: Call) -> dict[str, Any]:
    """The arguments as an object; empty where a model wrote none, or something else."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return {}
    return arguments if isinstance(arguments, dict) else {}
