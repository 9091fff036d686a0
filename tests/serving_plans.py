"""Plans of the serving and delivery stages, made offline in a scratch copy of infra/: static keys, no state, no AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terraform_here import initialise, terraform

OVERRIDE = """
terraform {
  backend "local" {}
}
provider "aws" {
  access_key                  = "testing"
  secret_key                  = "testing"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
  allowed_account_ids         = []
}
"""
CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
SERVING = {"certificate_arn": CERTIFICATE, "gateway_version": ":1.2.0", "model": {"name": "m", "key": "package/1a2b"}}
CONNECTION = "arn:aws:codeconnections:eu-central-1:123456789012:connection/1"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("2-serving", SERVING | {"database": {}}),
    "gpu": (
        "2-serving",
        SERVING
        | {
            "engine": {"kind": "vllm", "image": "vllm/vllm-openai:v0.33.0", "context_tokens": 8192},
            "gpu": {"warm_instances": 1},
            "tasks": {"min": 0, "max": 2},
            "secrets": {"UPSTREAM_KEY": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-a1b2c3"},
            "tracing_image": "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3",
            "schedule": {"sleep": "0 19 ? * MON-FRI *", "wake": "0 7 ? * MON-FRI *"},
        },
    ),
    "delivery": ("3-delivery", {"source_code": {"connection_arn": CONNECTION, "repository": "example/nexus-llm"}}),
}


@dataclass(frozen=True)
class Resource:
    """One resource that a plan would make, with the values that are known before it is made."""

    address: str
    type: str
    values: dict[str, Any]
    unknown: dict[str, Any]


def plan(variant: str, infra: Path) -> list[Resource]:
    """The resources of one variant's plan in a copy of infra/, sorted by address."""
    stage, variables = VARIANTS[variant]
    folder = infra / "stages" / stage
    inputs = infra / "tests" / "serving"
    files = {"platform_file": str(inputs / "platform.json")}
    if stage == "3-delivery":
        files["serving_file"] = str(inputs / "serving.json")
    (folder / "offline_override.tf").write_text(OVERRIDE, encoding="utf-8")
    (folder / "test.auto.tfvars.json").write_text(json.dumps(files | variables), encoding="utf-8")
    if not (folder / ".terraform").exists():
        initialise(folder, backend=True)
    planned = terraform(folder, "plan", "-input=false", "-no-color", "-refresh=false", "-lock=false", "-out=plan")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    document = json.loads(terraform(folder, "show", "-json", "plan").stdout)
    unknown = {one["address"]: one["change"]["after_unknown"] for one in document["resource_changes"]}
    found = [
        Resource(one["address"], one["type"], one["values"], unknown[one["address"]])
        for one in _resources(document["planned_values"]["root_module"])
    ]
    return sorted(found, key=lambda one: one.address)


def _resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (one for one in module.get("resources", []) if one["mode"] == "managed")
    for child in module.get("child_modules", []):
        yield from _resources(child)
