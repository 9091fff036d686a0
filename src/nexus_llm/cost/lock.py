"""`cost.lock`: what a recipe was agreed to cost, and which factor moved when it costs more."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nexus_llm.cost.money import cents
from nexus_llm.cost.recipe_plan import RecipePlan
from nexus_llm.errors import CostError

VERSION = 1
TOLERANCE_SHARE = 0.05
_FIX = "make it again: nexus cost lock RECIPE"


_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Traffic(_Strict):
    requests_per_month: _Amount
    input_tokens: _Amount
    output_tokens: _Amount
    peak_ratio: _Amount


class _Engines(_Strict):
    machine: str
    purchase: str
    precision: str
    machines: int
    throughput_provenance: str
    capacity_model: str


class _Price(_Strict):
    usd: _Amount
    as_of: str


class _Lock(_Strict):
    """What `lock_document` makes."""

    version: Literal[1]
    recipe: str
    tolerance_share: Annotated[float, Field(ge=0, le=1)]
    usd_per_month: _Amount
    usd_per_million_tokens: _Amount
    training_usd: _Amount | None
    tokens_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    traffic: _Traffic
    engines: _Engines
    bill: dict[str, _Amount]
    prices: dict[str, _Price]
    training_hours: _Amount | None


@dataclass(frozen=True, slots=True)
class Regression:
    """One figure that got worse by more than the tolerance."""

    figure: str
    locked: float
    now: float
    causes: tuple[str, ...]

    @property
    def words(self) -> str:
        change = f"{self.now / self.locked - 1:+.1%}" if self.locked else "from nothing"
        return f"{self.figure}: {self.locked:,.4g} → {self.now:,.4g} ({change}): {'; '.join(self.causes)}"


def lock_document(plan: RecipePlan, *, tolerance_share: float = TOLERANCE_SHARE) -> dict[str, Any]:
    """What is committed: the figures, and every factor that they are made of."""
    scenario = plan.scenarios[0]
    best, training = scenario.best, plan.training
    return {
        "version": VERSION,
        "recipe": plan.recipe.name,
        "tolerance_share": tolerance_share,
        "usd_per_month": cents(scenario.usd_per_month),
        "usd_per_million_tokens": round(scenario.usd_per_million_tokens, 6),
        "training_usd": cents(training.usd) if training else None,
        "tokens_per_second": round(best.load.output_tokens_per_second, 3),
        "traffic": asdict(scenario.traffic),
        "engines": {
            "machine": best.machine,
            "purchase": best.purchase,
            "precision": best.precision,
            "machines": best.machines,
            "throughput_provenance": best.step_time.provenance,
            "capacity_model": plan.capacity_model,
        },
        "bill": {line.name: cents(line.usd) for line in best.bill.lines},
        "prices": {
            f"{price.service} {price.sku}": {"usd": price.usd, "as_of": price.as_of.isoformat()}
            for price in plan.prices
        },
        "training_hours": round(training.billed_hours, 4) if training else None,
    }


def lock_text(document: Mapping[str, Any]) -> str:
    """The file's text: JSON, so that a review shows one figure a line."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read_lock(text: str, *, place: str) -> dict[str, Any]:
    """The document of a lock file.

    Raises:
        CostError: it is none, of another version, half of one, or has a value that none has.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CostError(f"{place} is no JSON ({error})", fix=_FIX) from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise CostError(f"{place} is no cost.lock of version {VERSION}", fix=_FIX)
    try:
        _Lock.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            missing = ", ".join(".".join(map(str, one["loc"])) for one in error.errors() if one["type"] == "missing")
            raise CostError(f"{place} has no {missing}", fix=_FIX) from error
        where = ".".join(map(str, first["loc"]))
        raise CostError(f"{place}: {where} is {first['input']!r:.60}: {first['msg']}", fix=_FIX) from error
    return document


def check_same(locked: Mapping[str, Any], now: Mapping[str, Any], *, place: str) -> None:
    """Refuses to compare what cannot be compared.

    Raises:
        CostError: the lock is another recipe's, or its throughput was found in another way.
    """
    if locked["recipe"] != now["recipe"]:
        raise CostError(
            f"{place} is the lock of recipe {locked['recipe']!r}, and this is {now['recipe']!r}",
            fix="name this recipe's lock with --lock, or make one: nexus cost lock RECIPE --lock FILE",
        )
    before, after = (one["engines"]["capacity_model"] for one in (locked, now))
    if before.startswith("closed form") != after.startswith("closed form"):
        raise CostError(
            f"{place} was made with another capacity model ({before}) than this check's ({after})",
            fix="give --quick to both or to neither",
        )


def regressions(locked: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Regression, ...]:
    """Figures that are worse by more than the lock's tolerance, each with the factors that moved."""
    tolerance = float(locked["tolerance_share"])
    causes = tuple(moved(locked, now)) or ("the way that it is computed",)
    found = []
    for figure in ("usd_per_month", "usd_per_million_tokens", "training_usd"):
        before, after = locked[figure], now[figure]
        if after is not None and after > (before or 0.0) * (1 + tolerance) + 0.005:
            found.append(Regression(figure, before or 0.0, after, causes))
    before, after = locked["tokens_per_second"], now["tokens_per_second"]
    if after < before * (1 - tolerance):
        found.append(Regression("tokens_per_second", before, after, causes))
    return tuple(found)


def measured_regression(locked: Mapping[str, Any], bench: Mapping[str, Any]) -> Regression | None:
    """The measured throughput of `nexus bench --json` against the locked one; None where it is kept.

    Raises:
        CostError: the document is no bench result.
    """
    value = bench.get("output_tokens_per_second")
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise CostError("the bench result has no output_tokens_per_second", fix="give what nexus bench --json printed")
    before = float(locked["tokens_per_second"])
    if value >= before * (1 - float(locked["tolerance_share"])):
        return None
    engines = locked["engines"]
    words = f"throughput: measured, against one replica on {engines['machine']} ({engines['throughput_provenance']})"
    return Regression("tokens_per_second", before, float(value), (words,))


def moved(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which factors differ: prices, throughput, traffic, engines, parts of the bill; the largest first."""
    found = [*_prices(locked["prices"], now["prices"])]
    if before := locked["tokens_per_second"]:
        change = now["tokens_per_second"] / before - 1
        if abs(change) > 1e-6:
            found.append(f"throughput of a replica {change:+.1%}")
    for name, value in locked["traffic"].items():
        if value != now["traffic"][name]:
            found.append(f"traffic: {name} {value:g} → {now['traffic'][name]:g}")
    for name, value in locked["engines"].items():
        if value != now["engines"][name]:
            found.append(f"engines: {name} {value} → {now['engines'][name]}")
    found += _parts(locked["bill"], now["bill"])
    before, after = locked.get("training_hours"), now.get("training_hours")
    if before != after:
        found.append(f"training hours {before} → {after}")
    return found


def _prices(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    changes = {
        name: after[name]["usd"] / row["usd"] - 1 if row["usd"] else math.inf
        for name, row in before.items()
        if name in after and after[name]["usd"] != row["usd"]
    }
    return [f"price of {name} {change:+.1%}" for name, change in sorted(changes.items(), key=lambda one: -abs(one[1]))]


def _parts(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    changes = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in {*before, *after}}
    large = sorted(
        (name for name in changes if abs(changes[name]) >= 0.01), key=lambda name: (-abs(changes[name]), name)
    )
    return [f"bill: {name} {changes[name]:+,.2f} USD a month" for name in large[:5]]
