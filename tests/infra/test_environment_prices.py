"""Each environment's README tells what its plans cost."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infrastructure_plans import ENVIRONMENTS, resources
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.service_bill import Pricing
from terraform_here import INFRA

pytestmark = [pytest.mark.xdist_group("infrastructure_plans"), pytest.mark.timeout(1800)]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("infra_prices")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_readme_tells_what_the_environment_s_plans_cost(
    page: Any, planned: Callable[[str], dict[str, Any]], environment: str
) -> None:
    plans = {"1-platform": planned(f"platform-{environment}"), "2-serving": planned(f"serving-{environment}")}
    readme = INFRA / "environments" / environment / "README.md"
    made = page.replaced(
        readme.read_text(encoding="utf-8"), page.section(plans, Pricing(PriceTable.shipped(), page.REGION))
    )
    if os.environ.get("NEXUS_WRITE_GOLDEN"):
        readme.write_text(made, encoding="utf-8")
    assert readme.read_text(encoding="utf-8") == made, "make it again: NEXUS_WRITE_GOLDEN=1 pytest " + __file__


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_budget_leaves_a_quarter_for_what_is_used(
    page: Any, planned: Callable[[str], dict[str, Any]], environment: str
) -> None:
    from nexus_llm.cost.terraform_diff import plan_diff

    platform = planned(f"platform-{environment}")
    pricing = Pricing(PriceTable.shipped(), page.REGION)
    standing = sum(plan_diff(one, pricing).after_usd for one in (platform, planned(f"serving-{environment}")))
    (budget,) = [one for one in resources(platform) if one.type == "aws_budgets_budget"]
    assert standing <= 0.75 * float(budget.values["limit_amount"])


def test_all_that_costs_by_standing_there_has_a_price_but_what_the_page_names(
    page: Any, planned: Callable[[str], dict[str, Any]]
) -> None:
    from nexus_llm.cost.terraform_diff import plan_diff

    pricing = Pricing(PriceTable.shipped(), page.REGION)
    unknown = {
        address.split(".")[-2]
        for environment in ENVIRONMENTS
        for stage in ("platform", "serving")
        for address in plan_diff(planned(f"{stage}-{environment}"), pricing).not_priced
    }
    assert unknown == {"aws_sagemaker_mlflow_tracking_server"}
