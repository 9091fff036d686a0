"""Names of persons through Presidio (https://microsoft.github.io/presidio) asking a spaCy model: optional, slow."""

from __future__ import annotations

import importlib.util
from typing import Protocol

import polars as pl

from nexus_llm.errors import MissingExtraError, ModelError
from nexus_llm.pii.redaction import FOUND_SCHEMA, PERSON

LANGUAGE, SPACY_MODEL = "en", "en_core_web_lg"
SMALLEST_SCORE = 0.5


class Result(Protocol):
    """What Presidio says of a place, in characters."""

    start: int
    end: int
    score: float


class Analyzer(Protocol):
    """The part of Presidio's AnalyzerEngine that is used."""

    def analyze(self, text: str, language: str, entities: list[str]) -> list[Result]: ...


def presidio() -> Analyzer:
    """Presidio's engine over an installed spaCy model.

    Raises:
        MissingExtraError: presidio-analyzer is not installed.
        ModelError: the spaCy model is not installed; Presidio would fetch it over the network unasked.
    """
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise MissingExtraError.for_extra("names", "presidio_analyzer")
    if importlib.util.find_spec(SPACY_MODEL) is None:
        raise ModelError(
            f"the spaCy model {SPACY_MODEL!r} is not installed", fix=f"python -m spacy download {SPACY_MODEL}"
        )
    analyzer = importlib.import_module("presidio_analyzer")
    nlp = importlib.import_module("presidio_analyzer.nlp_engine")
    names = {"nlp_engine_name": "spacy", "models": [{"lang_code": LANGUAGE, "model_name": SPACY_MODEL}]}
    engine = nlp.NlpEngineProvider(nlp_configuration=names).create_engine()
    made: Analyzer = analyzer.AnalyzerEngine(nlp_engine=engine, supported_languages=[LANGUAGE])
    return made


def find_persons(texts: pl.Series, analyzer: Analyzer) -> pl.DataFrame:
    """The persons in each text, as `pii.find` gives its findings: in bytes, in order, without overlaps."""
    rows = []
    for row, text in enumerate(texts):
        results = analyzer.analyze(text=text, language=LANGUAGE, entities=[PERSON]) if text else []
        place = 0
        for result in sorted(results, key=lambda found: (found.start, -found.end)):
            if result.score >= SMALLEST_SCORE and result.start >= place:
                start, end = (len(text[:characters].encode()) for characters in (result.start, result.end))
                rows.append((row, PERSON, start, end))
                place = result.end
    return pl.DataFrame(rows, schema=FOUND_SCHEMA, orient="row")
