"""`nexus data why` and `nexus data preview`: what became of a record, and what the model will read of it."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.data_artifact import (
    ArtifactName,
    RunName,
    artifact_of_recipe,
    data_artifact,
    model_folder,
)
from nexus_llm.cli.options import AsJson, Root, workspace
from nexus_llm.errors import DataError, UsageError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.data.looking.inspect import Record

_LEARNED, _GIVEN, _RESET = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"
_SHOWN_RELATIVES = 5


def register(group: typer.Typer) -> None:
    """Adds the commands to `nexus data`."""
    group.command("why")(why)
    group.command("preview")(preview)


def why(
    name: Annotated[
        str | None, typer.Argument(help="A record's id, the start of one, or its path:line.", metavar="ID|ORIGIN")
    ] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="Examples of what one rule rejected.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="How many examples.")] = 5,
    run: RunName = None,
    artifact: ArtifactName = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """What became of one record: kept where, or rejected why. Exit 1 where nobody has seen it."""
    from nexus_llm.data.looking import inspect

    if (name is None) == (rule is None):
        raise UsageError("nexus data why needs a record, or --rule with a rule's name", fix="nexus data why ID")
    found = data_artifact(artifact or run, workspace(root))
    if rule is not None:
        return _print_examples(found, rule, count, as_json=as_json)
    assert name is not None
    records = inspect.find(found.folder, name)
    if not records:
        return _print_unknown(found, name, as_json=as_json)
    relatives = inspect.same_text(found.folder, records) if len(records) == 1 else []
    if as_json:
        rows = [_as_row(one, found) for one in records]
        print_json({"artifact": str(found.folder), "records": rows, "same_text": [_brief(one) for one in relatives]})
    elif len(records) == 1:
        _print_record(records[0], relatives, found)
    else:
        print(f"{name} fits {_amount(len(records))} records; nexus data why ID tells more about one:")
        for one in records:
            print(f"  {_line(one)}")
    return 0


def preview(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe, instead of --run.", metavar="[RECIPE]")] = None,
    run: RunName = None,
    artifact: ArtifactName = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "train",
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="How many documents.")] = 3,
    identity: Annotated[str | None, typer.Option("--id", help="One document: its id or path:line.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens shown of a document.")] = 400,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Documents as the trainer reads them, with what is learned in colour."""
    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.data.looking import inspect
    from nexus_llm.records import SPLITS

    if split not in SPLITS:
        raise UsageError(f"--split {split} is no split", fix=f"use one of: {', '.join(SPLITS)}")
    place = workspace(root)
    found = artifact_of_recipe(recipe, place) if recipe else data_artifact(artifact or run, place)
    records = [_the_kept_one(found, identity)] if identity else inspect.first_kept(found.folder, split, count)
    tokenizer = ChatTokenizer.load(model_folder(found, place))
    if as_json:
        print_json({"artifact": str(found.folder), "documents": [_decoded(one, found, tokenizer) for one in records]})
        return 0
    if not records:
        print(f"the split {split} has no documents", file=sys.stderr)
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for one in records:
        _print_document(_decoded(one, found, tokenizer), max_tokens, is_coloured=is_coloured)
    return 0


def printable(text: str) -> str:
    """`text` without what a terminal would obey: control characters become their visible signs (␛ for Escape)."""
    return "".join(_visible(one) for one in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20 and character not in "\n\t":
        return chr(0x2400 + code)
    return "\N{REPLACEMENT CHARACTER}" if 0x7F <= code < 0xA0 else character


def _the_kept_one(found: Artifact, identity: str) -> Record:
    from nexus_llm.data.looking import inspect

    records = inspect.find(found.folder, identity)
    kept = [one for one in records if one.place]
    if len(kept) == 1:
        return kept[0]
    if kept:
        raise UsageError(f"{identity} fits {_amount(len(kept))} documents", fix="write more of it, or the whole id")
    state = records[0].state if records else "not known"
    raise DataError(f"{identity} is in no shard: it is {state}", fix=f"nexus data why {identity}")


def _decoded(record: Record, found: Artifact, tokenizer: ChatTokenizer) -> dict[str, Any]:
    from nexus_llm.data.looking import inspect

    assert record.place is not None
    document = inspect.encoded(found.folder, record.place)
    token_ids = document.token_ids.tolist()
    pieces = [
        {
            "text": tokenizer.decode(token_ids[begin:end], keep_control_tokens=True),
            "tokens": end - begin,
            "is_learned": is_learned,
        }
        for begin, end, is_learned in inspect.spans(document.loss_mask)
    ]
    return {
        **_brief(record),
        "source": record.source,
        **{name: value for name, value in asdict(record.place).items() if name != "tokens"},
        "is_conversation": document.is_conversation,
        "tokens": token_ids,
        "loss_mask": document.loss_mask.tolist(),
        "pieces": pieces,
    }


def _print_document(row: dict[str, Any], max_tokens: int, *, is_coloured: bool) -> None:
    learned, total = sum(row["loss_mask"]), len(row["tokens"])
    kind = "conversation" if row["is_conversation"] else "running text"
    print(f"── {row['shard']} row {row['row']}  {row['id']}  {printable(row['origin'])}")
    print(f"   {kind}, {total:,} tokens, {learned:,} learned, read {row['repeats']}× in one pass")
    opening, closing = (_LEARNED, _RESET) if is_coloured else ("[[", "]]")
    dim, undim = (_GIVEN, _RESET) if is_coloured else ("", "")
    left, parts = max_tokens, []
    for piece in row["pieces"]:
        # Characters stand for tokens evenly: good enough to know where to stop, and no second decoding.
        text = (
            piece["text"] if piece["tokens"] <= left else piece["text"][: len(piece["text"]) * left // piece["tokens"]]
        )
        begin, end = (opening, closing) if piece["is_learned"] else (dim, undim)
        parts.append(f"{begin}{printable(text)}{end}" if text else "")
        left -= piece["tokens"]
        if left <= 0:
            break
    print("".join(parts))
    if total > max_tokens:
        print(f"   … about {total - max_tokens:,} more tokens (--max-tokens)")
    print()


def _print_unknown(found: Artifact, name: str, *, as_json: bool) -> int:
    from nexus_llm.data.looking import inspect

    near = inspect.nearest_origins(found.folder, name)
    if as_json:
        print_json({"artifact": str(found.folder), "records": [], "same_text": [], "nearest_origins": near})
        return 1
    print(f"{printable(name)}  unknown: no record of {found.folder} has this id or origin")
    for one in near:
        print(f"  near: {printable(one)}")
    return 1


def _print_examples(found: Artifact, rule: str, count: int, *, as_json: bool) -> int:
    from nexus_llm.data.looking import inspect

    records = inspect.rejected_by(found.folder, rule, count)
    if not records:
        counts = inspect.rule_counts(found.folder)
        listed = ", ".join(f"{name} {number:,}" for name, number in counts.items()) or "nothing"
        raise UsageError(f"the rule {rule} rejected nothing in {found.folder}", fix=f"rejected were: {listed}")
    if as_json:
        rows = [_as_row(one, found) for one in records]
        print_json({"artifact": str(found.folder), "rule": rule, "records": rows})
        return 0
    for one in records:
        _print_record(one, [], found)
        print()
    return 0


def _print_record(record: Record, relatives: list[Record], found: Artifact) -> None:
    row = _as_row(record, found)
    if "bound" in row:
        row["limit"] = f"{row['bound']} {row['threshold']:g} ({row['unit']})"
    print(f"{record.id or '(no id)'}  {printable(record.origin)}\n{record.state}: {printable(_what(record))}")
    shown = ("source", "language", "cluster", "value", "limit", "paper", "deviation")
    for name in shown:
        if row.get(name) is not None:
            print(f"  {name:<10} {printable(str(row[name]))}")
    if record.excerpt:
        print(f"  text       {printable(record.excerpt)}")
    elif record.state == "rejected":
        print("  text       (not shown: what this rule takes out is not for reading)")
    if relatives:
        print(f"the same or nearly the same text ({_amount(len(relatives), most=None)}):")
    for one in relatives[:_SHOWN_RELATIVES]:
        print(f"  {_line(one)}")
    if len(relatives) > _SHOWN_RELATIVES:
        print(f"  … and {len(relatives) - _SHOWN_RELATIVES:,} more (--json lists all)")


def _what(record: Record) -> str:
    if record.place:
        place = record.place
        return f"{place.shard} row {place.row}, {place.tokens:,} tokens, read {place.repeats}× in one pass"
    if record.state == "quarantined":
        return f"could not be read: {record.error}"
    return f"{record.rule}: {record.reason}"


def _line(record: Record) -> str:
    where = f"{record.place.shard} row {record.place.row}" if record.place else record.rule or record.error
    return printable(f"{record.id or '(no id)':<32}  {record.state:<11} {where}  {record.origin}")


def _as_row(record: Record, found: Artifact) -> dict[str, Any]:
    row: dict[str, Any] = asdict(record)
    if record.rule is not None:
        from nexus_llm.data.looking import inspect

        row |= _rule_facts(record.rule, found.manifest.recipe)
        row["duplicate_of"] = inspect.duplicate_of(record)
    return row


def _brief(record: Record) -> dict[str, Any]:
    return {"id": record.id, "state": record.state, "origin": record.origin, "rule": record.rule}


def _rule_facts(rule: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """What the published rules say about a rule, with the threshold that the recipe gave it; empty for other steps."""
    from nexus_llm.data.judging.rules import load_spec

    published = next((one for one in load_spec().rules if one.id == rule), None)
    if published is None:
        return {}
    quality = recipe.get("data", {}).get("quality", {})
    thresholds = quality | quality.get("thresholds", {})
    return {
        "threshold": thresholds.get(rule, published.threshold),
        "bound": "at least" if published.at_most is None else "at most",
        "unit": published.unit,
        "paper": published.source,
        "deviation": published.deviation,
    }


def _amount(count: int, *, most: int | None = 50) -> str:
    return f"{count:,} or more" if most is not None and count >= most else f"{count:,}"
