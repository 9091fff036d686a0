"""Terraform on this machine, in a copy of `infra/`: initialised once a folder, never with a backend or an account.

A machine that has the provider on disk names its folder in NEXUS_TERRAFORM_PLUGINS; elsewhere a plain `init` fetches
it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

INFRA = Path(__file__).parent.parent / "infra"
# Modules and stages with tests of their own, as paths below infra/.
TESTED = sorted({str(one.parent.parent.relative_to(INFRA)) for one in INFRA.glob("*/*/tests/*.tftest.hcl")})
ACCOUNT = "123456789012"
REGION = "eu-central-1"
# A plan needs keys to exist and nobody to answer: no data source is read, and nothing is there yet.
OFFLINE = """
terraform {
  backend "local" {}
}
"""
OFFLINE_PROVIDER = """
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


def binary() -> str:
    """The terraform binary; without one the test is skipped, and says so where it is seen."""
    found = shutil.which("terraform")
    if found is None:
        _skip("terraform is not on the PATH: infra/ was NOT tested; https://developer.hashicorp.com/terraform/install")
    return str(found)


def copy_of_infra(folder: Path) -> Path:
    """A copy of infra/ without what earlier runs left in it; relative paths between its folders stay valid."""
    unwanted = shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*", "*.tfplan")
    return Path(shutil.copytree(INFRA, folder / "infra", ignore=unwanted, dirs_exist_ok=True))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What terraform said in `folder`, after `init` where it was not initialised yet."""
    if not (folder / ".terraform").exists():
        _initialise(folder)
    return _terraform(folder, *arguments)


def plan(copy: Path, stage: str, *arguments: str, aliases: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The resources that a plan of `stage` would make in an empty account: address, type and known values."""
    folder = copy / "stages" / stage
    providers = [OFFLINE_PROVIDER % "", *(OFFLINE_PROVIDER % f'alias = "{alias}"' for alias in aliases)]
    (folder / "offline_override.tf").write_text(OFFLINE + "".join(providers))
    if not (folder / ".terraform").exists():
        _initialise(folder, backend=True)
    options = ("-input=false", "-refresh=false", "-lock=false", "-no-color", "-out=offline.tfplan")
    done = _terraform(folder, "plan", *options, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = _terraform(folder, "show", "-json", "offline.tfplan")
    return list(_walk(json.loads(shown.stdout)["planned_values"]["root_module"]))


def mocked(copy: Path, stage: str, test: str) -> list[dict[str, Any]]:
    """The resources of a stage as the first run of `test` made them, with a mocked provider: every value is known."""
    done = run(copy / "stages" / stage, "test", "-json", "-verbose", f"-filter=tests/{test}")
    for line in done.stdout.splitlines():
        if '"type":"test_state"' in line:
            return list(_walk(json.loads(line)["test_state"]["root_module"]))
    raise AssertionError(f"{stage} has no state: {done.stdout[-2000:]}{done.stderr}")


def _initialise(folder: Path, *, backend: bool = False) -> None:
    plugins = os.environ.get("NEXUS_TERRAFORM_PLUGINS")
    options = [f"-backend={str(backend).lower()}", "-input=false", "-no-color"]
    done = _terraform(folder, "init", *options, *([f"-plugin-dir={plugins}"] if plugins else []))
    if done.returncode != 0 and not plugins and "registry.terraform.io" in done.stdout + done.stderr:
        _skip("no AWS provider, neither in NEXUS_TERRAFORM_PLUGINS nor from the registry: infra/ was NOT tested")
    assert done.returncode == 0, done.stdout + done.stderr


def _terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    if not Path(environment.get("TF_CLI_CONFIG_FILE", "")).is_file():
        environment.pop("TF_CLI_CONFIG_FILE", None)
    return subprocess.run([binary(), *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def _walk(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in module.get("resources", []):
        yield {"values": {}, **resource}  # a plan says nothing at all of what it knows nothing about
    for child in module.get("child_modules", []):
        yield from _walk(child)


def _skip(reason: str) -> None:
    warnings.warn(reason, stacklevel=3)
    pytest.skip(reason)
