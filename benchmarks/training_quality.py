"""What fine-tuning SmolLM2-135M reaches on known tasks, with the curve of every seed.

    python benchmarks/training_quality.py TASK [--data ../shared/data] [--seeds 17] [--work FOLDER]

TASK is sst2, mrpc, banking77 or documentation. The first three learn to answer a question in a chat (full fine-tuning,
loss on the answer alone), and are judged by greedy answers on held-out questions: an answer counts when it is the
label, letter by letter. `documentation` continues pre-training on AWS's user guides, with other text against
forgetting, and is judged by perplexity on held-out guides and on WikiText-2. Each seed is one run of the ordinary
commands; its artifacts lie in FOLDER, so the same command continues. Results: results/training_TASK_*.json.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nexus_llm.evaluate import glue
from nexus_llm.records import Question

RESULTS = Path(__file__).parent / "results"
Row = tuple[str, str]
"""(question, answer)."""
MRPC_LABELS = {"1": "yes", "0": "no"}
SST2_LABELS = {"1": "positive", "0": "negative"}

# Epochs, peak learning rate, packed rows of 256 tokens in a step.
SETTINGS = {"sst2": (1, 5e-5, 8), "mrpc": (2, 1e-4, 8), "banking77": (3, 1e-4, 8)}
PASSAGES = 400  # of WikiText-2's test text
GUIDES = ("awsdocs-sagemaker", "awsdocs-ec2", "awsdocs-s3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=(*SETTINGS, "documentation"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[17])
    parser.add_argument("--work", type=Path, default=Path("training-quality"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    make = documentation if options.task == "documentation" else classification
    runs = []
    for seed in options.seeds:
        started = time.monotonic()
        runs.append({"seed": seed, **make(options, seed), "seconds": round(time.monotonic() - started)})
        print(json.dumps({key: value for key, value in runs[-1].items() if key != "curve"}), flush=True)
    result = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "task": options.task,
        "runs": runs,
    }
    name = f"training_{options.task}_{platform.machine()}_{result['date']}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")


def classification(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Trains on the task's training rows and answers its held-out questions."""
    work = options.work / f"{options.task}-{seed}"
    train, held_out = TASKS[options.task](options.data)
    work.mkdir(parents=True, exist_ok=True)
    (work / "train.jsonl").write_text("".join(glue.chats(train)), encoding="utf-8")
    epochs, rate, rows = SETTINGS[options.task]
    recipe = glue.recipe_values(options.task, work / "train.jsonl", seed=seed, learning_rate=rate)
    recipe["train"]["per_device_train_batch_size"] = rows
    tokens = sum(facts(run("data", recipe, work))["tokens"].values())
    recipe["train"]["max_steps"] = glue.max_steps(tokens, epochs=epochs, rows_at_once=rows)
    artifact = run("train", recipe, work)
    answers = answered(run("package", recipe, work), [question for question, _ in held_out])
    wanted = [answer for _, answer in held_out]
    return {"recipe": recipe["train"], **scores(wanted, answers), "curve": curve(artifact)}


def documentation(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Continues pre-training on user guides."""
    work = options.work / f"documentation-{seed}"
    sources = [
        {"type": "files", "path": str((options.data / name / "doc_source").resolve()), "name": name} for name in GUIDES
    ]
    general = {"type": "files", "path": str((options.data / "wikitext2" / "valid.txt").resolve()), "name": "general"}
    recipe = {
        "name": "documentation",
        "seed": seed,
        "data": {"sources": [*sources, general]},
        "train": {
            "method": "full",
            "max_length": 256,
            "per_device_train_batch_size": 8,
            "max_steps": 400,
            "learning_rate": 2e-4,
            "warmup_steps": 20,
            "save_steps": 100,
            "eval_steps": 100,
        },
        "evaluate": {
            "domain_documents": 96,
            "general_path": str(write_passages(options.data / "wikitext2" / "test.txt", work / "wikitext2-test.jsonl")),
            "gate": {"min_domain_improvement": 0.25, "max_general_regression": 0.05},
        },
    }
    run("data", recipe, work)
    artifact = run("train", recipe, work)
    run("package", recipe, work)
    judged = facts(run("evaluate", recipe, work))
    return {"recipe": recipe["train"], "evaluation": judged, "curve": curve(artifact)}


def write_passages(text: Path, target: Path) -> Path:
    """Passages spread evenly over a text, each of at least 800 characters: a gate judges documents, and this is one."""
    passages, passage = [], ""
    for line in text.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.strip().startswith("="):
            passage += line.strip() + "\n"
        if len(passage) >= 800:
            passages.append(passage)
            passage = ""
    target.parent.mkdir(parents=True, exist_ok=True)
    chosen = passages[:: max(1, len(passages) // PASSAGES)][:PASSAGES]
    target.write_text("".join(json.dumps({"text": one}) + "\n" for one in chosen), encoding="utf-8")
    return target.resolve()


def run(stage: str, recipe: dict[str, Any], work: Path) -> Path:
    """`nexus STAGE` in `work`; the folder of its artifact."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    command = [sys.executable, "-m", "nexus_llm.cli", stage, "recipe.yaml", "--json"]
    done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3, 4):
        raise SystemExit(f"nexus {stage} ended with {done.returncode}")
    path = next(one["path"] for one in json.loads(done.stdout)["stages"] if one["stage"] == stage)
    return work / path


def facts(artifact: Path) -> dict[str, Any]:
    return dict(json.loads((artifact / "manifest.json").read_bytes())["facts"])


def curve(artifact: Path) -> list[dict[str, float]]:
    """Loss and seconds of every tenth step."""
    rows = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "loss", "validation_loss", "learning_rate", "tokens_per_second")
    return [
        {name: row[name] for name in kept if name in row}
        for row in rows
        if row["step"] % 10 == 0 or "validation_loss" in row
    ]


def answered(model: Path, questions: list[str]) -> list[str]:
    """The greedy answers of the trained model; those of like length are asked together."""
    from nexus_llm.evaluate.in_process import InProcessCompleter

    asked = [
        Question(str(place), messages=tuple(glue.asked(question)), max_new_tokens=16)
        for place, question in enumerate(questions)
    ]
    completer = InProcessCompleter.load(model, precision="bfloat16")
    given = {
        one.id: one.text.strip() for one in completer.generate(sorted(asked, key=lambda one: len(str(one.messages))))
    }
    return [given[one.id] for one in asked]


def scores(wanted: list[str], given: list[str]) -> dict[str, Any]:
    """Accuracy with its standard error and, for two labels, F1 of `yes`."""
    right = [one == other for one, other in zip(wanted, given, strict=True)]
    accuracy = sum(right) / len(right)
    found: dict[str, Any] = {
        "questions": len(right),
        "accuracy": round(accuracy, 4),
        "standard_error": round(math.sqrt(accuracy * (1 - accuracy) / len(right)), 4),
        "answers_that_are_no_label": sum(one not in set(wanted) for one in given),
    }
    if set(wanted) == set(MRPC_LABELS.values()):
        hits = sum(one == other == "yes" for one, other in zip(wanted, given, strict=True))
        found["f1"] = round(2 * hits / (wanted.count("yes") + given.count("yes")), 4)
    return found


def sst2(data: Path) -> tuple[list[Row], list[Row]]:
    def rows(path: Path) -> Iterator[Row]:
        for line in path.read_text(encoding="utf-8").splitlines():
            sentence, label = line.rsplit("\t", 1)
            yield f"Review: {sentence.strip()}\nSentiment?", SST2_LABELS[label.strip()]

    folder = data / "glue-dev" / "data" / "SST2"
    return list(rows(folder / "train.tsv")), list(rows(folder / "dev.tsv"))


def mrpc(data: Path) -> tuple[list[Row], list[Row]]:
    def rows(path: Path) -> Iterator[Row]:
        for line in path.read_text(encoding="utf-8-sig").splitlines()[1:]:
            label, _, _, first, second = line.split("\t")
            yield f"1: {first}\n2: {second}\nSame meaning?", MRPC_LABELS[label]

    folder = data / "glue-dev" / "data" / "para" / "msr"
    train = [*rows(folder / "msr-para-train.tsv"), *rows(folder / "msr-para-val.tsv")]
    swapped = [(swap(question), answer) for question, answer in train]
    return [*train, *swapped], list(rows(folder / "msr-para-test.tsv"))


def swap(question: str) -> str:
    first, second, rest = question.split("\n")
    return f"1: {second[3:]}\n2: {first[3:]}\n{rest}"


def banking77(data: Path) -> tuple[list[Row], list[Row]]:
    def rows(path: Path) -> list[Row]:
        with path.open(encoding="utf-8", newline="") as stream:
            return [(row["text"].strip(), row["category"].replace("_", " ")) for row in csv.DictReader(stream)]

    return rows(data / "banking77" / "train.csv"), rows(data / "banking77" / "test.csv")


TASKS = {"sst2": sst2, "mrpc": mrpc, "banking77": banking77}


if __name__ == "__main__":
    main()
