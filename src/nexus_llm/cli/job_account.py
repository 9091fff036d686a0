"""The AWS account as the commands use it: its clients, whoever watches at this terminal, prices for what jobs use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexus_llm.cloud.account import Account, Spending
    from nexus_llm.cloud.launcher import JobState
    from nexus_llm.cost.job_bill import JobBill
    from nexus_llm.ports import Interrupt


def account(
    region: str | None,
    interrupt: Interrupt,
    *,
    shows_lines: bool = True,
    spending: Callable[[str, JobState], Spending] | None = None,
) -> Account:
    """The account of the environment's credentials in a region; None is what the environment says. `spending` meters
    the jobs that are followed, and may end them.
    """
    from nexus_llm.cloud.account import Spending, Watch, open_account

    opened = open_account(region)
    watch = Watch(
        stop_requested=interrupt.requested,
        cost_words=cost_words(lambda: str(opened.region)),
        spending=spending or (lambda job, state: Spending()),  # noqa: ARG005
        show_line=show_line if shows_lines else lambda _: None,
    )
    return replace(opened, watch=watch)


def cost_words(region: Callable[[], str]) -> Callable[[JobState], str]:
    """How to say what a job cost, with the day of the prices; and why not, where nobody can know."""

    def words(state: JobState) -> str:
        if not state.usage:
            return f"cost not known: {state.unbilled}" if state.unbilled else ""
        found = bill(state, region())
        if found.usd is None:
            return f"cost not known: no price of {', '.join(found.without_price)} in {region()}"
        oldest = min(price.as_of for price in found.bill.prices)
        missing = (f"without {', '.join(found.without_price)}",) if found.without_price else ()
        notes = ", ".join((f"prices of {oldest}", *missing, *((state.unbilled,) if state.unbilled else ())))
        return f"{found.usd:,.2f} USD ({notes})"

    return words


def bill(state: JobState, region: str) -> JobBill:
    """What a job cost at the prices that the cost commands use."""
    from nexus_llm.cli.cost_inputs import price_table
    from nexus_llm.cost.job_bill import job_bill

    rows = ((one.service, one.sku, one.amount, one.unit) for one in state.usage)
    return job_bill(rows, price_table(None), region=region)


def show_line(line: str) -> None:
    """A line of somebody's log, on stderr, without what would move the cursor or looks like a secret."""
    from nexus_llm.train.container import hide_secrets

    print(hide_secrets("".join(one for one in line if one.isprintable() or one == "\t")), file=sys.stderr, flush=True)
