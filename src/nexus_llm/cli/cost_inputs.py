"""What every `nexus cost` command starts from: the recipe, the prices, the model's size, and the capacity model."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.options import cache_folder
from nexus_llm.errors import CostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexus_llm.cost.capacity.simulate import Demand
    from nexus_llm.cost.plan import CapacityModel, Planner
    from nexus_llm.cost.prices import PriceTable
    from nexus_llm.cost.quantities import EngineLimits, StepTime
    from nexus_llm.recipe import Recipe

Prices = Annotated[
    Path | None,
    typer.Option("--prices", help="Price table, CSV [default: the last refresh, else the shipped one].", metavar="CSV"),
]
SpotTraces = Annotated[
    Path | None,
    typer.Option("--spot-traces", help="Folder of skypilot-org/spot-traces to replay the training on.", metavar="DIR"),
]

Quick = Annotated[
    bool, typer.Option("--quick", help="Capacity in closed form: seconds instead of minutes, no queue simulated.")
]

Measured = Annotated[
    list[str],
    typer.Option("--measured", help="What nexus cost calibrate --out found on a machine.", metavar="MACHINE=FILE"),
]

MOST_TRACE_ROWS = 100_000
_FACTORS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def capacity_model(*, is_quick: bool, trace: Demand | None = None) -> tuple[CapacityModel, str]:
    """How much one replica can take, and what to call that figure. The one place that chooses it."""
    if is_quick:
        from nexus_llm.cost.closed_form import closed_form_capacity

        return closed_form_capacity, "closed form, no queue simulated"
    from nexus_llm.cost.simulated import REQUESTS, simulated_capacity

    name = "simulated" if trace is not None else f"simulated, {REQUESTS:,} requests of each load"
    return partial(simulated_capacity, trace=trace), name


def price_file() -> Path:
    """Where `nexus cost refresh` puts its table."""
    return cache_folder() / "prices.csv"


def price_table(path: Path | None) -> PriceTable:
    """The table that was asked for, else the last refreshed one, else the shipped one."""
    from nexus_llm.cost.prices import PriceTable

    if path is not None:
        return PriceTable.load(path)
    return PriceTable.load(price_file()) if price_file().exists() else PriceTable.shipped()


def planner(recipe: Recipe, table: PriceTable, *, is_quick: bool, measured: Sequence[str] = ()) -> tuple[Planner, str]:
    """The recipe's planner and the name of its capacity model. `measured` are machines with their calibrations."""
    from nexus_llm.cost.recipe_plan import planner_for

    trace = _trace(recipe.cost.traffic.trace)
    chosen, name = capacity_model(is_quick=is_quick, trace=trace)
    if trace is not None:
        recipe, told = _of_trace(recipe, trace)
        name += f"; {'mean lengths' if is_quick else 'arrivals and lengths'} of {told} each"
    found = planner_for(recipe, table, chosen, config=_config(recipe.cost.model_config_path))
    found.measured = dict(_measured(one) for one in measured)
    if not is_quick and recipe.cost.scaling is not None:
        from nexus_llm.cost.simulated import simulated_day

        found.day_model = partial(simulated_day, trace=trace)
    return found, name


def _trace(path: str | None) -> Demand | None:
    """The requests of the recipe's trace.

    Raises:
        DataError: it cannot be read, or a row of it is none.
        CostError: it has no rate.
    """
    if path is None:
        return None
    import numpy as np

    from nexus_llm.cost.capacity.arrivals import recorded
    from nexus_llm.serve.bench.trace import read_trace

    rows = read_trace(Path(path), limit=MOST_TRACE_ROWS)
    if len(rows) < 2 or rows[-1].at_seconds <= 0:
        raise CostError(
            f"cost.traffic.trace: {path} has {len(rows)} request(s) within 0 seconds, so no rate",
            fix="give a longer piece of the trace",
        )
    found = [(row.at_seconds, row.input_tokens, row.output_tokens) for row in rows]
    arrived, given, said = (np.array(column) for column in zip(*found, strict=True))
    return recorded(arrived, given, said)


def _of_trace(recipe: Recipe, trace: Demand) -> tuple[Recipe, str]:
    """The recipe with the trace's mean lengths, and what the trace is."""
    means = {name: float(getattr(trace, name).mean()) for name in ("input_tokens", "output_tokens")}
    traffic = recipe.cost.traffic.model_copy(update=means)
    words = (
        f"{Path(recipe.cost.traffic.trace or '').name}, {len(trace):,} requests of {means['input_tokens']:,.0f} + "
        f"{means['output_tokens']:,.0f} tokens"
    )
    return recipe.model_copy(update={"cost": recipe.cost.model_copy(update={"traffic": traffic})}), words


def _measured(given: str) -> tuple[str, tuple[StepTime, EngineLimits]]:
    """`g6.xlarge=calibration.json` as the machine and what was found there."""
    from pydantic import ValidationError

    from nexus_llm.cost.capacity.calibration import engine_from_json
    from nexus_llm.cost.hardware import machine

    name, equals, path = given.partition("=")
    fix = "for example: --measured g6.xlarge=calibration.json, a file of nexus cost calibrate --out"
    if not equals:
        raise UsageError(f"--measured {given} is not of the form MACHINE=FILE", fix=fix)
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        document = document.get("calibration", document)  # as benchmarks/cost_calibration.py stores it
        engine = engine_from_json(document)
        if not document["is_trustworthy"]:
            warn([f"{path}: the calibration missed its targets, so what is planned with it is no better"])
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--measured {given}: {'.'.join(map(str, first['loc']))}: {first['msg']}", fix=fix) from error
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"--measured {given} is no machine with its calibration ({error})", fix=fix) from error
    return machine(name).name, engine


def volumes(text: str | None) -> tuple[float, ...]:
    """`100K,1M,2.5M` as requests a month.

    >>> volumes("100K, 1M")
    (100000.0, 1000000.0)

    Raises:
        UsageError: a part is no positive number.
    """
    return tuple(_volume(part.strip()) for part in text.split(",")) if text else ()


def read_text(path: Path, *, fix: str = "check the path") -> str:
    """The text of a file that was named on the command line.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # Excel begins a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error})", fix=fix) from error


def warn(words: list[str]) -> None:
    """Sentences on stderr."""
    for sentence in words:
        print(f"warning: {sentence}", file=sys.stderr)


def _volume(text: str) -> float:
    letter = text[-1:].upper() if text[-1:].isalpha() else ""
    digits = text[:-1] if letter else text
    try:
        value = float(digits) * _FACTORS[letter]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"--requests {text!r} is no number of requests a month",
            fix="for example: --requests 100K,1M (a comma is between two volumes)",
        )
    return value


def _config(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CostError(
            f"cost.model_config_path: {path} cannot be read ({error})", fix="give the model's config.json"
        ) from error
    if not isinstance(content, dict):
        raise CostError(f"cost.model_config_path: {path} is no config.json", fix="give the model's config.json")
    return content
