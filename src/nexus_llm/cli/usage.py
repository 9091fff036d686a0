"""`nexus usage`: what was used, by whom and for how much."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.keys import with_database
from nexus_llm.cli.options import AsJson, KeysDatabase
from nexus_llm.cli.serve import require_serving
from nexus_llm.errors import UsageError


class By(StrEnum):
    """What a row stands for."""

    day = "day"
    key = "key"
    model = "model"


def usage(
    key: Annotated[str | None, typer.Option(help="Only this key: its name or id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    since: Annotated[str | None, typer.Option(help="From this day on, such as 2026-11-01 (UTC).")] = None,
    by: Annotated[By, typer.Option(help="One row for each of these.")] = By.key,
    database: KeysDatabase = None,
    as_json: AsJson = False,
) -> int:
    """Requests, tokens and cost of a gateway with keys."""
    require_serving()
    from nexus_llm.serve.access.key_form import day
    from nexus_llm.serve.access.usage_report import usage_rows

    try:
        since_day = day(since)
    except ValueError as error:
        raise UsageError(f"--since {since} {error}", fix="for example: --since 2026-11-01") from None
    rows = with_database(
        database, lambda opened: usage_rows(opened, by=by.value, key=key, model=model, since_day=since_day)
    )
    if as_json:
        print_json({"by": by.value, "usage": [row.document(by.value) for row in rows]})
        return 0
    if not rows:
        print("nothing was used", file=sys.stderr)
        return 0
    print(f"{by.value:<24} {'requests':>10} {'unfinished':>10} {'prompt':>12} {'completion':>12} {'USD':>12}")
    for row in rows:
        counts = f"{row.requests:>10} {row.unfinished:>10} {row.prompt_tokens:>12} {row.completion_tokens:>12}"
        print(f"{row.group:<24} {counts} {row.usd:>12.6f}")
    return 0
