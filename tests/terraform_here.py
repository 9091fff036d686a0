"""Terraform on this machine, in a copy of `infra/`: initialised once a folder, never with a backend or an account.

A machine that has the provider on disk names its folder in NEXUS_TERRAFORM_PLUGINS; elsewhere a plain `init` fetches
it. Where neither is possible, tests are skipped, and say so where it is seen.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from attached_provider import attached_provider, provider_binary

INFRA = Path(__file__).parent.parent / "infra"
# Modules and stages with tests of their own, as paths below infra/.
TESTED = sorted({str(one.parent.parent.relative_to(INFRA)) for one in INFRA.glob("*/*/tests/*.tftest.hcl")})
PROVIDER = """
terraform {
  required_providers {
    aws = { source = "hashicorp/aws", version = "~> 5.100" }
  }
}
"""
INIT_SECONDS = 120


def binary() -> str:
    """The terraform binary; without one, or without its AWS provider, the test is skipped."""
    found = shutil.which("terraform")
    if found is None:
        _skip("terraform is not on the PATH: infra/ was NOT tested; https://developer.hashicorp.com/terraform/install")
    if _provider() is None:
        _skip("no AWS provider, neither in NEXUS_TERRAFORM_PLUGINS nor from the registry: infra/ was NOT tested")
    return str(found)


@functools.cache
def _provider() -> Path | None:
    """The AWS provider's binary, looked for once: without a network terraform tries for long before it gives up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.tf").write_text(PROVIDER)
        try:
            if terraform(folder, "init", *_init_options(), timeout=INIT_SECONDS).returncode != 0:
                return None
        except subprocess.TimeoutExpired:
            return None
        found = provider_binary(folder)
        return found and found.resolve()


def copy_of_infra(folder: Path) -> Path:
    """A copy of infra/ without what earlier runs left in it; relative paths between its folders stay valid."""
    binary()
    unwanted = shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*", "*.tfplan")
    return Path(shutil.copytree(INFRA, folder / "infra", ignore=unwanted, dirs_exist_ok=True))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What terraform said in `folder` with a mocked provider, after `init` where it was not initialised yet."""
    attached = attached_environment()
    if not (folder / ".terraform").exists():
        initialise(folder, environment=attached)
    return terraform(folder, *arguments, environment=attached)


def attached_environment(account: Mapping[str, str] | None = None) -> dict[str, str]:
    """What leads terraform to one running provider, which looks for AWS as `account` says; empty where none starts."""
    provider = _provider()
    return attached_provider(provider, tuple(sorted((account or {}).items()))) if provider else {}


def mocked(copy: Path, stage: str, test: str) -> list[dict[str, Any]]:
    """The resources of a stage as the first run of `test` made them, with a mocked provider: every value is known.

    All runs of `test` have to pass.
    """
    done = run(copy / "stages" / stage, "test", "-json", "-verbose", f"-filter=tests/{test}")
    for line in done.stdout.splitlines():
        if '"type":"test_state"' in line:
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr
            return list(_walk(json.loads(line)["test_state"]["root_module"]))
    raise AssertionError(f"{stage} has no state: {done.stdout[-2000:]}{done.stderr}")


def initialise(folder: Path, *, backend: bool = False, environment: Mapping[str, str] | None = None) -> None:
    """`terraform init`, with the state's place only where `backend` says so."""
    done = terraform(folder, "init", f"-backend={str(backend).lower()}", *_init_options(), environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def _init_options() -> list[str]:
    plugins = os.environ.get("NEXUS_TERRAFORM_PLUGINS")
    return ["-input=false", "-no-color", *([f"-plugin-dir={plugins}"] if plugins else [])]


def terraform(
    folder: Path, *arguments: str, timeout: float | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What terraform says in `folder`, whatever this machine's own account and settings are."""
    more = environment or {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {**more, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    if not Path(environment.get("TF_CLI_CONFIG_FILE", "")).is_file():
        environment.pop("TF_CLI_CONFIG_FILE", None)
    if not os.environ.get("NEXUS_TERRAFORM_PLUGINS"):  # or else each folder would fetch 700 MB
        cache = Path(tempfile.gettempdir()) / "nexus-terraform-plugins"
        cache.mkdir(exist_ok=True)
        environment["TF_PLUGIN_CACHE_DIR"] = str(cache)
    command = ["terraform", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def _walk(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in module.get("resources", []):
        yield {"values": {}, **resource}  # a plan says nothing at all of what it knows nothing about
    for child in module.get("child_modules", []):
        yield from _walk(child)


def _skip(reason: str) -> None:
    warnings.warn(reason, stacklevel=3)
    pytest.skip(reason)
