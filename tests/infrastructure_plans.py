"""Plans of the stages, made offline by the very commands that the READMEs show: static keys, no state, no AWS.

A plan costs seconds of CPU, so all tests share one of each, and each command of a README that plans is one of them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terraform_here import INFRA, attached_environment, initialise, terraform

ENVIRONMENTS = ("small", "standard", "regulated")
# A plan needs keys to exist and nobody to answer: no data source is read, and nothing is there yet.
BACKEND = 'terraform {\n  backend "local" {}\n}\n'
PROVIDER = """
provider "aws" {
  %s
  access_key                  = "offline"
  secret_key                  = "offline"
  allowed_account_ids         = null
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
}
"""
# What the README's GPU example leaves out, so that the controls see a task with all that it can have.
MORE_OF_A_TASK = {
    "secrets": {"UPSTREAM_KEY": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-a1b2c3"},
    "tracing_image": "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3",
}
# With a database a task names it by an id that AWS invents, and the plan shows nothing of the task. The environments
# have one.
WITHOUT_DATABASE = ("-var=database=null",)


@dataclass(frozen=True)
class Command:
    """One terraform command of a README."""

    stage: str
    words: tuple[str, ...]
    """From the verb on, without what the shell does with the output."""

    @property
    def options(self) -> list[str]:
        """Its variables, as words of `terraform plan`."""
        kept: list[str] = []
        for word, following in zip(self.words, (*self.words[1:], ""), strict=True):
            if word == "-var":
                kept.append(f"-var={following}")
            elif word.startswith(("-var=", "-var-file=")):
                kept.append(word)
        return kept


@dataclass(frozen=True)
class Resource:
    """One resource that a plan would make, with the values that are known before it is made."""

    address: str
    type: str
    values: dict[str, Any]
    unknown: dict[str, Any]


def commands(readme: Path) -> list[Command]:
    """The terraform commands of a README's shell examples, in their order, each in the folder that `cd` led to."""
    found, stage = [], ""
    for line in "\n".join(_blocks(readme, "bash")).replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part.partition(" > ")[0], comments=True)
            if words[:1] == ["cd"]:
                stage = Path(words[1]).name
            elif words[:1] == ["terraform"]:
                found.append(Command(stage, tuple(words[1:])))
    return found


def plans() -> dict[str, Command]:
    """Every plan by its name: those of the environments, and the READMEs' examples of the other stages."""
    (state, _) = _planning(INFRA / "README.md")
    found = {"state": state}
    for name in ENVIRONMENTS:
        platform, serving = _planning(INFRA / "environments" / name / "README.md")
        found |= {f"platform-{name}": platform, f"serving-{name}": serving}
    for name, stage in (("serving-gpu", "2-serving"), ("delivery", "3-delivery")):
        (found[name],) = _planning(INFRA / "stages" / stage / "README.md")
    return found


def plan(name: str, infra: Path) -> dict[str, Any]:
    """One plan as `terraform show -json` tells it, made in a copy of infra/."""
    command = plans()[name]
    folder = infra / "stages" / command.stage
    for file, content in _inputs(name, infra).items():
        (folder / file).write_text(content, encoding="utf-8")
    attached = {} if name.startswith("platform-") else attached_environment()  # a platform has a copy: two providers
    if not (folder / ".terraform").exists():
        initialise(folder, backend=True, environment=attached)
    options = ("-input=false", "-refresh=false", "-lock=false", "-no-color", "-out=offline.tfplan")
    more = WITHOUT_DATABASE if name == "serving-gpu" else ()
    done = terraform(folder, "plan", *options, *command.options, *more, environment=attached)
    assert done.returncode == 0, done.stdout + done.stderr
    told = terraform(folder, "show", "-json", "offline.tfplan", environment=attached)
    shown: dict[str, Any] = json.loads(told.stdout)
    return shown


def resources(document: dict[str, Any]) -> list[Resource]:
    """The resources that a plan would make, sorted by address."""
    unknown = {one["address"]: one["change"]["after_unknown"] for one in document["resource_changes"]}
    found = [
        # A plan says nothing at all of the values of what it knows nothing about.
        Resource(one["address"], one["type"], one.get("values", {}), unknown[one["address"]])
        for one in _resources(document["planned_values"]["root_module"])
    ]
    return sorted(found, key=lambda one: one.address)


def _inputs(name: str, infra: Path) -> dict[str, str]:
    """Files that a plan reads: what earlier stages would have handed on, and a README's own tfvars."""
    aliases = ("", 'alias = "replica"') if name.startswith("platform-") else ("",)
    files = {"offline_override.tf": BACKEND + "".join(PROVIDER % alias for alias in aliases)}
    if name.startswith(("serving-", "delivery")):
        platform = json.loads((infra / "tests" / "serving" / "platform.json").read_text(encoding="utf-8"))
        zones = 2 if name == "serving-small" else 3
        platform["name"] = f"nexus-{name.removeprefix('serving-')}"
        platform["public_subnet_ids"] = [f"subnet-{number:017x}" for number in range(zones)]
        files["../platform.json"] = json.dumps(platform)
        files["../serving.json"] = (infra / "tests" / "serving" / "serving.json").read_text(encoding="utf-8")
    if name in ("serving-gpu", "delivery"):
        readme = infra / "stages" / plans()[name].stage / "README.md"
        files[f"{name.partition('-')[0]}.tfvars"] = "\n".join(_blocks(readme, "hcl"))
    if name.startswith("serving-"):
        files["more.auto.tfvars.json"] = json.dumps(MORE_OF_A_TASK if name == "serving-gpu" else {})
    return files


def _planning(readme: Path) -> list[Command]:
    """A README's commands that plan; where it applies a plan's file, the plan is the one before."""
    return [one for one in commands(readme) if one.words[0] in ("plan", "apply") and one.options]


def _blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (one for one in module.get("resources", []) if one["mode"] == "managed")
    for child in module.get("child_modules", []):
        yield from _resources(child)
