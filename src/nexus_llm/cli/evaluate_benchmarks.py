"""`nexus evaluate benchmarks`: public benchmarks of any model or server, by lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.data_artifact import data_artifact
from nexus_llm.cli.evaluate_asked import (
    IN_PROCESS,
    Engine,
    KeyVariable,
    Precision,
    Served,
    checked,
    opened,
    without_nan,
)
from nexus_llm.cli.options import AsJson, Root, ports, workspace
from nexus_llm.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from nexus_llm.evaluate.contamination import Contamination
    from nexus_llm.evaluate.results import TaskResult

_FILE = "benchmarks.json"
Target = Annotated[str, typer.Argument(help="A run, a model, or a server's address.", metavar="RUN|MODEL|URL")]


def register(group: typer.Typer) -> None:
    """Adds the command to `nexus evaluate`."""
    group.command("benchmarks")(benchmarks)


def benchmarks(
    target: Target,
    tasks: Annotated[str, typer.Option(help="hellaswag,arc_easy,mmlu,glue,gsm8k,…", metavar="A,B")],
    datasets: Annotated[Path | None, typer.Option(help="Folder with the sets' files.", metavar="DIR")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Fetch the sets from the hub instead.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only a task's first items.")] = None,
    few_shot: Annotated[int | None, typer.Option(min=0, help="Solved examples [default: each task's own].")] = None,
    out: Annotated[Path | None, typer.Option(help="[default: evaluations/NAME]", metavar="FOLDER")] = None,
    engine: Engine = IN_PROCESS,
    precision: Precision = "float32",
    chat: Annotated[bool, typer.Option("--chat", help="Ask in a conversation, by the model's template.")] = False,
    against: Annotated[
        str | None, typer.Option(help="Look for the items in what a run trained on.", metavar="RUN")
    ] = None,
    served: Served = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once, to a server.")] = 8,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds without a sign of the server.")] = 300.0,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Public benchmarks with the harness's own prompts and metrics. The same command goes on where it was stopped."""
    if (datasets is None) != hub:
        raise UsageError("nobody says where the sets are", fix="--datasets DIR with the files, or --hub to fetch them")
    checked(precision)
    _prepare(is_offline=not hub)
    from nexus_llm.evaluate.benchmarks import BenchmarkWishes, run_task
    from nexus_llm.evaluate.harness import HarnessTasks
    from nexus_llm.evaluate.local_sets import scored_groups, tasks_of
    from nexus_llm.evaluate.over_http import HttpLimits
    from nexus_llm.pipeline.contamination import overlaps

    asked = [one.strip() for one in tasks.split(",") if one.strip()]
    names, absent = tasks_of(asked, datasets)
    for group, missing in absent.items():
        print(f"warning: {len(missing)} sets of {group} are not in {datasets}: {_some(missing)}", file=sys.stderr)
    openings, known = ports(), HarnessTasks()
    wishes = BenchmarkWishes(datasets, limit=limit, few_shot=few_shot, as_chat=chat)
    with opened(
        target,
        served=served,
        precision=precision,
        root=root,
        engine=engine,
        key_variable=key_variable,
        limits=HttpLimits(concurrency=concurrency, timeout_seconds=timeout),
    ) as completer:
        facts = completer.describe()
        folder = out or root / "evaluations" / facts.model.replace("/", "--")
        runs = {}
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            runs[name] = run_task(name, known, completer, wishes, folder / name, openings)
    data = data_artifact(against, workspace(root)).folder if against else None
    texts = {name: one.texts for name, one in runs.items()}
    found = overlaps(data, texts, openings.progress) if data else {}
    results = [(one.result, found.get(name)) for name, one in runs.items()]
    groups = {one: [runs[name].result for name in tasks_of([one], datasets)[0]] for one in scored_groups(asked)}
    _tell(asdict(facts), results, groups, absent, folder, as_json=as_json)
    return 0


def _prepare(*, is_offline: bool) -> None:
    """Before the harness is imported, which reads these once: nothing is fetched that nobody asked for."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtraError.for_extra("eval", "lm_eval")
    if is_offline:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def _tell(
    facts: Mapping[str, Any],
    results: Sequence[tuple[TaskResult, Contamination | None]],
    groups: Mapping[str, Sequence[TaskResult]],
    absent: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    as_json: bool,
) -> None:
    from nexus_llm.evaluate.summary import pooled, summary_of
    from nexus_llm.storage import write_atomically

    rows = [(summary_of(result), overlap) for result, overlap in results]
    together = [(pooled(group, members), len(members)) for group, members in groups.items()]
    document = {
        "completer": facts,
        "folder": str(folder),
        "tasks": [asdict(one) | {"contamination": _as_document(overlap)} for one, overlap in rows],
        "groups": [asdict(one) | {"sets": sets} for one, sets in together],
        "missing": absent,
    }
    import json

    document = without_nan(document)
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(folder / _FILE, text.encode())
    if as_json:
        print_json(document)
        return
    print(f"{'task':<34} {'items':>6}  {'metric':<28} {'value':>8} {'± 1.96 se':>9}  notes")
    for one, overlap, sets in [*((one, overlap, 0) for one, overlap in rows), *((one, None, n) for one, n in together)]:
        notes = [f"{sets} sets"] if sets else []
        notes += [f"{one.few_shot}-shot"] if one.few_shot else []
        notes += [f"{one.errors} without an answer ({one.most_frequent_error})"] if one.errors else []
        notes += [f"{one.cut_items} cut"] if one.cut_items else []
        notes += [_overlap(overlap)] if overlap else []
        for metric, score in one.scores.items():
            margin = f"{1.96 * score.standard_error:9.4f}" if score.standard_error is not None else f"{'':>9}"
            print(f"{one.task:<34} {one.items:>6}  {metric:<28} {score.value:>8.4f} {margin}  {', '.join(notes)}")
        if not one.scores:
            print(f"{one.task:<34} {one.items:>6}  {'not known':<28} {'':>8} {'':>9}  {', '.join(notes)}")
    print(f"\nitem by item  {folder}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _as_document(found: Contamination | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found) | {"share": found.share}


def _overlap(found: Contamination) -> str:
    if found.share is None:
        return "overlap with the training text not known: items too short"
    return f"{len(found.overlapping)} of {found.checked} in the training text"
