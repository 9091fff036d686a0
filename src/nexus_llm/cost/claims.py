"""The figures of the product's brief about money, speed and time, each computed again from dated prices.

The brief is a plan written as if it were finished; nothing here takes a number of it for granted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from nexus_llm.arithmetic import Shape
from nexus_llm.cost.api_price import ApiUse, monthly_bill
from nexus_llm.cost.money import HOURS_PER_MONTH
from nexus_llm.cost.plan import CapacityModel, Planner, Scenario, recipe_traffic
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.quantities import Traffic
from nexus_llm.cost.shapes import model_size
from nexus_llm.errors import CostError
from nexus_llm.recipe import CostRecipe

Verdict = Literal["holds", "fails", "holds if", "not measured"]
MODEL = "llama-3.1-8b"
BRIEF_API = "gpt-4"
"""The only API of the table at which 100,000 requests of 500 + 300 tokens cost the brief's 3,300 USD."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure of the brief and what became of it."""

    claim: str
    stated: str
    computed: str
    verdict: Verdict
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class Ground:
    """What the claims are computed from: the cheapest plans for the brief's traffic, and variants of them."""

    table: PriceTable
    model: Shape
    planner: Planner
    lean: Planner
    """No spare machine, one zone, one NAT gateway, no endpoints: what nobody should run, the least it can cost."""
    whole: Planner
    """The whole answer within 2 seconds instead of streaming."""
    month_100k: Scenario
    month_1m: Scenario
    month_10m: Scenario

    @property
    def traffic(self) -> Traffic:
        return recipe_traffic(self.planner.cost)

    def api_usd(self, requests: float, api: str = BRIEF_API) -> float:
        """A month at an API."""
        asked = self.traffic
        return monthly_bill(ApiUse(api), Traffic(requests, asked.input_tokens, asked.output_tokens), self.table).usd

    def fargate_usd(self, tasks: int) -> float:
        """A month of the brief's tasks: 4 vCPU and 16 GB each, nothing else."""
        region = self.planner.cost.region
        vcpu, memory = (self.table.lookup("fargate", sku, region).usd for sku in ("vcpu", "memory"))
        return tasks * (4 * vcpu + 16 * memory) * HOURS_PER_MONTH


def claims_document(table: PriceTable, capacity: CapacityModel, capacity_model: str) -> dict[str, Any]:
    """All claims as JSON: `{"claims": [{"claim", "stated", "computed", "verdict", "assumptions"}], …}`.

    Raises:
        CostError: a price is missing.
    """
    from nexus_llm.cost.claims_money import money_claims
    from nexus_llm.cost.claims_speed import speed_claims

    ground = _ground(table, capacity)
    found = [*money_claims(ground), *speed_claims(ground)]
    return {
        "claims": [asdict(claim) | {"assumptions": list(claim.assumptions)} for claim in found],
        "capacity_model": capacity_model,
        "traffic": asdict(ground.traffic),
    }


def dollars(usd: float) -> str:
    """Whole dollars from 100 on.

    >>> dollars(1234.5), dollars(-12.341)
    ('$1,234', '-$12.34')
    """
    sign, size = "-" if usd < 0 else "", abs(usd)
    return f"{sign}${size:,.0f}" if size >= 100 else f"{sign}${size:,.2f}"


def option_words(scenario: Scenario) -> str:
    """`2 x g6.xlarge spot (float8)`."""
    best = scenario.best
    return f"{best.machines} x {best.machine} {best.purchase} ({best.precision})"


def _ground(table: PriceTable, capacity: CapacityModel) -> Ground:
    name, model = model_size(MODEL)
    cost = CostRecipe()
    alone = cost.service.model_copy(update={"availability_zones": 1, "nat_gateways": 1, "interface_endpoints": 0})
    lean = cost.model_copy(update={"spare_machines": 0, "service": alone})
    objective = cost.objective.model_copy(update={"e2e_seconds": 2.0, "tpot_seconds": None, "ttft_seconds": None})
    whole = cost.model_copy(update={"objective": objective})

    usual = Planner(cost, name, model, table, capacity)
    months = (usual.scenario(volume) for volume in (1e5, 1e6, 1e7))
    return Ground(table, model, usual, usual.with_cost(lean), usual.with_cost(whole), *months)


def or_error(planner: Planner, requests: float) -> Scenario | CostError:
    """The cheapest plan, or why there is none."""
    try:
        return planner.scenario(requests)
    except CostError as error:
        return error
