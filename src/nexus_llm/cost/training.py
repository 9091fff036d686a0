"""What a training run costs, restarts on spot machines included. Throughput is arithmetic: not measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_llm.arithmetic import Shape, adapter_parameters, training_flops_per_token
from nexus_llm.cost.hardware import machine
from nexus_llm.cost.money import Bill, BillLine, Quantity, Unit
from nexus_llm.cost.prices import PriceTable
from nexus_llm.errors import CostError
from nexus_llm.recipe import TrainRecipe

# Share of a card's dense bfloat16 peak that training reaches; assumed. Published on 8 x H100: 0.54 (LoRA) and 0.56 (all
# weights), NVIDIA dgxc-benchmarking, read 2026-11; smaller batches and older cards reach less.
PEAK_SHARE = 0.4
START_HOURS = 0.2  # machine, image, model and data, at every start; assumed
# Interruptions per hour of p3.2xlarge spot machines on AWS in 2023, counted in the traces of Wu et al., "Can't Be
# Late" (NSDI 2024): 202 in 431 h, all zones of the week of April 22. Newer cards were not traced.
INTERRUPTIONS_PER_HOUR = 0.47


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Hours and USD of one training run."""

    machine: str
    machines: int
    tokens: float
    work_hours: float
    """Without interruptions and starts."""
    billed_hours: float
    """Of each machine, with both."""
    interruptions: float
    is_spot: bool
    bill: Bill
    basis: str
    """What the hours on spot rest on."""
    most_hours: float
    """After which the recipe lets SageMaker end the job."""

    @property
    def usd(self) -> float:
        return self.bill.usd

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / (self.work_hours * 3600)

    @property
    def notes(self) -> list[str]:
        """What a reader must know before starting it."""
        if self.billed_hours <= self.most_hours:
            return []
        return [
            f"training takes {self.billed_hours:.1f} h, and train.sagemaker.max_run_hours ends it after "
            f"{self.most_hours:g}: what was not saved by then is lost"
        ]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What becomes of a job on machines that are taken away."""

    billed_hours: float
    interruptions: float


@dataclass(frozen=True, slots=True)
class SpotTrace:
    """Whether a spot machine was there, at equal intervals."""

    name: str
    gap_hours: float
    is_available: Sequence[bool]


def training_tokens(train: TrainRecipe) -> float:
    """Tokens that the run's steps see, all processes together."""
    processes = train.distributed.num_processes * train.distributed.num_machines
    rows = train.per_device_train_batch_size * train.gradient_accumulation_steps * processes
    return float(train.max_steps * rows * train.max_length)


def training_plan(
    train: TrainRecipe,
    model: Shape,
    table: PriceTable,
    *,
    region: str,
    discount_share: float = 0.0,
    traces: Sequence[SpotTrace] = (),
) -> TrainingPlan:
    """Hours and bill of the recipe's SageMaker job.

    Raises:
        CostError: the machine, its price, or its price on spot is not known.
    """
    job = train.sagemaker
    if job.spot and not job.checkpoints:
        raise CostError(
            "train.sagemaker: spot without checkpoints starts from zero after every interruption, and is refused",
            fix="--set train.sagemaker.checkpoints=true, or --set train.sagemaker.spot=false",
        )
    name = job.instance_type.removeprefix("ml.")
    place = machine(name)
    tokens = training_tokens(train)
    at_work = min(place.cards, train.distributed.num_processes) * job.instance_count  # the others are paid and idle
    flops = place.card.flops["bfloat16"] * PEAK_SHARE * at_work
    work_hours = tokens * _flops_per_token(train, model) / flops / 3600
    saved_hours = work_hours * train.save_steps / train.max_steps
    listed = table.lookup("sagemaker", f"{job.instance_type} training", region)
    discount, basis, found = discount_share, "on demand", Interrupted(work_hours + START_HOURS, 0.0)
    if job.spot:
        discount = 1 - (1 - discount_share) * (1 - spot_saving(name, table, region=region))
        found, basis = _interrupted(work_hours, saved_hours, traces)
    amount = Quantity(found.billed_hours * job.instance_count, Unit.HOUR)
    words = f"{job.instance_count} x {job.instance_type} ({'spot' if job.spot else 'on-demand'})"
    bill = Bill((BillLine(words, amount, listed, discount),))
    return TrainingPlan(
        job.instance_type, job.instance_count, tokens, work_hours, found.billed_hours, found.interruptions, job.spot,
        bill, basis, job.max_run_hours,
    )  # fmt: skip


def spot_saving(name: str, table: PriceTable, *, region: str) -> float:
    """Share by which EC2's spot price of a machine lies below on demand; SageMaker's managed spot is taken to save as
    much (it bills training seconds at the spot rate of the same machines).

    Raises:
        CostError: there is no spot price.
    """
    spot = table.lookup("ec2", f"{name} spot", region).usd
    return max(1 - spot / table.lookup("ec2", f"{name} on-demand", region).usd, 0.0)


def expected_interruptions(
    work_hours: float,
    *,
    saved_every_hours: float,
    start_hours: float = START_HOURS,
    per_hour: float = INTERRUPTIONS_PER_HOUR,
) -> Interrupted:
    """Expected machine hours of a job that loses what it did since its last checkpoint.

    Interruptions come at a constant rate; a piece of c hours between checkpoints takes (1 / rate + start) x
    (e^(rate x c) - 1) hours of machines on average (Daly 2006, "A higher order estimate of the optimum checkpoint
    interval", Future Generation Computer Systems 22, without the time to write).

    >>> round(expected_interruptions(10, saved_every_hours=0.5, start_hours=0, per_hour=1e-9).billed_hours, 3)
    10.0
    """
    pieces = work_hours / min(saved_every_hours, work_hours)
    again = math.expm1(min(per_hour * min(saved_every_hours, work_hours), 700.0))
    return Interrupted(start_hours + pieces * (1 / per_hour + start_hours) * again, pieces * again)


def replayed(
    trace: SpotTrace, work_hours: float, *, saved_every_hours: float, start_hours: float = START_HOURS
) -> Interrupted | None:
    """Mean of the same job started at 24 points of a trace, which is read in a circle.

    None where the trace never keeps a machine long enough to save once.
    """
    size = len(trace.is_available)
    results = []
    for start in range(0, size, max(size // 24, 1)):
        billed = done = alive = 0.0
        interruptions, is_running = 0, False
        for tick in range(size * 20):
            if not trace.is_available[(start + tick) % size]:
                interruptions += is_running
                is_running, alive = False, 0.0
                continue
            is_running = True
            billed += trace.gap_hours
            alive += trace.gap_hours
            saved = max(alive - start_hours, 0.0) // saved_every_hours * saved_every_hours
            if done + max(alive - start_hours, 0.0) >= work_hours:
                results.append((billed, interruptions))
                break
            # What this machine saved counts as soon as the next tick finds it gone.
            if not trace.is_available[(start + tick + 1) % size]:
                done += saved
        else:
            return None
    return Interrupted(*(sum(column) / len(results) for column in zip(*results, strict=True)))


def read_traces(folder: Path) -> tuple[SpotTrace, ...]:
    """Traces in the format of skypilot-org/spot-traces: JSON with `metadata.gap_seconds` and `data`.

    Raises:
        CostError: a file is of another format, or there is none.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            gap, data = float(content["metadata"]["gap_seconds"]) / 3600, [value > 0 for value in content["data"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CostError(f"{path} is no spot trace ({error})", fix="give a folder of spot-traces files") from error
        if any(data) and gap > 0:
            found.append(SpotTrace(path.stem, gap, data))
    if not found:
        raise CostError(f"{folder} has no spot trace", fix="give a folder of skypilot-org/spot-traces, or leave it out")
    return tuple(found)


def _interrupted(work_hours: float, saved_hours: float, traces: Sequence[SpotTrace]) -> tuple[Interrupted, str]:
    if not traces:
        found = expected_interruptions(work_hours, saved_every_hours=saved_hours)
        return found, f"{INTERRUPTIONS_PER_HOUR:g} interruptions an hour, as scarce V100 machines had in 2023"
    runs = [replayed(trace, work_hours, saved_every_hours=saved_hours) for trace in traces]
    ended = [run for run in runs if run is not None]
    if not ended:
        raise CostError(
            f"on none of {len(traces)} traces does a machine live long enough to save once in {saved_hours:.1f} h",
            fix="lower train.save_steps, or set train.sagemaker.spot false",
        )
    mean = Interrupted(
        sum(run.billed_hours for run in ended) / len(ended), sum(run.interruptions for run in ended) / len(ended)
    )
    return mean, f"replayed on {len(ended)} of {len(traces)} traces"


def _flops_per_token(train: TrainRecipe, model: Shape) -> float:
    adapters = None
    if train.method != "full":
        adapters = adapter_parameters(model, rank=train.lora_r, target_modules=train.target_modules)
    return training_flops_per_token(
        model,
        context_tokens=train.max_length / 2,
        trained_adapter_parameters=adapters,
        checkpointing=train.gradient_checkpointing,
        with_reference=train.objective == "dpo",  # adapters: at every step; all weights: once before, at most as much
    )
