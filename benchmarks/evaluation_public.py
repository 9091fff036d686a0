"""Public benchmarks of SmolLM2-135M-Instruct and of what it was tuned to, beside published figures.

    python benchmarks/evaluation_public.py --base FOLDER --tuned FOLDER --data ../shared/data --work FOLDER
        [--limit N] [--precision float32]

Each round is one `nexus evaluate benchmarks` of the ordinary command line: the same command goes on where it was
stopped. `--tuned` is a run of the quickstart, or its package. With `--limit` only a set's first items are asked (a
quarter of that of GSM8K and each subject of MMLU), and the result says so. What changed from base to tuned is told item
for item by `nexus evaluate compare`, corrected (Holm) for all sets. IFEval, which takes longer than all of these
together, has a result of its own, `evaluation_ifeval_*.json`; HumanEval's answers are not scored here.

PUBLISHED holds what others measured, each with its source and how it was asked; a difference in the prompt, the number
of examples or the data is named in `explained`, because it moves small models by more than most tuning does.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

RESULTS = Path(__file__).parent / "results"
SETS = (
    "hellaswag,arc_easy,arc_challenge,piqa,winogrande,openbookqa,boolq,copa,cb,mrpc,sst2,cola,wsc273,lambada_openai,"
    "triviaqa"
)
# (tasks, options, through what the limit is divided): what takes longest an item comes last.
ROUNDS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    (SETS, (), 1),
    ("mmlu", ("--few-shot", "5"), 4),
    ("gsm8k", (), 4),
)
_SLERP = "lm-eval baseline in the card of lldois/SmolLM2-135M-Reasoning-SLERP-Champion, 0-shot, read 2026-11"
_MOBILE = "table in the card of facebook/MobileLLM-R1-140M, 0-shot pass@1, read 2026-11"
_GAUNTLET = "theirs the whole set, ours the first items of llm-foundry's copy, which has the hub's in another order"
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "hellaswag": [
        {"metric": "acc_norm", "value": 0.4299, "source": _SLERP,
         "explained": "same harness and prompt; theirs the whole set, ours its first items, which are the short ones"},
    ],
    "arc_easy": [{"metric": "acc", "value": 0.5412, "source": _SLERP, "explained": _GAUNTLET}],
    "arc_challenge": [{"metric": "acc_norm", "value": 0.2773, "source": _SLERP, "explained": _GAUNTLET}],
    "piqa": [{"metric": "acc_norm", "value": 0.6692, "source": _SLERP, "explained": _GAUNTLET}],
    "gsm8k": [
        {"metric": "exact_match,flexible-extract", "value": 0.0038, "source": _SLERP,
         "explained": "theirs without examples, ours with the five that the task names"},
        {"metric": "exact_match,flexible-extract", "value": 0.024, "source": _MOBILE,
         "explained": "theirs without examples, and not with this harness"},
    ],
}  # fmt: skip
# What a number means that looks wrong.
REMARKS = {
    "triviaqa": "Running text, no chat template: an instruction-tuned model mostly ends its turn at once, and nothing "
    "is no answer.",
    "boolq": "llm-foundry's copy lacks the title before each passage; both models say no to nearly every question.",
    "mrpc": "Both models say no to every pair; F1 counts those that are called the same.",
    "cola": "Both models give the same answer to every sentence, so that there is no correlation.",
}
_Z = 1.96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    folders = {"base": options.base, "tuned": options.tuned}
    measured = {name: all_rounds(options, name, folder) for name, folder in folders.items() if folder}
    result = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "precision": options.precision,
        "items a set, at most": options.limit,
        "changes": changes(options.work) if options.tuned else [],
        "sets": {task: row(task, measured) for task in sorted(next(iter(measured.values())))},
    }
    name = f"evaluation_public_{platform.machine()}_{result['date']}"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(page(result, list(measured)), encoding="utf-8")


def all_rounds(options: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """Task → what the command told about it."""
    found: dict[str, Any] = {}
    for number, (tasks, more, divisor) in enumerate(ROUNDS):
        words = [sys.executable, "-m", "nexus_llm.cli", "evaluate", "benchmarks", str(folder), "--json"]
        words += ["--tasks", tasks, "--datasets", str(options.data), "--out", str(options.work / name / str(number))]
        words += ["--precision", options.precision, *more]
        words += ["--limit", str(-(-options.limit // divisor))] if options.limit else []
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        told = json.loads(done.stdout)
        found |= {one["task"]: one for one in told["tasks"] if not one["task"].startswith("mmlu_")}
        found |= {f"{one['task']} ({one['sets']} of 57 subjects)": one for one in told["groups"]}
    return found


def changes(work: Path) -> list[dict[str, Any]]:
    """Each set's change from base to tuned, with its interval and verdict against no loss."""
    words = [sys.executable, "-m", "nexus_llm.cli", "evaluate", "compare", str(work / "base"), str(work / "tuned")]
    done = subprocess.run([*words, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    told = ("name", "metric", "items", "base_score", "tuned_score", "change", "low", "high", "verdict", "reason")
    return [{field: row[field] for field in told} for row in json.loads(done.stdout)["comparisons"]]


def row(task: str, measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    one = measured["base"][task]
    published = [
        other
        | {"within the exact interval": is_near(one["scores"][other["metric"]]["value"], one["items"], other["value"])}
        for other in PUBLISHED.get(task, ())
    ]
    return {
        "items": one["items"],
        "few-shot": one["few_shot"],
        "errors": {name: found[task]["errors"] for name, found in measured.items()},
        **{name: found[task]["scores"] for name, found in measured.items()},
        "published": published,
    }


def is_near(share: float, items: int, value: float) -> bool:
    """Whether a published share lies in the exact 95 % interval of ours."""
    interval = binomtest(round(share * items), items).proportion_ci(0.95)
    return bool(interval.low <= value <= interval.high)


def page(result: dict[str, Any], names: list[str]) -> str:
    lines = [
        f"# Public benchmarks, SmolLM2-135M-Instruct, {result['date']}",
        "",
        f"{result['hardware']}, {result['precision']}, lm-evaluation-harness's prompts and metrics; ± is 1.96 standard "
        f"errors. Items a set, at most: {result['items a set, at most'] or 'all'}. Published figures lie inside or "
        "outside of the exact 95 % interval of base.",
        "",
        f"| set | items | shots | metric | {' | '.join(names)} | published |",
        f"|---|---:|---:|---|{'---:|' * len(names)}---|",
    ]
    notes: list[str] = []
    for task, one in result["sets"].items():
        for metric in one[names[0]]:
            cells = " | ".join(cell(one[name][metric]) for name in names)
            others = [other for other in one["published"] if other["metric"] == metric]
            told = "; ".join(
                f"{other['value']:.3f} ({'inside' if other['within the exact interval'] else 'outside'})"
                for other in others
            )
            notes += [f"- {task}, {other['value']:.3f}: {other['source']}; {other['explained']}." for other in others]
            lines.append(f"| {task} | {one['items']} | {one['few-shot']} | {metric} | {cells} | {told} |")
    lines += ["", "## What was published, and what differs", "", *notes, "", "## What looks odd", ""]
    lines += [f"- {task}: {REMARKS[task]}" for task in result["sets"] if task in REMARKS]
    if result["changes"]:
        lines += ["", "## From base to tuned", "", "| set | metric | items | change | interval | against no loss |"]
        lines.append("|---|---|---:|---:|---|---|")
    for one in result["changes"]:
        change, low, high = ("unknown" if one[end] is None else f"{one[end]:+.3f}" for end in ("change", "low", "high"))
        compared = (one["name"], one["metric"], str(one["items"]), change, f"{low} to {high}", one["verdict"])
        lines.append(f"| {' | '.join(compared)} |")
    return "\n".join(lines) + "\n"


def cell(score: dict[str, Any]) -> str:
    error = score["standard_error"]
    return f"{score['value']:.3f}" + (f" ± {_Z * error:.3f}" if error else "")


if __name__ == "__main__":
    main()
