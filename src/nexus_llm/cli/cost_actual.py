"""`nexus cost refresh` and `nexus cost actual`: prices of today, and what was really spent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import console_progress, print_json
from nexus_llm.cli.cost_inputs import Prices, Quick, planner, price_file, price_table, read_text, warn
from nexus_llm.cli.options import AsJson, KeysDatabase
from nexus_llm.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nexus_llm.cost.actual import Spent, Usage


def register(group: typer.Typer) -> None:
    """Adds the commands."""
    group.command("refresh")(refresh)
    group.command("actual")(actual)


def refresh(
    what: Annotated[
        str,
        typer.Option(help="public (AWS's files, some hundred MB), apis (litellm), account (spot, savings plans), all"),
    ] = "public",
    region: Annotated[str, typer.Option(help="Whose prices.")] = "us-east-1",
    file: Annotated[Path | None, typer.Option(help="Table to write [default: the cache's].", metavar="CSV")] = None,
    as_json: AsJson = False,
) -> int:
    """Fetch prices of today; a stale, partial or unbelievable answer never replaces the table in use."""
    from nexus_llm.cost.hardware import machines
    from nexus_llm.cost.prices.offers import missing_prices, updated
    from nexus_llm.storage import write_atomically

    if what not in ("public", "apis", "account", "all"):
        raise UsageError(f"--what {what} is no source of prices", fix="use public, apis, account or all")
    target = file or price_file()
    table = price_table(file if file is not None and file.exists() else None)
    found = _fetched(what, region)
    table = updated(table, found)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, table.as_csv().encode())
    missing = missing_prices(found, sorted(machines())) if what in ("public", "all") else []
    document = {
        "path": str(target), "prices": len(table.rows), "fetched": len(found), "region": region, "missing": missing
    }  # fmt: skip
    if as_json:
        print_json(document)
    else:
        print(f"{target}: {len(found)} prices fetched, {len(table.rows)} in all; the others keep their day")
    if missing:
        warn([f"AWS's files of {region} have no price of {', '.join(missing)}; a plan that needs one is an error"])
    return 0


def actual(
    recipe: Annotated[Path | None, typer.Option(help="Whose plan to compare with.", metavar="RECIPE")] = None,
    report_csv: Annotated[Path | None, typer.Option("--cur", help="A Cost and Usage Report.", metavar="CSV")] = None,
    database: KeysDatabase = None,
    usage: Annotated[
        Path | None, typer.Option(help="Instead of a database: requests as JSON lines.", metavar="FILE")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="Cost Explorer: whole days before today.")] = 30,
    tag: Annotated[str | None, typer.Option(help="Cost Explorer: only what carries this tag.", metavar="K=V")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask Cost Explorer, which takes 0.01 USD a request.")] = False,
    page: Annotated[Path | None, typer.Option("--report", help="Write a page.", metavar="FILE.html")] = None,
    quick: Quick = False,
    prices: Prices = None,
    as_json: AsJson = False,
) -> int:
    """What was spent, against plan and APIs: by service, day, key, model and request, and what idle hours cost."""
    from nexus_llm.cost.actual import Usage, actual_document, usage_rows
    from nexus_llm.cost.report import actual_page
    from nexus_llm.recipe import load_recipe
    from nexus_llm.storage import write_atomically

    spent = _spent(report_csv, days, tag, may_pay=yes)
    used = Usage()
    if usage is not None:
        used = usage_rows(read_text(usage), place=str(usage))
    elif database is not None and spent:
        used = _recorded(database, since=min(row.day for row in spent))
    plans = planner(load_recipe(recipe), price_table(prices), is_quick=quick)[0] if recipe else None
    document = actual_document(spent, used, planner=plans)
    if page is not None:
        write_atomically(page, actual_page(document).encode())
    if as_json:
        print_json(document)
    else:
        _print_actual(document)
    return 0


def _fetched(what: str, region: str) -> list[Any]:
    from nexus_llm.cloud.account import open_account
    from nexus_llm.cloud.price_refresh import PriceSources, fetch, fetch_lines
    from nexus_llm.cost.hardware import machines

    progress, names = console_progress(), sorted(machines())

    def lines(url: str) -> Iterator[str]:
        progress.start("EC2's and RDS's price lists", total=None, unit="bytes")
        yield from fetch_lines(url, progress.advance)
        progress.finish()

    today = datetime.now(UTC).date()
    sources = PriceSources(fetch, lambda service, place: open_account(place).client(service), today, lines)
    found = []
    if what in ("public", "all"):
        found += sources.public(region, names)
    if what in ("apis", "all"):
        found += sources.interfaces()
    if what in ("account", "all"):
        found += sources.machines(names, region)
    return found


def _spent(report_csv: Path | None, days: int, tag: str | None, *, may_pay: bool) -> list[Spent]:
    from nexus_llm.cost.actual import explorer_rows, report_rows

    if report_csv is not None:
        if tag:
            raise UsageError(
                f"--tag {tag} does not filter a report", fix="leave --tag out, or filter the report itself"
            )
        return report_rows(read_text(report_csv), place=str(report_csv))
    if not may_pay:
        raise UsageError(
            "Cost Explorer takes 0.01 USD a request",
            fix="agree with --yes, or give a Cost and Usage Report: --cur FILE",
        )
    from nexus_llm.cloud.account import open_account
    from nexus_llm.cloud.cost_explorer import REGION, daily_costs

    name, equals, value = (tag or "").partition("=")
    if tag and not equals:
        raise UsageError(f"--tag {tag} is not of the form KEY=VALUE", fix="for example: --tag project=nexus")
    end = datetime.now(UTC).date()  # not included: today's bill is not whole
    start = end - timedelta(days=days)
    chosen = (name, value) if tag else None
    return explorer_rows(daily_costs(open_account(REGION).client, start=start, end=end, tag=chosen))


def _recorded(database: str, *, since: date) -> Usage:
    """What a gateway has written into its database."""
    from nexus_llm.cli.keys import with_database
    from nexus_llm.cli.serve import require_serving
    from nexus_llm.cost.actual import Usage, Used

    require_serving()
    from nexus_llm.serve.access.usage_report import usage_by_day

    rows, hours = with_database(database, lambda opened: usage_by_day(opened, since_day=since.isoformat()))
    used = (
        Used(date.fromisoformat(row.day), row.key, row.model, row.requests, row.prompt_tokens, row.completion_tokens)
        for row in rows
    )
    return Usage(tuple(used), frozenset(datetime.fromtimestamp(hour, UTC) for hour in hours))


def _print_actual(document: dict[str, Any]) -> None:
    from nexus_llm.cost.report import actual_words

    print(
        f"{document['from']} to {document['to']}: {document['usd']:,.2f} USD, {document['usd_per_month']:,.2f} a month"
    )
    if document["planned_usd_per_month"] is not None:
        print(f"planned {document['planned_usd_per_month']:,.2f} a month: {document['over_plan_share']:+.1%}")
    for field in ("services", "keys", "models"):
        for row in document[field]:
            each = f"  {row['requests']:>10,} requests" if "requests" in row else ""
            print(f"  {field[:-1]:<8} {row['name']:<40} {row['usd']:>12,.2f}{each}")
    for words in actual_words(document):
        print(words)
