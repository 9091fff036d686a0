"""`nexus aws rehearse`: the whole life of a recipe on AWS, on this machine, in one command."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, DryRun, Overrides, RecipePath, Root, ports
from nexus_llm.errors import DeploymentError, MissingExtraError, TryAgainError

if TYPE_CHECKING:
    from nexus_llm.cli.rehearsal_life import Life
    from nexus_llm.cloud.rehearsal_platform import RehearsedPlatform
    from nexus_llm.ports import Ports

NAME, ZONES = "nexus-small", ("a", "b")
# What a rehearsal runs, and the extra that brings it.
_MODULES = {"moto": "rehearse", "openai": "rehearse", "pyspark": "spark", "peft": "train", "fastapi": "serve",
            "openvino_genai": "serve"}  # fmt: skip


def register(group: typer.Typer) -> None:
    """Adds the command to the group."""
    group.command("rehearse")(rehearse)


def rehearse(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    root: Root = Path(),
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Live a recipe's whole life on an emulated AWS: Terraform, jobs, service, teardown. Nothing leaves here."""
    import time

    from nexus_llm.deploy.rehearsal import STEPS
    from nexus_llm.deploy.rehearsal import rehearse as outcomes_of

    if dry_run:
        rows = [{"name": one.name, "does": one.does} for one in STEPS]
        if as_json:
            print_json({"steps": rows})
        for row in () if as_json else rows:
            print(f"{row['name']:<10} {row['does']}")
        return 0
    require()
    folder = root / "runs" / "rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    openings = ports()
    with _life(recipe, tuple(overrides), folder, openings) as life:
        outcomes = outcomes_of(
            STEPS,
            life.works(),
            clock=time.monotonic,
            requested=openings.interrupt.requested,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
        document = life.document(outcomes)
    report = _write(folder, document)
    if as_json:
        print_json(document)
    else:
        print(f"{'holds' if document['holds'] else 'DOES NOT HOLD'}: {document['seconds']:.0f} s, {report}")
    if reason := openings.interrupt.requested():
        raise TryAgainError(f"the rehearsal was stopped by {reason}; nothing real was made", fix="start it again")
    return 0 if document["holds"] else 1


def require() -> None:
    """Nothing, where all is installed that a rehearsal runs; nothing is loaded.

    Raises:
        DeploymentError: there is no terraform.
        MissingExtraError: a Python package is missing.
    """
    from nexus_llm.cloud.terraform import INSTALL

    if shutil.which("terraform") is None:
        raise DeploymentError(
            "terraform is not on the PATH, and a rehearsal applies the real infra/ with it",
            fix=f"install it ({INSTALL}); without a network also NEXUS_TERRAFORM_PLUGINS=FOLDER of a provider mirror",
        )
    for module, extra in _MODULES.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError.for_extra(extra, module)


@contextlib.contextmanager
def _life(recipe: Path, overrides: tuple[str, ...], folder: Path, openings: Ports) -> Iterator[Life]:
    """Everything that a rehearsal runs on, ended whatever happens."""
    from nexus_llm.cli.rehearsal_life import Life
    from nexus_llm.cli.rehearsal_rollout import MINUTE_SECONDS
    from nexus_llm.cli.train_job import COMMAND
    from nexus_llm.cloud.emulator import REGION, entered, running_emulator
    from nexus_llm.cloud.emulator_patches import PatchedApplication
    from nexus_llm.cloud.rehearsal_balancer import running_balancer
    from nexus_llm.cloud.rehearsal_deployments import RunningDeployments
    from nexus_llm.cloud.rehearsal_faults import planned_faults
    from nexus_llm.cloud.rehearsal_jobs import RunningJobs
    from nexus_llm.cloud.rehearsal_service import Service

    jobs, faults = RunningJobs(folder / "jobs", REGION, COMMAND), planned_faults()
    python = (sys.executable, "-m")
    with contextlib.ExitStack() as stack:
        patches = tuple(one.patch() for one in faults)
        service = Service(
            stack.enter_context(running_balancer()),
            folder / "tasks",
            fetch_command=(*python, "nexus_llm.cli.fetch_model"),
            serve_command=(*python, "nexus_llm.cli", "serve"),
        )
        deployments = RunningDeployments(service, REGION, minute_seconds=MINUTE_SECONDS)
        emulator = stack.enter_context(
            running_emulator(
                region=REGION, wrap=lambda app: PatchedApplication(deployments.wrap(jobs.wrap(app)), patches)
            )
        )
        stack.enter_context(entered(emulator))
        stack.callback(jobs.stop)
        stack.callback(service.stop)
        stack.callback(deployments.end)
        platform = _platform(folder, REGION, openings)
        yield Life(recipe, overrides, folder, openings, platform, jobs, service, deployments, faults)


def _platform(folder: Path, region: str, openings: Ports) -> RehearsedPlatform:
    from datetime import UTC, datetime

    from nexus_llm.cli.aws_up import pricing
    from nexus_llm.cli.console import LineProgress
    from nexus_llm.cloud.emulator import ACCOUNT
    from nexus_llm.cloud.rehearsal_platform import RehearsedPlatform
    from nexus_llm.cloud.stack_life import StackLife, begun, regional_clients

    zones = tuple(region + letter for letter in ZONES)
    deployment, place = begun(folder, name=NAME, environment="small", account=ACCOUNT, region=region, zones=zones)
    variables: dict[str, Path] = {}
    life = StackLife(
        deployment,
        place,
        dict(os.environ),
        lambda: datetime.now(UTC).isoformat(timespec="seconds"),
        given=variables,
        clients=regional_clients,
        progress=LineProgress(),  # its own: stages are made beside jobs, which show theirs
        interrupt=openings.interrupt,
    )
    return RehearsedPlatform(life, pricing(None, region), variables)


def _write(folder: Path, document: dict[str, Any]) -> Path:
    """The report as JSON and as a page; gives the page."""
    import json

    from nexus_llm.deploy.rehearsal_page import page
    from nexus_llm.storage import write_atomically

    write_atomically(folder / "report.json", (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomically(folder / "report.html", page(document).encode())
    return folder / "report.html"
