"""The life of one platform: its stages planned, applied and taken down by terraform, each step in the ledger first.

A deployment has a folder of its own: a copy of `infra/` (the checkout stays clean), the ledger, and what each stage
handed on. The states of later stages lie in the bucket of stage 0; stage 0's own lies here, with a copy in that bucket.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import nexus_llm
from nexus_llm.cloud.account import open_account
from nexus_llm.cloud.adoption import forget_adopted, write_adopted
from nexus_llm.cloud.aws_errors import error_code, explained
from nexus_llm.cloud.terraform import Planned, Terraform
from nexus_llm.cloud.terraform_refusals import Lock, LockedError
from nexus_llm.deploy import stack
from nexus_llm.deploy.ledger import Condition, Entry, Event, Ledger, condition, last
from nexus_llm.deploy.stack import STAGES, STATE, Deployment, Stage
from nexus_llm.errors import DeploymentError, NexusError, UsageError
from nexus_llm.ports import Interrupt, NeverInterrupted, Progress, SilentProgress
from nexus_llm.storage import write_atomically

_LEFT_BEHIND = shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*", "*.tfplan", "tests", "*.md")
_LOCKING_SECONDS = 120.0  # from its start until it holds the lock, on a busy machine
_STATE_COPY = f"{STATE}.tfstate"


def infra_folder() -> Path:
    """The Terraform that ships with this package: inside it where it was installed, beside `src` in a checkout."""
    package = Path(nexus_llm.__file__).parent
    for folder in (package / "infra", package.parent.parent / "infra"):
        if (folder / "stages").is_dir():
            return folder
    raise DeploymentError(f"no infra/ in {package}", fix="install the package again: its wheel carries infra/")


def begun(
    runs: Path,
    *,
    name: str,
    environment: str | None,
    account: str | None,
    region: str | None,
    zones: tuple[str, ...] = (),
) -> tuple[Deployment, Path]:
    """The deployment in `runs/NAME` as it was begun; a new one is written down there.

    Raises:
        UsageError: a new one lacks account or region, or an old one would get another.
    """
    folder = runs / name
    file = folder / "deployment.json"
    if file.exists():
        known = Deployment(**_tuples(json.loads(file.read_text(encoding="utf-8"))))
        asked = {"environment": environment, "account": account, "region": region, "zones": zones}
        for key, value in asked.items():
            if value and value != getattr(known, key):
                raise UsageError(
                    f"{name} was begun with {key} {getattr(known, key)}, not {value}",
                    fix="take another --name, or leave the option out",
                )
        return known, folder
    if not account or not region:
        raise UsageError(f"{name} is not known here ({file})", fix="say where: --account 123456789012 --region REGION")
    environment = environment or "small"
    if not (infra_folder() / "environments" / environment).is_dir():
        there = ", ".join(sorted(one.name for one in (infra_folder() / "environments").iterdir()))
        raise UsageError(f"there is no environment {environment!r}", fix=f"--environment is one of: {there}")
    zones = zones or first_zones(region, count=2 if environment == "small" else 3)
    new = Deployment(name, environment, account, region, zones)
    write_atomically(file, (json.dumps(asdict(new), indent=2) + "\n").encode())
    return new, folder


def regional_clients(service: str, region: str) -> Any:
    """boto3's client of a service in a region, with this process' credentials."""
    return open_account(region).client(service)


def first_zones(region: str, *, count: int) -> tuple[str, ...]:
    """Names of the first availability zones that are open to everybody there."""
    with explained("ec2:DescribeAvailabilityZones", region):
        answer = regional_clients("ec2", region).describe_availability_zones(
            Filters=[{"Name": "opt-in-status", "Values": ["opt-in-not-required"]}]
        )
    return tuple(sorted(one["ZoneName"] for one in answer["AvailabilityZones"])[:count])


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


@dataclass
class StackLife:
    """One deployment and the tools to work on it."""

    deployment: Deployment
    folder: Path
    """`runs/aws/NAME`."""
    environment: Mapping[str, str] = field(repr=False)
    """Of terraform; credentials are found as the AWS provider finds them."""
    now: Callable[[], str]
    """The time as ISO 8601, UTC."""
    infra: Path = field(default_factory=lambda: infra_folder())  # noqa: PLW0108 - looked up when it is called
    given: Mapping[str, Path] = field(default_factory=dict)
    """Stage → the user's file of variables."""
    clients: Callable[[str, str], Any] | None = field(default=None, repr=False)
    """Service and region → boto3's client: keep a copy of stage 0's state in its bucket. Without, it lies only here."""
    progress: Progress = field(default_factory=SilentProgress)
    interrupt: Interrupt = field(default_factory=NeverInterrupted)

    @property
    def ledger(self) -> Ledger:
        """What was begun and finished."""
        return Ledger(self.folder / "ledger.jsonl")

    def unlock(self, stage: Stage, lock: str) -> None:
        """Takes a lock away by its id, whoever holds it."""
        self._opened(stage).unlock(lock)

    def conditions(self) -> dict[str, Condition]:
        """How far each stage is, as the ledger knows it; where it knows nothing, as the bucket of states does."""
        entries = self.ledger.entries()
        found = {one.name: condition(entries, one.name) for one in STAGES}
        elsewhere = {one.name for one in self.kept()} if Condition.NOT_MADE in found.values() else set()
        return {
            name: Condition.ELSEWHERE if known is Condition.NOT_MADE and name in elsewhere else known
            for name, known in found.items()
        }

    def made(self) -> set[str]:
        """Stages that may hold something: their outputs can be read."""
        return {one.name for one in STAGES if all((self.folder / f"{name}.json").exists() for name in one.hands_on)}

    def plan(self, stage: Stage, *, destroy: bool = False) -> Planned:
        """What would be done; a lock of our own that nobody holds any more is opened.

        Raises:
            LockedError: somebody else works on this state.
        """
        terraform = self._opened(stage)
        adopted = []
        entry = last([one for one in self.ledger.entries() if one.action != "plan"], stage.name)
        if not destroy and entry and entry.event is not Event.DONE and entry.action == "apply":
            adopted = write_adopted(terraform)
        try:
            return self._unlocked(stage, terraform, lambda: terraform.plan(self._variables(stage), destroy=destroy))
        except DeploymentError:
            if not adopted:
                raise
            forget_adopted(terraform.folder)  # what cannot be taken over is made again, or named as taken
            return terraform.plan(self._variables(stage), destroy=destroy)

    def preview(self, stage: Stage) -> Planned:
        """What `stage` would make in an empty account, planned before there is a bucket for its state."""
        copy = replace(self, folder=self.folder / "preview")
        folder = copy._copied(stage)
        (folder / "preview_override.tf").write_text('terraform {\n  backend "local" {}\n}\n', encoding="utf-8")
        terraform = copy._terraform(stage, folder)
        terraform.init()
        return terraform.plan(copy._variables(stage))

    def apply(self, stage: Stage, planned: Planned, *, usd_per_month: float | None = None) -> None:
        """Does what was planned and shown, and writes down what the stage hands on; `destroy` plans, too."""
        destroys = planned.file.name.startswith("destroy")
        action = "destroy" if destroys else "apply"
        self._write(stage, action, Event.INTENT, changes=planned.actions, usd_per_month=usd_per_month)
        terraform = self._terraform(stage, self._stage_folder(stage))
        terraform.started = lambda process: self._write(stage, action, Event.RUNNING, process=process)
        try:
            terraform.apply(planned)
        except NexusError as error:
            self._write(stage, action, Event.FAILED, error=error.what)
            raise
        finally:
            if stage.name == STATE and not destroys:
                self._keep_state_copy(terraform)
        forget_adopted(terraform.folder)
        if destroys:
            self._forget(stage)
        else:
            self.write_outputs(stage)
        self._write(stage, action, Event.DONE, changes=planned.actions, usd_per_month=usd_per_month)

    def write_outputs(self, stage: Stage) -> None:
        """`platform.json`, `jobs.json` …: what later stages and other commands read."""
        found = self._terraform(stage, self._stage_folder(stage)).outputs()
        for name in stage.hands_on:
            if name in found:
                text = json.dumps(found[name], indent=2, sort_keys=True) + "\n"
                write_atomically(self.folder / f"{name}.json", text.encode())

    def outputs(self, stage: Stage) -> dict[str, Any]:
        """What the stage handed on; empty where it is not made."""
        files = {name: self.folder / f"{name}.json" for name in stage.hands_on}
        return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}

    def addresses(self, stage: Stage) -> list[str]:
        """What the stage's state holds."""
        return self._opened(stage).addresses()

    def kept(self) -> list[Stage]:
        """Stages that have a state, whoever made them: stage 0's lies here, the others' in its bucket."""
        found = {STATE} if (self._stage_folder(STAGES[0]) / "terraform.tfstate").exists() else set()
        if self.clients is None:
            found |= self.made()
        elif found and (self.folder / "state.json").exists():
            with explained("s3:ListBucket", self.deployment.state_bucket):
                s3 = self.clients("s3", self.deployment.region)
                answer = s3.list_objects_v2(Bucket=self.deployment.state_bucket)
            found |= {str(one["Key"]).removesuffix(".tfstate") for one in answer.get("Contents", [])}
        return [one for one in STAGES if one.name in found]

    def fetch_state(self) -> bool:
        """Whether stage 0's state is here now: on another machine than the first it is fetched from its bucket."""
        file = self._copied(STAGES[0]) / "terraform.tfstate"
        if not file.exists() and self.clients is not None and (copy := self._state_copy()):
            write_atomically(file, copy)
        if file.exists() and not (self.folder / "state.json").exists():
            self._opened(STAGES[0])
            self.write_outputs(STAGES[0])
        return file.exists()

    def _state_copy(self) -> bytes | None:
        """Stage 0's state as its bucket keeps it; None where there is no bucket or no copy."""
        assert self.clients is not None
        bucket = self.deployment.state_bucket
        with explained("s3:GetObject", f"{bucket}/{_STATE_COPY}"):
            try:
                answer = self.clients("s3", self.deployment.region).get_object(Bucket=bucket, Key=_STATE_COPY)
            except Exception as error:
                if error_code(error) in {"NoSuchBucket", "NoSuchKey"}:
                    return None
                raise
            return bytes(answer["Body"].read())

    def _opened(self, stage: Stage) -> Terraform:
        """Terraform in the stage's folder, with its state."""
        state = {}
        if stage.name != STATE:
            file = self.folder / "state.json"
            if not file.exists():
                raise UsageError(
                    f"{stage.name} keeps its state in the bucket of {STATE}, which is not made yet",
                    fix=f"nexus aws up --stage {STATE}",
                )
            state = json.loads(file.read_text(encoding="utf-8"))
        terraform = self._terraform(stage, self._copied(stage))
        settings = stack.backend(stage, state)
        # init reads all of a provider of 700 MB to verify it: once for the same files and the same bucket.
        mark = terraform.folder / ".terraform" / "nexus-opened"
        opened = json.dumps([settings, self.environment.get("NEXUS_TERRAFORM_PLUGINS"), self._digest(stage)])
        if not mark.exists() or mark.read_text(encoding="utf-8") != opened:
            terraform.init(settings)
            mark.write_text(opened, encoding="utf-8")
        return terraform

    def _digest(self, stage: Stage) -> str:
        """Of every file that says which providers and modules the stage wants."""
        folders = (self.infra / "modules", self.infra / "stages" / stage.name)
        files = sorted(file for folder in folders for file in folder.rglob("*.tf"))
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()

    def _terraform(self, stage: Stage, folder: Path) -> Terraform:
        def running(process: int) -> None:
            self._write(stage, "plan", Event.RUNNING, process=process)

        return Terraform(folder, self.environment, self.progress, self.interrupt, running)

    def _stage_folder(self, stage: Stage) -> Path:
        return self.folder / "work" / "stages" / stage.name

    def _copied(self, stage: Stage) -> Path:
        """The stage's folder in a copy of infra/: today's files, and what terraform left there."""
        work, folder = self.folder / "work", self._stage_folder(stage)
        shutil.rmtree(work / "modules", ignore_errors=True)
        shutil.copytree(self.infra / "modules", work / "modules", ignore=_LEFT_BEHIND)
        for old in folder.glob("*.tf"):
            if old.name != "nexus_adopted.tf":
                old.unlink()
        shutil.copytree(self.infra / "stages" / stage.name, folder, ignore=_LEFT_BEHIND, dirs_exist_ok=True)
        return folder

    def _variables(self, stage: Stage) -> list[Path]:
        """Files of variables, the later ones win: the environment's, the user's, ours."""
        short = stage.name.partition("-")[2]
        files = [self.infra / "environments" / self.deployment.environment / f"{short}.tfvars"]
        files += [file for name, file in self.given.items() if name == stage.name]
        own = self._stage_folder(stage) / "nexus.tfvars.json"
        told = stack.variables(stage, self.deployment, self.folder.resolve())
        write_atomically(own, json.dumps(told, indent=2, sort_keys=True).encode())
        return [one.resolve() for one in (*files, own) if one.exists()]

    def _unlocked(self, stage: Stage, terraform: Terraform, work: Callable[[], Planned]) -> Planned:
        """What `work` gives; a lock that a dead process of ours left is taken away first."""
        before = [one for one in self.ledger.entries() if one.stage == stage.name]
        try:
            return work()
        except LockedError as error:
            if error.lock is None or not _is_abandoned(error.lock, before):
                raise
            terraform.unlock(error.lock.id)
            return work()

    def _write(
        self,
        stage: Stage,
        action: str,
        event: Event,
        *,
        process: int = 0,
        changes: Mapping[str, int] | None = None,
        usd_per_month: float | None = None,
        error: str = "",
    ) -> None:
        host = socket.gethostname()
        self.ledger.write(
            Entry(self.now(), stage.name, action, event, host, process, changes or {}, usd_per_month, error)
        )

    def _forget(self, stage: Stage) -> None:
        """What a stage that is gone had handed on."""
        for name in stage.hands_on:
            (self.folder / f"{name}.json").unlink(missing_ok=True)

    def _keep_state_copy(self, terraform: Terraform) -> None:
        """Stage 0's state into its own bucket: another machine can then go on."""
        file = terraform.folder / "terraform.tfstate"
        if self.clients is None or not file.exists():
            return
        from botocore.exceptions import BotoCoreError, ClientError

        # The bucket may be the very thing that was refused; a state that was cut off is kept nowhere.
        with contextlib.suppress(ClientError, BotoCoreError, json.JSONDecodeError):
            content = file.read_bytes()
            for one in json.loads(content)["resources"]:
                if one["type"] == "aws_s3_bucket" and any(each.get("status") == "tainted" for each in one["instances"]):
                    return  # stopped while it was made: terraform makes it anew, which it could not with a copy in it
            s3 = self.clients("s3", self.deployment.region)
            s3.put_object(Bucket=self.deployment.state_bucket, Key=_STATE_COPY, Body=content)


def _is_abandoned(lock: Lock, entries: Sequence[Entry]) -> bool:
    """Whether a lock was left by a terraform that this machine started and that is dead.

    `entries` are those of the stage. While its lock lies there nobody else can have taken it, so a lock that is as old
    as one of our processes is that process'.
    """
    host = socket.gethostname()
    if lock.who.rpartition("@")[2] != host:
        return False
    ours = [one for one in entries if one.process and one.host == host]
    if any(_is_alive(one.process) for one in ours):
        return False
    return any(0 <= _seconds_between(one.at, lock.since) <= _LOCKING_SECONDS for one in ours)


def _seconds_between(before: str, after: str) -> float:
    """Both are UTC and begin with `2026-11-22 10:00:00`, with a space or a T."""
    first, second = (datetime.fromisoformat(one[:19].replace(" ", "T")) for one in (before, after))
    return (second - first).total_seconds()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
