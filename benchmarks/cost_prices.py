"""Writes the shipped price table from dated sources: `src/nexus_llm/cost/prices/table.csv`.

    python benchmarks/cost_prices.py FOLDER

FOLDER holds the collected sources (aws_prices_snapshot.json, the karpenter, spot-advisor and litellm CSVs). Only what a
licence lets us pass on is copied; the README beside the table says what was derived, cited and left out.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

TARGET = Path(__file__).parent.parent / "src/nexus_llm/cost/prices/table.csv"
COLUMNS = ("service", "sku", "region", "unit", "usd", "source", "date", "licence")
REGION = "us-east-1"
FAMILIES = ("g5", "g6", "g6e", "g7e", "p3", "p4d", "p4de", "p5", "p5en", "inf2", "c7i", "c8g", "m7i")
COMMITTED = ("g5", "g6", "g6e", "g7e", "p4d", "p4de", "p5", "p5en", "inf2", "c7i")
TRAINED_ON = ("g5", "g6", "g6e", "p4d", "p4de", "p5", "p5en")

KARPENTER = "karpenter-provider-aws, generated price list"
ADVISOR = "AWS Spot Instance Advisor through spotinfo (saving {saving} %, interrupted {band} a month) x on-demand"
ONE_YEAR = "on-demand x {ratio}: 1-year all-upfront reservation, LeanerCloud ec2-instances-info (2023-08)"
THREE_YEARS = "assumed: on-demand x 0.43; no stored source for 3-year commitments, refresh before relying on it"
SAGEMAKER = "derived: EC2 on-demand x {factor}, the ratio of SageMaker's list prices seen in us-west-2 (2026-11)"

# Key of the snapshot → (service, sku, unit, factor that makes it one unit).
SERVICES = {
    "fargate.vcpu_h": ("fargate", "vcpu", "vCPU-hour", 1),
    "fargate.gb_h": ("fargate", "memory", "GB-hour", 1),
    "alb.h": ("alb", "hour", "hour", 1),
    "alb.lcu_h": ("alb", "lcu", "LCU-hour", 1),
    "nat.h": ("nat", "hour", "hour", 1),
    "nat.gb": ("nat", "data", "GB", 1),
    "vpce.h": ("vpc-endpoint", "hour", "hour", 1),
    "vpce.gb": ("vpc-endpoint", "data", "GB", 1),
    "ipv4.h": ("public-ipv4", "hour", "hour", 1),
    "s3.std_gb": ("s3", "standard", "GB-month", 1),
    "s3.ia_gb": ("s3", "infrequent-access", "GB-month", 1),
    "s3.put_1k": ("s3", "put", "thousand requests", 1),
    "s3.get_1k": ("s3", "get", "thousand requests", 1),
    "cw.log_gb": ("cloudwatch", "log-ingestion", "GB", 1),
    "cw.log_store_gb": ("cloudwatch", "log-storage", "GB-month", 1),
    "cw.metric": ("cloudwatch", "metric", "month", 1),
    "cw.alarm": ("cloudwatch", "alarm", "month", 1),
    "cw.dashboard": ("cloudwatch", "dashboard", "month", 1),
    "kms.key": ("kms", "key", "month", 1),
    "kms.10k": ("kms", "requests", "thousand requests", 0.1),
    "secrets.each": ("secrets-manager", "secret", "month", 1),
    "ebs.gp3_gb": ("ebs", "gp3", "GB-month", 1),
    "ecr.gb": ("ecr", "storage", "GB-month", 1),
    "dto.gb": ("data-transfer", "internet-out", "GB", 1),
    "xaz.gb": ("data-transfer", "between-zones", "GB", 1),
    "glue.dpu_h": ("glue", "dpu", "DPU-hour", 1),
    "emrs.vcpu_h": ("emr-serverless", "vcpu", "vCPU-hour", 1),
    "emrs.gb_h": ("emr-serverless", "memory", "GB-hour", 1),
}
# What the snapshot has not: read in Infracost's test goldens, as the rest of kind IC (those of wafv2_web_acl,
# rds_cluster_instance and rds_cluster, read 2026-11). A request is priced by the thousand like S3's.
GOLDENS = (
    ("waf", "web-acl", "month", 5),
    ("waf", "rule", "month", 1),
    ("waf", "requests", "thousand requests", 0.0006),
    ("aurora", "serverless-v2", "ACU-hour", 0.12),
    ("aurora", "storage", "GB-month", 0.1),
    ("aurora", "io", "thousand requests", 0.0002),
    ("aurora", "backup-storage", "GB-month", 0.021),
)
# Kind of source in the snapshot → (source, date, licence).
KINDS = {
    "IC": ("Infracost test goldens, list prices", "2025-07-01", "Apache-2.0"),
    "ER": ("AWS list price as several public repositories cite it; unverified", "2025-07-01", "fact"),
    "A": ("AWS list price from memory; unverified", "2025-07-01", "fact"),
}

Row = tuple[str, str, str, str, str, str, str, str]


def main(folder: Path) -> None:
    """Writes the table, sorted."""
    rows = sorted({*_services(folder), *_machines(folder), *_interfaces(folder)})
    with TARGET.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"{len(rows)} prices")


def _services(folder: Path) -> Iterator[Row]:
    for row in json.loads((folder / "aws_prices_snapshot.json").read_text())["rows"]:
        if row["key"] in SERVICES:
            service, sku, unit, factor = SERVICES[row["key"]]
            place = "global" if sku == "dashboard" else REGION
            yield (service, sku, place, unit, _usd(row["usd"] * factor), *KINDS[row["src"]])
    for service, sku, unit, usd in GOLDENS:
        yield (service, sku, REGION, unit, _usd(usd), *KINDS["IC"])
    # CW:CompositeAlarmMonitorUsage, as public repositories cite AWS' list of prices (c3x.dev and others, read 2026-11);
    # AWS' own page was not seen.
    yield ("cloudwatch", "composite-alarm", REGION, "month", "0.5", KINDS["ER"][0], "2026-11-22", "fact")


def _machines(folder: Path) -> Iterator[Row]:
    listed = _read(folder / "ec2_ondemand_us-east-1_karpenter_2026-07-20.csv")
    hourly = {row["instance_type"]: float(row["usd_per_hour"]) for row in listed}
    chosen = {name: usd for name, usd in hourly.items() if _family(name) in FAMILIES and "metal" not in name}
    for name, usd in chosen.items():
        yield ("ec2", f"{name} on-demand", REGION, "hour", _usd(usd), KARPENTER, "2026-07-20", "Apache-2.0")
        if _family(name) in COMMITTED:
            ratio = 0.575 if _family(name) in ("p4d", "p4de") else 0.588
            one = ONE_YEAR.format(ratio=ratio)
            yield ("ec2", f"{name} savings-1y", REGION, "hour", _usd(usd * ratio), one, "2023-08-01", "MIT")
            yield ("ec2", f"{name} savings-3y", REGION, "hour", _usd(usd * 0.43), THREE_YEARS, "2026-11-21", "fact")
        if _family(name) in TRAINED_ON:
            factor = 1.15 if _family(name).startswith("p") else 1.40 if name.endswith(".xlarge") else 1.25
            source = SAGEMAKER.format(factor=f"{factor:.2f}")
            yield ("sagemaker", f"ml.{name} training", REGION, "hour", _usd(usd * factor), source, "2026-11-21", "fact")
    for row in _read(folder / "spot_advisor_gpu_2025-07.csv"):
        name, saving = row["instance_type"], int(row["saving_pct_vs_od"])
        if row["region"] == REGION and name in chosen and saving > 0:
            source = ADVISOR.format(saving=saving, band=row["interruption_band"])
            usd = _usd(chosen[name] * (1 - saving / 100))
            yield ("ec2", f"{name} spot", REGION, "hour", usd, source, "2025-06-30", "Apache-2.0")


def _interfaces(folder: Path) -> Iterator[Row]:
    kinds = ("input", "output", "cached_input", "batch_input")
    for row in _read(folder / "llm_api_prices_litellm_1.109.1.csv"):
        source = "litellm 1.109.1, model_prices_and_context_window.json"
        for kind in kinds:
            usd = row[f"{kind}_usd_per_mtok"]
            if usd and float(usd) > 0:
                sku = f"{row['model']} {kind.replace('_', '-')}"
                yield ("api", sku, "global", "million tokens", _usd(float(usd)), source, "2026-11-21", "MIT")


def _read(path: Path) -> Iterable[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _family(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def _usd(value: float) -> str:
    return f"{value:.8f}".rstrip("0").rstrip(".")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
