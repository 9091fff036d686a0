"""Hours and dollars that the data stage would take for The Pile and RedPajama-1T: a paper estimate, nothing is run.

    python benchmarks/data_estimate.py [--result FILE | --rate MB_PER_CPU_SECOND] [--spark-rate MB_PER_CPU_SECOND]

The rate is megabytes of text a CPU second of all processes. It comes from the newest stored run of `data.py`
(`benchmarks/results/data_*cores*.json`: megabytes / CPU seconds of "two workers") unless `--rate` gives it. All
formulas and assumptions: docs/data-cost.md, whose table this prints.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
RUN = "two workers"

CORPORA_MEGABYTES = {"The Pile, 800 GB": 800_000.0, "RedPajama-1T, 5 TB": 5_000_000.0}

# List prices on demand, us-east-1, without tax, USD; compiled 2026-11-21. Spot, FLEX and savings plans cost less.
BOX_USD_PER_HOUR = 2.856
"""c7i.16xlarge, Linux: 64 virtual CPUs, 128 GiB. Source: karpenter-provider-aws (Apache-2.0), generated 2026-07-20."""
DISK_USD_PER_GB_MONTH = 0.08
"""EBS gp3, 125 MB/s a volume included. Source: Infracost's test goldens (Apache-2.0), 2024-07 to
2025-07."""
GLUE_USD_PER_DPU_HOUR = 0.44
"""Source: as gp3."""
EMR_USD_PER_CPU_HOUR = 0.052624
"""EMR Serverless on x86. Source: several public repositories that cite AWS's page; not checked against it."""
EMR_USD_PER_GB_HOUR = 0.0057785
"""Source: likewise."""
S3_USD_PER_GET = 0.0004 / 1_000
"""Source: as gp3."""

BOX_CPUS = 64
GLUE_WORKERS = 40
GLUE_WORKER_DPU = 2  # G.2X
GLUE_WORKER_CPUS = 8
EMR_WORKERS = 40
EMR_WORKER_CPUS = 8
EMR_WORKER_GB = 32

# Assumed, not measured: each can be changed on the command line.
BOX_EFFICIENCY = 0.6
SPARK_EFFICIENCY = 0.6
SPARK_SHARE_OF_RATE = 0.25
"""Of the embedded engine's rate a CPU second, where `--spark-rate` gives none: Java and the joins take theirs. Measured
between 66 and 211 MB on 2 cores (`data_spark.py`, 2026-11-22): 2.1 MB a further CPU second against 8.4."""
ALONE_MEGABYTES_PER_SECOND = 100.0
"""What one process does for all: comparing documents. 0.8 s for 205 MB and 4.2 s for 1 GB (2026-11-22), never at this
size, where what is spilled is merged more often."""
CUT_MEGABYTES_PER_SECOND = 500.0
"""Of the one process that reads files and cuts them into blocks; gzip takes more."""
DISK_MEGABYTES_PER_SECOND = 2_500.0
"""20 gp3 volumes of 125 MB/s as one, which is what a c7i.16xlarge can take (20 Gbit/s)."""
DISK_TRAFFIC_SHARE = 6.0
"""Bytes that go to and from the disk for a byte of text: twice the text, the rows, the tokens, the shards."""
SCRATCH_SHARE = 3.5
"""Largest number of bytes on the disk for a byte of text: the text itself, and 2.5 of `work/` and artifact."""
STREAM_MEGABYTES_PER_SECOND = 85.0
"""Of one S3 request (AWS, "Performance design patterns for Amazon S3": 85 to 90)."""
BOX_STREAMS = 16
"""`nexus data fetch s3://… --to disk --parallel 16`, before the stage."""
HOURS_PER_MONTH = 730.0
GET_MEGABYTES = 8.0


@dataclass(frozen=True)
class Estimate:
    """What one corpus takes in one place."""

    corpus: str
    place: str
    hours: float
    usd: float
    """Machines, and where it has one its scratch disk; storage and transfer of the corpus itself apart."""


def hours(megabytes: float, *, fetched: float, at_once: Iterable[float], alone: float = math.inf) -> float:
    """Time in hours to fetch, then to work at the pace of the slowest of `at_once`, then what is done `alone`; MB/s.

    >>> hours(3_600, fetched=1, at_once=[2, 10], alone=4)
    1.75

    Raises:
        ValueError: a size or a rate is not above 0.
    """
    slowest = min(at_once)
    if min(megabytes, fetched, slowest, alone) <= 0:
        raise ValueError("sizes and rates must be above 0")
    return megabytes * (1 / fetched + 1 / slowest + 1 / alone) / 3600


def box_usd(time_hours: float, megabytes: float, *, scratch_share: float) -> float:
    """One machine and its scratch disk, in USD."""
    disk = megabytes / 1_000 * scratch_share * DISK_USD_PER_GB_MONTH * time_hours / HOURS_PER_MONTH
    return time_hours * BOX_USD_PER_HOUR + disk + requests_usd(megabytes)


def glue_usd(time_hours: float, megabytes: float) -> float:
    """GLUE_WORKERS workers of G.2X for so long, in USD; scratch disks are in the price."""
    return time_hours * GLUE_WORKERS * GLUE_WORKER_DPU * GLUE_USD_PER_DPU_HOUR + requests_usd(megabytes)


def emr_usd(time_hours: float, megabytes: float) -> float:
    """EMR_WORKERS workers for so long, in USD; 20 GB of scratch disk each are free, more is not in here."""
    worker = EMR_WORKER_CPUS * EMR_USD_PER_CPU_HOUR + EMR_WORKER_GB * EMR_USD_PER_GB_HOUR
    return time_hours * EMR_WORKERS * worker + requests_usd(megabytes)


def requests_usd(megabytes: float) -> float:
    """What S3 takes for reading it once in pieces of GET_MEGABYTES."""
    return megabytes / GET_MEGABYTES * S3_USD_PER_GET


def estimates(options: argparse.Namespace, *, rate: float) -> Iterator[Estimate]:
    """Every corpus in every place. `rate` is the embedded engine's, MB a CPU second."""
    spark_rate = options.spark_rate or rate * SPARK_SHARE_OF_RATE
    for corpus, megabytes in CORPORA_MEGABYTES.items():
        paces = (
            rate * BOX_CPUS * options.box_efficiency,
            CUT_MEGABYTES_PER_SECOND,
            DISK_MEGABYTES_PER_SECOND / DISK_TRAFFIC_SHARE,
        )
        fetched = BOX_STREAMS * STREAM_MEGABYTES_PER_SECOND
        box = hours(megabytes, fetched=fetched, at_once=paces, alone=options.alone_rate)
        yield Estimate(corpus, "c7i.16xlarge", box, box_usd(box, megabytes, scratch_share=options.scratch_share))
        for place, workers, cpus, price in (
            (f"Glue 5, {GLUE_WORKERS} × G.2X", GLUE_WORKERS, GLUE_WORKER_CPUS, glue_usd),
            (f"EMR Serverless, {EMR_WORKERS} × 8 vCPU", EMR_WORKERS, EMR_WORKER_CPUS, emr_usd),
        ):
            tasks = (workers - 1) * cpus  # one worker is the driver
            pace = spark_rate * tasks * options.spark_efficiency
            time = hours(megabytes, fetched=tasks * STREAM_MEGABYTES_PER_SECOND, at_once=[pace])
            yield Estimate(corpus, place, time, price(time, megabytes))


def rate_of(result: dict[str, Any]) -> float:
    """MB a CPU second in a result of `data.py`: its megabytes, from seconds and MB/s, over the CPU seconds.

    >>> rate_of({"nexus": {"two workers": {"seconds": 10.0, "megabytes_per_second": 20.0, "cpu_seconds": 18.0}}})
    11.11111111111111
    """
    run = result["nexus"][RUN]
    return float(run["seconds"] * run["megabytes_per_second"] / run["cpu_seconds"])


def newest_result(folder: Path) -> Path:
    """The result of `data.py` with the latest date.

    Raises:
        SystemExit: there is none.
    """
    found = [
        (json.loads(path.read_text(encoding="utf-8")).get("date", ""), path)
        for path in folder.glob("data_*cores*.json")
    ]
    if not found:
        raise SystemExit(f"{folder} has no data_*cores*.json\n  fix: run benchmarks/data.py, or give --rate")
    return max(found)[1]


def table(rows: list[Estimate]) -> str:
    """Markdown, with a row for each estimate."""
    lines = ["| corpus | where | hours | USD |", "|---|---|---:|---:|"]
    lines += [f"| {one.corpus} | {one.place} | {one.hours:,.1f} | {one.usd:,.0f} |" for one in rows]
    return "\n".join(lines)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, help="a result of data.py; else the newest in benchmarks/results")
    parser.add_argument("--rate", type=float, help="MB of text a CPU second of the embedded engine")
    parser.add_argument(
        "--spark-rate", type=float, help="likewise of Spark; else a quarter of it (measured on 2 cores)"
    )
    parser.add_argument("--box-efficiency", type=float, default=BOX_EFFICIENCY)
    parser.add_argument("--spark-efficiency", type=float, default=SPARK_EFFICIENCY)
    parser.add_argument(
        "--alone-rate", type=float, default=ALONE_MEGABYTES_PER_SECOND, help="MB/s of text where one process works"
    )
    parser.add_argument("--scratch-share", type=float, default=SCRATCH_SHARE, help="bytes of disk a byte of text")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Prints the table and what it stands on."""
    options = parsed(arguments)
    rate, source = options.rate, "given"
    if rate is None:
        path = options.result or newest_result(RESULTS)
        rate, source = rate_of(json.loads(path.read_text(encoding="utf-8"))), path.name
    spark, kind = (
        (options.spark_rate, "given")
        if options.spark_rate
        else (rate * SPARK_SHARE_OF_RATE, "a quarter of it, as measured on 2 cores")
    )
    print(table(list(estimates(options, rate=rate))))
    print(f"\n{rate:.1f} MB a CPU second embedded ({source}), {spark:.1f} on Spark ({kind}); efficiency "
          f"{options.box_efficiency:g} on the box and {options.spark_efficiency:g} on Spark (assumed)")  # fmt: skip


if __name__ == "__main__":
    main()
