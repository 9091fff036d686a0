"""What it costs to make a corpus ready, on each engine of the data stage: a paper estimate (docs/data-cost.md)."""

from __future__ import annotations

from dataclasses import dataclass

from nexus_llm.cost.money import HOURS_PER_MONTH, Bill, Unit
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.errors import CostError
from nexus_llm.recipe import DataRecipe

# docs/data-cost.md gives the reason of each. Measured on two cores: the rates. The rest is assumed.
MEGABYTES_PER_CPU_SECOND = 12.3
SPARK_SHARE_OF_RATE = 0.25
EFFICIENCY = 0.6
ALONE_MEGABYTES_PER_SECOND = 100.0
CUT_MEGABYTES_PER_SECOND = 500.0
DISK_MEGABYTES_PER_SECOND = 2_500.0 / 6
STREAM_MEGABYTES_PER_SECOND = 85.0
BOX, BOX_CPUS, BOX_STREAMS, SCRATCH_SHARE = "c7i.16xlarge", 64, 16, 3.5
GLUE_DPU = {"G.1X": 1, "G.2X": 2, "G.4X": 4, "G.8X": 8}
CPUS_PER_DPU, GB_PER_DPU = 4, 16
GET_MEGABYTES = 8.0


@dataclass(frozen=True, slots=True)
class DataPlan:
    """Hours and bill of one pass over a corpus."""

    engine: str
    hours: float
    bill: Bill


def data_plan(data: DataRecipe, gigabytes: float, pricing: Pricing) -> DataPlan:
    """The recipe's engine on so much unpacked text. `embedded` stands for one large machine, as AWS Batch gives it.

    Raises:
        CostError: a price is missing, or the workers are of no known type.
    """
    megabytes, line = gigabytes * 1000, pricing.line
    reads = line("S3 reads", "s3", "get", megabytes / GET_MEGABYTES / 1000, Unit.THOUSAND_REQUESTS)
    if data.engine in ("embedded", "batch"):
        hours = _box_hours(megabytes)
        scratch = gigabytes * SCRATCH_SHARE * hours / HOURS_PER_MONTH
        box = line(BOX, "ec2", f"{BOX} on-demand", hours, Unit.HOUR)
        return DataPlan(
            data.engine, hours, Bill((box, line("scratch disk", "ebs", "gp3", scratch, Unit.GB_MONTH), reads))
        )
    workers, units = data.aws.workers, _dpu_of_worker(data.aws.worker_type)
    hours = _spark_hours(megabytes, (workers - 1) * units * CPUS_PER_DPU)
    paid = hours * workers * units
    if data.engine == "emr-serverless":
        vcpu = line("EMR Serverless, vCPU", "emr-serverless", "vcpu", paid * CPUS_PER_DPU, Unit.VCPU_HOUR)
        memory = line("EMR Serverless, memory", "emr-serverless", "memory", paid * GB_PER_DPU, Unit.GB_HOUR)
        return DataPlan(data.engine, hours, Bill((vcpu, memory, reads)))
    # Spark of one's own is taken to cost as much.
    return DataPlan(
        data.engine, hours, Bill((line(f"{workers} Glue workers", "glue", "dpu", paid, Unit.DPU_HOUR), reads))
    )


def _dpu_of_worker(name: str) -> int:
    if name not in GLUE_DPU:
        raise CostError(f"data.aws.worker_type {name!r} is not known", fix=f"known are {', '.join(GLUE_DPU)}")
    return GLUE_DPU[name]


def _box_hours(megabytes: float) -> float:
    rate = min(MEGABYTES_PER_CPU_SECOND * BOX_CPUS * EFFICIENCY, CUT_MEGABYTES_PER_SECOND, DISK_MEGABYTES_PER_SECOND)
    fetched = BOX_STREAMS * STREAM_MEGABYTES_PER_SECOND
    return megabytes * (1 / fetched + 1 / rate + 1 / ALONE_MEGABYTES_PER_SECOND) / 3600


def _spark_hours(megabytes: float, tasks: int) -> float:
    rate = MEGABYTES_PER_CPU_SECOND * SPARK_SHARE_OF_RATE * tasks * EFFICIENCY
    return megabytes * (1 / (tasks * STREAM_MEGABYTES_PER_SECOND) + 1 / rate) / 3600
