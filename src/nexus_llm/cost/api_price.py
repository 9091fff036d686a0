"""What the same tokens cost at an API: cached input, batch and long-context tiers included."""

from __future__ import annotations

from dataclasses import dataclass

from nexus_llm.cost.money import Bill, BillLine, Quantity, Unit
from nexus_llm.cost.prices.table import GLOBAL, PriceTable
from nexus_llm.cost.quantities import Traffic
from nexus_llm.errors import CostError


@dataclass(frozen=True, slots=True)
class ApiUse:
    """How an API would be called."""

    model: str
    """litellm's name: `gpt-4o-mini`, `claude-haiku-4-5`."""
    cached_input_share: float = 0.0
    """Of the input tokens, read from the provider's prompt cache."""
    is_batch: bool = False


def monthly_bill(use: ApiUse, traffic: Traffic, table: PriceTable) -> Bill:
    """What a month of this traffic costs at the API, in lines of input, cached input and output.

    Raises:
        CostError: the API, or one of the tiers that are asked for, has no price.
    """
    if not 0 <= use.cached_input_share <= 1:
        raise CostError(f"a cached share of {use.cached_input_share} is none", fix="give a share from 0 to 1")
    if use.is_batch and use.cached_input_share:
        raise CostError("a batch has no cached input", fix="set cost.cached_input_share 0, or cost.batch_prices false")
    tier = "batch-" if use.is_batch else _long_tier(use.model, traffic.input_tokens, table)
    millions = traffic.requests_per_month / 1e6
    parts = [
        ("input", f"{tier}input", traffic.input_tokens * (1 - use.cached_input_share)),
        ("cached input", f"{tier}cached-input", traffic.input_tokens * use.cached_input_share),
        ("output", f"{tier}output", traffic.output_tokens),
    ]
    return Bill(
        tuple(
            BillLine(
                f"{use.model} {name}",
                Quantity(tokens * millions, Unit.MILLION_TOKENS),
                table.lookup("api", f"{use.model} {sku}", GLOBAL),
            )
            for name, sku, tokens in parts
            if tokens
        )
    )


def _long_tier(model: str, input_tokens: float, table: PriceTable) -> str:
    """`long-N-` for the highest tier whose N input tokens the mean prompt exceeds; empty below all of them."""
    prefix, suffix = f"{model} long-", "-input"
    named = (
        sku.removeprefix(prefix).removesuffix(suffix) for sku in table.skus("api", GLOBAL) if sku.startswith(prefix)
    )
    passed = [int(bound) for bound in named if bound.isdigit() and input_tokens > int(bound)]
    return f"long-{max(passed)}-" if passed else ""
