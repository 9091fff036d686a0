"""`nexus aws rewind`, a bucket as it was at a moment; `nexus aws drill restore`, the proof that all comes back."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import agree, print_json
from nexus_llm.cli.options import AsJson, DryRun, ports
from nexus_llm.errors import UsageError

if TYPE_CHECKING:
    from nexus_llm.ports import Progress


def register(group: typer.Typer) -> None:
    """Adds the commands to `nexus aws`."""
    group.command("rewind")(rewind)
    drills = typer.Typer(help="What would be left after a disaster, tried on an emulated account.")
    drills.command("restore")(drill_restore)
    group.add_typer(drills, name="drill")


def rewind(
    place: Annotated[
        str, typer.Argument(help="A bucket that keeps versions, or a part.", metavar="s3://BUCKET[/PREFIX]")
    ],
    to: Annotated[str, typer.Option("--to", help="2026-11-22T10:00:00Z; without a zone: UTC.", metavar="MOMENT")],
    region: Annotated[str | None, typer.Option(help="Of the bucket [default: AWS_REGION].")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Bring deleted and overwritten objects back as they were at a moment. Newer objects stay."""
    from nexus_llm.cloud.account import open_account
    from nexus_llm.cloud.bucket_versions import plan_rewind
    from nexus_llm.cloud.bucket_versions import rewind as carry_out

    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    if not place.startswith("s3://") or not bucket:
        raise UsageError(f"{place} is no bucket", fix="for example: s3://nexus-small-models-123456789012/package/")
    s3 = open_account(region).client("s3")
    planned = plan_rewind(s3, bucket, prefix, moment=_moment(to))
    changing = [one for one in planned if one.change != "newer, left alone"]
    if not as_json:
        for one in planned:
            print(f"{one.change:<18} {one.key}")
    if changing and not dry_run:
        would = f"this would change {len(changing):,} objects of {bucket}"
        agree(f"Change {len(changing):,} objects?", unagreed=would, fix="--yes, or --dry-run", yes=yes, as_json=as_json)
        carry_out(s3, bucket, changing)
    if as_json:
        print_json({"bucket": bucket, "to": to, "objects": [asdict(one) for one in planned], "dry_run": dry_run})
    else:
        print(f"{len(changing):,} objects {'would be' if dry_run else 'are'} as they were at {to}")
    return 0


def drill_restore(
    megabytes: Annotated[int, typer.Option(min=1, help="Size of the model that is lost.")] = 32, as_json: AsJson = False
) -> int:
    """Write, back up, destroy, restore, compare: on an emulated AWS and a real PostgreSQL. Exit 1 if anything differs.

    Sees no account and needs no credentials.
    """
    document = drilled(megabytes, ports().progress)
    if as_json:
        print_json(document)
        return 0 if document["holds"] else 1
    print(f"{'':<26}{'newer than its copy':>20}{'back after':>12}   compared")
    for one in document["systems"]:
        mark = "equal" if one["equal"] else "DIFFERENT"
        print(
            f"{one['name']:<26}{one['rpo_seconds']:>18.1f} s{one['rto_seconds']:>10.1f} s   {mark}: {one['compared']}"
        )
    for words in document["not_run"]:
        print(f"NOT TRIED: {words}")
    said = "holds" if document["holds"] else "DOES NOT HOLD"
    print(f"{said}: all back and compared in {document['rto_seconds']:.1f} s (limit {document['limit_seconds']:.0f} s)")
    return 0 if document["holds"] else 1


def drilled(megabytes: int, progress: Progress) -> dict[str, Any]:
    """The drill's document, on an emulator and a database that end with it."""
    from nexus_llm.cli.serve import require_serving
    from nexus_llm.cloud.emulator import ACCOUNT, REGION, entered, running_emulator
    from nexus_llm.cloud.local_postgres import local_postgres
    from nexus_llm.cloud.restore_drill import Ground, make_buckets, restore_drill
    from nexus_llm.cloud.stack_life import regional_clients

    require_serving()
    with (
        tempfile.TemporaryDirectory(prefix="nexus-drill-") as folder,
        local_postgres() as postgres,
        running_emulator() as emulator,
        entered(emulator),
    ):
        s3 = regional_clients("s3", REGION)
        models, states, backups = names = tuple(f"drill-{one}-{ACCOUNT}" for one in ("models", "state", "backups"))
        make_buckets(s3, names, REGION)
        ground = Ground(
            Path(folder) / "work", s3, models, states, f"s3://{backups}/nexus", postgres, megabytes=megabytes
        )
        ground.folder.mkdir()
        return restore_drill(ground, progress)


def _moment(given: str) -> datetime:
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise UsageError(f"--to {given} is no moment", fix="for example: --to 2026-11-22T10:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
