"""Personal data and languages, measured beside Presidio's patterns and the fastText library, in one run.

    python benchmarks/data_privacy.py --data ../shared/data [--presidio-python PYTHON] [--note TEXT]

- Personal data: precision, recall and F1 per entity on presidio-research's 1,500 synthetic texts. A finding counts when
  its entity and both its ends are those of the truth (exact match, in characters). Presidio's recognisers run in
  another interpreter that has `presidio-analyzer`; without one they are not measured.
- Languages: accuracy on lingua's 75 languages, on sentences joined to 500 characters and more, and on single sentences;
  the library (`fasttext-predict`) on the same texts when it is installed here.
- Speed: CPU seconds of one process, which other load disturbs less than wall time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from nexus_llm.data.judging import language
from nexus_llm.pii import redaction as pii

HERE = Path(__file__).parent
PLAIN_TEXT_BYTES = 60_000_000
ENTITIES = [entity for entity in pii.ENTITIES if entity != "SECRET"]
SAME_LANGUAGE = {"nb": "no"}  # lid.176 has one label for Norwegian Bokmål
Span = tuple[int, int, int]


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """(CPU seconds of this process, what `work` gave); `work` ran once before, so that nothing is compiled in it."""
    work()
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def scores(truth: set[Span], found: set[Span]) -> dict[str, float]:
    """Precision, recall and F1, each rounded to 3 digits; 0 where nothing was found."""
    hits = len(truth & found)
    precision = hits / len(found) if found else 0.0
    recall = hits / len(truth)
    both = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"found": len(found), "precision": round(precision, 3), "recall": round(recall, 3), "f1": round(both, 3)}


def our_spans(texts: list[str], found: pl.DataFrame) -> dict[str, set[Span]]:
    """Entity → (text, start, end) in characters."""
    spans: dict[str, set[Span]] = {entity: set() for entity in pii.ENTITIES}
    for row, entity, start, end in found.iter_rows():
        data = texts[row].encode()
        spans[entity].add((row, len(data[:start].decode()), len(data[:end].decode())))
    return spans


def personal_data(folder: Path, presidio_python: str | None) -> dict[str, Any]:
    """The table of entities, and megabytes a CPU second on these texts."""
    records = json.loads((folder / "pii-presidio" / "synth_dataset_v2.json").read_text())
    texts = [record["full_text"] for record in records]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    column = pl.Series(texts)
    seconds, found = cpu_seconds(lambda: pii.find(column))
    ours = our_spans(texts, found)
    peer: dict[str, Any] = {}
    if presidio_python:
        script = str(HERE / "peers" / "presidio_patterns.py")
        done = subprocess.run(
            [presidio_python, script], input=json.dumps(texts), capture_output=True, text=True, check=True
        )
        peer = json.loads(done.stdout)
    table = {}
    for entity in ENTITIES:
        truth = {
            (row, span["start_position"], span["end_position"])
            for row, record in enumerate(records)
            for span in record["spans"]
            if span["entity_type"] == entity
        }
        table[entity] = {"true": len(truth), "nexus": scores(truth, ours[entity])}
        for threshold in (0.0, 0.4) if peer else ():
            theirs = {(row, start, end) for row, start, end, score in peer["found"][entity] if score >= threshold}
            table[entity][f"presidio from {threshold}"] = scores(truth, theirs)
    result = {"texts": len(texts), "entities": table, "nexus_megabytes_per_cpu_second": round(megabytes / seconds, 2)}
    if peer:
        result["presidio_version"] = peer["version"]
        result["presidio_megabytes_per_cpu_second"] = round(megabytes / sum(peer["seconds"].values()), 3)
    return result


def plain_text_speed(folder: Path) -> dict[str, Any]:
    """Megabytes a CPU second on ordinary text: documentation, books, terms of service, web pages."""
    texts: list[str] = []
    size = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".md", ".txt") and path.stat().st_size < 3_000_000 and size < PLAIN_TEXT_BYTES:
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
            size += path.stat().st_size
    column = pl.Series(texts)
    megabytes = column.str.len_bytes().sum() / 1e6
    find_seconds, found = cpu_seconds(lambda: pii.find(column))
    redact_seconds, _ = cpu_seconds(lambda: pii.redact(column))
    return {
        "documents": len(texts),
        "megabytes": round(megabytes, 1),
        "found": dict(found["entity"].value_counts(sort=True).iter_rows()),
        "find_megabytes_per_cpu_second": round(megabytes / find_seconds, 1),
        "redact_megabytes_per_cpu_second": round(megabytes / redact_seconds, 1),
    }


def language_samples(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """(language, text) pairs: single sentences, and sentences of one language joined to 500 characters and more."""
    sentences, documents = [], []
    for path in sorted((folder / "langid-lingua" / "language-testdata" / "sentences").glob("*.txt")):
        label = SAME_LANGUAGE.get(path.stem, path.stem)
        joined = ""
        for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
            sentences.append((label, line))
            joined += f"{line}\n"
            if len(joined) >= language.MINIMUM_CHARACTERS:
                documents.append((label, joined))
                joined = ""
    return {"joined to 500 characters": documents, "single sentences": sentences}


def languages(folder: Path) -> dict[str, Any]:
    """Accuracy and speed per kind of sample, ours and the library's."""
    model_path = folder / "tokenizers-dev" / language.MODEL_FILE
    model = language.load(model_path)
    result: dict[str, Any] = {}
    for name, samples in language_samples(folder).items():
        truth = [label for label, _ in samples]
        known = {label for label in truth if label in model.labels}
        texts = [text for _, text in samples]
        column = pl.Series(texts)
        seconds, found = cpu_seconds(lambda column=column: language.identify(column, model, minimum_characters=0))
        ours = found["language"].to_list()
        row = {"nexus": language_row(truth, ours, known, len(texts) / seconds)}
        if importlib.util.find_spec("fasttext") is not None:
            theirs, library_seconds = library_answers(model_path, texts)
            row["library"] = language_row(truth, theirs, known, len(texts) / library_seconds)
            row["answers that differ"] = sum(one != other for one, other in zip(ours, theirs, strict=True))
        characters = sum(map(len, texts)) / len(texts)
        result[name] = {"texts": len(texts), "mean_characters": round(characters, 1), **row}
    result["languages"] = len(set(truth))
    result["languages that the model has no label for"] = sorted(set(truth) - known)
    return result


def library_answers(model_path: Path, texts: list[str]) -> tuple[list[str], float]:
    """(labels, CPU seconds) of fastText's own predictions on the characters that `language` reads."""
    import fasttext

    library = fasttext.load_model(str(model_path))
    started = time.process_time()
    answers = [library.predict(text.replace("\n", " ")[: language.READ_CHARACTERS], 1, 0.0, "strict") for text in texts]
    return [labels[0].removeprefix("__label__") for labels, _ in answers], time.process_time() - started


def language_row(truth: list[str], answers: list[str], known: set[str], texts_per_second: float) -> dict[str, float]:
    """Accuracy over all languages and over those that the model knows, and texts a CPU second."""
    right = [label == answer for label, answer in zip(truth, answers, strict=True)]
    right_known = [is_right for label, is_right in zip(truth, right, strict=True) if label in known]
    return {
        "accuracy": round(sum(right) / len(right), 4),
        "accuracy_known": round(sum(right_known) / len(right_known), 4),
        "texts_per_cpu_second": round(texts_per_second),
    }


def table_of(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["# Personal data and languages", "", f"{result['date']}, {result['hardware']}. {result['note']}", ""]
    lines += ["| entity | true | who | found | precision | recall | F1 |", "|---|---|---|---|---|---|---|"]
    for entity, row in result["personal_data"]["entities"].items():
        for who, one in row.items():
            if who != "true":
                cells = f"{one['found']} | {one['precision']} | {one['recall']} | {one['f1']}"
                lines.append(f"| {entity} | {row['true']} | {who} | {cells} |")
    lines += [
        "",
        "| languages, on | who | accuracy, all 75 | accuracy, known ones | texts a CPU second |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["languages"].items():
        for who in ("nexus", "library"):
            if isinstance(row, dict) and who in row:
                one = row[who]
                lines.append(
                    f"| {name} | {who} | {one['accuracy']} | {one['accuracy_known']} | {one['texts_per_cpu_second']} |"
                )
    speeds = {key: value for key, value in result["personal_data"].items() if "megabytes" in key or "version" in key}
    lines += [
        "",
        f"Speed on these texts: {json.dumps(speeds)}",
        "",
        f"Plain text: {json.dumps(result['plain_text'])}",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with pii-presidio, langid-lingua, tokenizers-dev"
    )
    parser.add_argument("--presidio-python", help="an interpreter that has presidio-analyzer")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, Python {platform.python_version()}",
        "note": options.note,
        "rule": "a finding counts when its entity and both ends are the truth's",
        "personal_data": personal_data(options.data, options.presidio_python),
        "plain_text": plain_text_speed(options.data),
        "languages": languages(options.data),
    }
    target = HERE / "results" / f"data_privacy_{platform.machine()}_{result['date']}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    target.with_suffix(".md").write_text(table_of(result))
    print(table_of(result))


if __name__ == "__main__":
    main()
