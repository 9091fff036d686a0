"""`nexus data sources` and `nexus data fetch`: which corpora there are, and how they come here."""

from __future__ import annotations

import hashlib
import os
import sys
import textwrap
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import SignalInterrupt, console_progress, print_json
from nexus_llm.cli.options import AsJson, DryRun, cache_folder

if TYPE_CHECKING:
    from nexus_llm.cloud.fetch import FetchOptions, FetchPlan, Place
    from nexus_llm.cloud.fetch_sources import Resolved, Wishes
    from nexus_llm.data.catalogue.download import FetchedFile, Remote
    from nexus_llm.data.catalogue.entries import CatalogueSource

ASKING_BYTES = 50 * 10**9  # above this a mistyped name costs an hour: the user is asked


def register(app: typer.Typer) -> None:
    """Adds the commands to the group `nexus data`."""
    app.command("sources")(list_sources)
    app.command()(fetch)


def list_sources(
    identifier: Annotated[str, typer.Argument(help="Show this one in full.", metavar="[ID]")] = "",
    kind: Annotated[str, typer.Option("--kind", help="pretraining, sft or preference.")] = "",
    as_json: AsJson = False,
) -> None:
    """Public corpora and training sets: licence, size, status, and how to get them."""
    from nexus_llm.data.catalogue.entries import KINDS, find_source, load_catalogue, recipe_snippet
    from nexus_llm.errors import UsageError

    catalogue = load_catalogue()
    if kind and kind not in KINDS:
        raise UsageError(f"--kind {kind!r} is unknown", fix=f"use one of {', '.join(KINDS)}")
    if identifier:
        entry = find_source(identifier, catalogue)
        if as_json:
            print_json({**entry.as_document(), "recipe": recipe_snippet(entry)})
        else:
            _print_source(entry, recipe_snippet(entry))
        return
    chosen = [entry for entry in catalogue if kind in ("", entry.kind)]
    if as_json:
        print_json({"sources": [entry.as_document() for entry in chosen]})
        return
    _print_sources(chosen)


def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            help="An id of the catalogue, a URL, a file with URLs, hf:ORG/NAME[@REV], s3://…", metavar="WHAT"
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="Folder or s3://bucket/prefix.", metavar="PLACE")],
    config: Annotated[str, typer.Option("--config", help="Part of a data set on the hub.")] = "",
    split: Annotated[str, typer.Option("--split", help="Split of a data set on the hub.")] = "",
    max_documents: Annotated[
        int, typer.Option("--max-documents", min=0, help="Only the first N rows, streamed into one jsonl.", metavar="N")
    ] = 0,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=64, help="Files at the same time.")] = 4,
    sha256: Annotated[str, typer.Option("--sha256", help="What the one file must hash to.", metavar="HEX")] = "",
    max_bytes: Annotated[str, typer.Option("--max-bytes", help="Refuse more than this (20GB).", metavar="N")] = "",
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download a corpus, resumably and verified, into a folder or s3://."""
    from nexus_llm.cloud.downloads import HttpRemote, http_client
    from nexus_llm.cloud.fetch import FetchOptions
    from nexus_llm.cloud.fetch_sources import Wishes, resolve
    from nexus_llm.cloud.hub_datasets import hub_from_environment, hub_tokens
    from nexus_llm.cloud.stored_files import RemoteByScheme, StoredRemote
    from nexus_llm.data.catalogue.download import byte_amount
    from nexus_llm.data.catalogue.entries import load_catalogue

    interrupt = SignalInterrupt()
    interrupt.install()
    options = FetchOptions(
        parallel=parallel,
        max_bytes=byte_amount(max_bytes) if max_bytes else None,
        progress=console_progress(),
        interrupt=interrupt,
    )
    wishes = Wishes(config or None, split or None, max_documents or None, sha256 or None)
    place = _place(to)
    with http_client(connections=parallel, tokens=hub_tokens(os.environ)) as client:
        remote = RemoteByScheme(HttpRemote(client), StoredRemote())
        hub = hub_from_environment(os.environ, client)
        resolved = resolve(names, wishes, catalogue=load_catalogue(), hub=hub, remote=remote)
        if resolved.rows:
            _fetch_rows(resolved, wishes, place, options, dry_run=dry_run, yes=yes, as_json=as_json)
        else:
            _fetch_files(resolved, remote, place, options, dry_run=dry_run, yes=yes, as_json=as_json)


def _fetch_files(
    resolved: Resolved,
    remote: Remote,
    place: Place,
    options: FetchOptions,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from nexus_llm.cloud.fetch import check_plan, plan_fetch, run_fetch

    stop = threading.Event()
    plan = plan_fetch(resolved.files, place, remote, options, stop=stop)
    if dry_run:
        _print_plan(plan, as_json=as_json)
        return
    check_plan(plan, options)
    _confirm(resolved, plan.bytes_left, yes=yes)
    fetched = run_fetch(plan, remote, options, stop=stop)
    skipped = {one.wanted.name for one in plan.files if one.is_finished}
    _print_result(resolved, place, fetched, skipped, as_json=as_json)


def _fetch_rows(
    resolved: Resolved,
    wishes: Wishes,
    place: Place,
    options: FetchOptions,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from nexus_llm.cloud.fetch import fetch_rows
    from nexus_llm.cloud.hub_datasets import rows_name, streamed_rows

    assert wishes.max_documents is not None
    if dry_run:
        rows = [{"name": rows_name(part, wishes.max_documents), "dataset": part.dataset} for part in resolved.rows]
        if as_json:
            print_json({"to": str(place), "files": rows, "max_documents": wishes.max_documents})
        else:
            print("\n".join(f"{row['name']}: up to {wishes.max_documents} rows of {row['dataset']}" for row in rows))
        return
    _confirm(resolved, 0, yes=yes)
    before = set(place.receipt())
    fetched = fetch_rows(resolved.rows, place, options, max_documents=wishes.max_documents, read=streamed_rows)
    _print_result(resolved, place, fetched, before, as_json=as_json)


def _place(to: str) -> Place:
    from nexus_llm.cloud.fetch import Place

    scheme = to.split("://", maxsplit=1)[0] if "://" in to else ""
    if scheme in ("", "file"):
        return Place(Path(to.removeprefix("file://")).expanduser())
    bucket = to.rstrip("/")
    # The same place gives the same staging folder, so that the same command finds its half-done files again.
    return Place(cache_folder() / "fetch" / hashlib.sha256(bucket.encode()).hexdigest()[:16], bucket)


def _confirm(resolved: Resolved, bytes_left: int, *, yes: bool) -> None:
    """Asks where terms must be accepted, where a source is not what its name promises, or where it is very much."""
    from nexus_llm.errors import UsageError

    reasons = [
        f"{entry.name} needs that you accept: {entry.access.accept}"
        for entry in resolved.entries
        if entry.access.accept
    ]
    reasons += [f"{entry.name} is reduced: {entry.notes}" for entry in resolved.entries if entry.status == "reduced"]
    reasons += [f"{bytes_left / 1e9:,.0f} GB will be downloaded"] if bytes_left > ASKING_BYTES else []
    if not reasons or yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("; ".join(reasons), fix="add --yes if that is fine")
    typer.confirm("\n".join([*reasons, "Go on?"]), abort=True, err=True)


def _print_plan(plan: FetchPlan, *, as_json: bool) -> None:
    from nexus_llm.cloud.fetch import ASSUMED_BYTES_PER_SECOND

    rows = [
        {"name": one.wanted.name, "url": one.wanted.url, "bytes": one.size, "have_bytes": one.have_bytes}
        for one in plan.files
    ]
    document = {
        "to": str(plan.place),
        "files": rows,
        "bytes_left": plan.bytes_left,
        "unknown_sizes": plan.unknown_sizes,
        "free_bytes": plan.free_bytes,
        "seconds": round(plan.seconds),
        "assumed_bytes_per_second": ASSUMED_BYTES_PER_SECOND,
    }
    if as_json:
        print_json(document)
        return
    for one in plan.files[:20]:
        print(f"{_bytes(one.size):>10}  {one.wanted.name}")
    if len(rows) > 20:
        print(f"{'…':>10}  {len(rows) - 20} more")
    unknown = f", and {plan.unknown_sizes} files of unknown size" if plan.unknown_sizes else ""
    print(
        f"{len(plan.missing)} of {len(rows)} files to fetch: {_bytes(plan.bytes_left)}{unknown}; "
        f"{_bytes(plan.free_bytes)} free in {plan.place.folder}; "
        f"about {plan.seconds / 60:,.0f} min at {ASSUMED_BYTES_PER_SECOND / 1e6:.0f} MB/s (assumed, not measured)"
    )


def _print_result(
    resolved: Resolved, place: Place, fetched: list[FetchedFile], skipped: set[str], *, as_json: bool
) -> None:
    rows = [{**asdict(one), "skipped": one.name in skipped} for one in fetched]
    total = sum(one.bytes for one in fetched)
    if as_json:
        print_json({"to": str(place), "bytes": total, "files": rows})
        return
    new = sum(not row["skipped"] for row in rows)
    print(f"{len(rows)} files ({_bytes(total)}) in {place}: {new} new, {len(rows) - new} were there")
    for entry in resolved.entries:
        print(f"{entry.id}: licence {entry.licence or 'not stated'}, {entry.source.url}")


def _print_sources(entries: list[CatalogueSource]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("id", "kind", "status", "licence", "download", "records", "tokens"):
        table.add_column(heading, justify="right" if heading in ("download", "records", "tokens") else "left")
    for entry in entries:
        tokens = f"{entry.tokens.count / 1e9:,.0f} G" if entry.tokens else "?"
        records = f"{entry.records:,}" if entry.records else "?"
        licence = entry.licence or "not stated"
        table.add_row(entry.id, entry.kind, entry.status, licence, _bytes(entry.size_bytes), records, tokens)
    # A pipe has no width: rows must stay whole for grep.
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print("Numbers are those that the sources state (?: none found). nexus data sources ID shows one in full.")


def _print_source(entry: CatalogueSource, recipe: str) -> None:
    tokens = f"{entry.tokens.count:,} ({entry.tokens.tokenizer or 'tokenizer not stated'})" if entry.tokens else "?"
    rows: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.kind,
        "status": entry.status,
        "licence": entry.licence or "not stated",
        "download": _bytes(entry.size_bytes),
        "text": _bytes(entry.text_bytes),
        "tokens": tokens,
        "records": f"{entry.records:,}" if entry.records else "?",
        "accept": entry.access.accept,
        "steps": entry.access.instructions,
        "instead": ", ".join(entry.alternatives),
        "says": f"{entry.source.url} (read {entry.source.read})",
        "notes": entry.notes,
    }
    for name, value in rows.items():
        if value:
            print(textwrap.fill(str(value), 110, initial_indent=f"{name:<9}", subsequent_indent=" " * 9))
    if entry.access.how in ("hf", "url-list", "urls") and entry.status != "gone":
        print(f"\nnexus data fetch {entry.id} --to data/{entry.id}")
    if entry.status != "gone":
        print(f"\n{recipe}")


def _bytes(value: int | None) -> str:
    if value is None:
        return "?"
    for bound, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= bound:
            return f"{value / bound:,.1f} {unit}"
    return f"{value} B"
