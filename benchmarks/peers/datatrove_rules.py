"""The peer of data_rules.py: datatrove's filters on documents from standard input, in datatrove's own environment.

Reads one JSON request a line, answers with one: {"decide": [rules]} sets what is asked, {"time": [texts]} gives the CPU
seconds of the four filters as a pipeline runs them, {"judge": [texts]} what each rule says of each text on its own.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

_OFF: dict[str, dict[str, Any]] = {
    "GopherQualityFilter": dict.fromkeys(
        (
            "min_doc_words",
            "max_doc_words",
            "min_avg_word_length",
            "max_avg_word_length",
            "max_symbol_word_ratio",
            "max_bullet_lines_ratio",
            "max_ellipsis_lines_ratio",
            "max_non_alpha_words_ratio",
            "min_stop_words",
        )
    ),
    "GopherRepetitionFilter": {
        **dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")),
        "top_n_grams": (),
        "dup_n_grams": (),
    },
    "C4QualityFilter": {"min_num_sentences": -1, "filter_lorem_ipsum": False, "filter_curly_bracket": False},
    "FineWebQualityFilter": {
        "line_punct_thr": 0.0,
        "short_line_thr": 1.0,
        "char_duplicates_ratio": float("inf"),
        "new_line_ratio": float("inf"),
    },
}
_FILTERS = {one.__name__: one for one in (GopherRepetitionFilter, GopherQualityFilter, C4QualityFilter)}
_FILTERS["FineWebQualityFilter"] = FineWebQualityFilter


def main() -> None:
    pipeline = [make() for make in _FILTERS.values()]
    asked: list[tuple[Any, str]] = []
    for line in sys.stdin:
        request = json.loads(line)
        if "decide" in request:
            asked = [(_alone(rule), rule["reason"]) for rule in request["decide"]]
            answer: Any = len(asked)
        elif "time" in request:
            answer = _seconds(pipeline, request["time"])
        else:
            answer = [[_decision(one, reason, text) for one, reason in asked] for text in request["judge"]]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _alone(rule: dict[str, Any]) -> Any:
    """The rule's filter with every other rule switched off, at its own default threshold."""
    default = _FILTERS[rule["filter"]]()
    option, value = rule["option"], None
    if option in ("top_n_grams", "dup_n_grams"):
        digits = int("".join(one for one in rule["reason"] if one.isdigit()))
        value = tuple(pair for pair in getattr(default, option) if pair[0] == digits)
    else:
        value = getattr(default, {"short_line_thr": "short_line_threshold"}.get(option, option))
    return _FILTERS[rule["filter"]](**{**_OFF[rule["filter"]], option: value})


def _seconds(pipeline: list[Any], texts: list[str]) -> float:
    """CPU seconds of a pipeline: a document that one filter drops is not seen by the next."""
    started = time.process_time()
    for number, text in enumerate(texts):
        document = Document(text=text, id=str(number))
        for one in pipeline:
            try:
                kept = one.filter(document)
            except ZeroDivisionError:
                break
            if kept is not True:
                break
    return time.process_time() - started


def _decision(one: Any, reason: str, text: str) -> bool | None:
    """Whether the text keeps to the rule; None where another rule answers first or the filter fails."""
    try:
        result = one.filter(Document(text=text, id="0"))
    except ZeroDivisionError:
        return None
    if result is True:
        return True
    return False if result[1] == reason else None


if __name__ == "__main__":
    main()
