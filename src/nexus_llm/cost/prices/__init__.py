"""Prices as dated data: `table.csv`, whose sources README.md lists, and how it is read."""

from nexus_llm.cost.prices.table import MAX_AGE_DAYS, PriceTable, age_days, age_warnings

__all__ = ["MAX_AGE_DAYS", "PriceTable", "age_days", "age_warnings"]
