"""The edge to the terraform binary: one stage's working folder, planned, applied and destroyed as it was shown.

Terraform writes its progress to a file and this reads it, so that it ends its work and keeps its state even when we are
killed in the middle of it. Ctrl-C reaches it once, through us: it stops at the next resource and writes its state.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm.cloud.terraform_refusals import refusal
from nexus_llm.cloud.training_processes import new_lines
from nexus_llm.errors import DeploymentError, TryAgainError
from nexus_llm.ports import Interrupt, NeverInterrupted, Progress, SilentProgress

INSTALL = "https://developer.hashicorp.com/terraform/install"
_LAST_WORDS_SECONDS = 20.0  # after the second signal: time to write the state to a bucket
# What a user set for other work must not change what is planned here.
_FOREIGN = ("TF_CLI_ARGS", "TF_VAR_", "TF_WORKSPACE", "TF_DATA_DIR", "TF_LOG", "TF_REATTACH_PROVIDERS")


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan that was written down: exactly this is applied, or nothing."""

    file: Path
    document: Mapping[str, Any]
    """`terraform show -json`."""

    @property
    def actions(self) -> dict[str, int]:
        """`create`, `update`, `replace`, `delete` → number of resources; empty: nothing to do."""
        counts: dict[str, int] = {}
        for change in self.changes:
            counts[change] = counts.get(change, 0) + 1
        return dict(sorted(counts.items()))

    @property
    def changes(self) -> list[str]:
        """What is done to each resource that does not stay as it is."""
        found = [tuple(one["change"]["actions"]) for one in self.document.get("resource_changes", [])]
        return ["replace" if len(one) > 1 else one[0] for one in found if one not in {("no-op",), ("read",)}]

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes, outputs included."""
        outputs = self.document.get("output_changes", {}).values()
        return not self.changes and all(one["actions"] == ["no-op"] for one in outputs)


@dataclass
class Terraform:
    """The binary in one stage's folder."""

    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    """Of the process: credentials live here, so it is never printed."""
    progress: Progress = field(default_factory=SilentProgress)
    interrupt: Interrupt = field(default_factory=NeverInterrupted)
    started: Callable[[int], None] = lambda _pid: None
    """Hears the process id of a plan or an apply as soon as there is one: the ledger keeps it."""

    def init(self, backend: Mapping[str, str | bool] | None = None) -> None:
        """Fetches the provider and opens the state; `backend` are the settings of its bucket.

        Raises:
            DeploymentError: there is no binary, the provider cannot be had, or the state cannot be read.
        """
        options = [f"-backend-config={name}={_text(value)}" for name, value in sorted((backend or {}).items())]
        if plugins := self.environment.get("NEXUS_TERRAFORM_PLUGINS"):
            options.append(f"-plugin-dir={plugins}")
        self.progress.start(f"terraform init {self.folder.name}", total=None, unit="steps")
        self._quiet("init", "-input=false", "-no-color", "-reconfigure", *options)
        self.progress.finish()

    def plan(self, variables: Sequence[Path], *, destroy: bool = False) -> Planned:
        """What an apply would do; nothing is made. `variables` are files, the later ones win."""
        file = self.folder / ("destroy.tfplan" if destroy else "apply.tfplan")
        options = [f"-var-file={one}" for one in variables] + (["-destroy"] if destroy else [])
        self._watched("plan", f"-out={file.name}", "-input=false", *options)
        file.chmod(0o600)  # a plan holds the values of sensitive variables
        return Planned(file, self._document("show", "-json", file.name))

    def apply(self, planned: Planned) -> None:
        """Does what was planned.

        Raises:
            DeploymentError: AWS refused; what was made until then is in the state.
            TryAgainError: stopped, throttled, locked by somebody, or the plan is older than the state.
        """
        self._watched("apply", "-input=false", planned.file.name, total=len(planned.changes))
        planned.file.unlink()

    def outputs(self) -> dict[str, Any]:
        """The stage's outputs, name → value. Sensitive ones are left out."""
        found = self._document("output", "-json")
        return {name: one["value"] for name, one in sorted(found.items()) if not one.get("sensitive")}

    def addresses(self) -> list[str]:
        """What the state holds; empty where there is no state."""
        return sorted(self._quiet("state", "list", may_fail=True).splitlines())

    def planned_before(self) -> dict[str, Any]:
        """The plan that was shown last and not finished; empty where there is none."""
        file = self.folder / "apply.tfplan"
        return self._document("show", "-json", file.name) if file.exists() else {}

    def unlock(self, lock: str) -> None:
        """Takes the lock with this id away from whoever holds it."""
        self._quiet("force-unlock", "-force", lock)

    def _document(self, *arguments: str) -> dict[str, Any]:
        return dict(json.loads(self._quiet(*arguments)))

    def _quiet(self, *arguments: str, may_fail: bool = False) -> str:
        """What a command without progress prints."""
        done = subprocess.run(
            [binary(self.environment), *arguments],
            cwd=self.folder,
            env=_environment(self.environment),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0 and not may_fail:
            raise refusal([{"summary": done.stderr or done.stdout}], stage=self.folder.name, during=arguments[0])
        return done.stdout if done.returncode == 0 else ""

    def _watched(self, verb: str, *arguments: str, total: int | None = None) -> None:
        """Runs a command that reports as it goes, and follows what it writes."""
        log = self.folder / f"{verb}.jsonl"
        with log.open("wb") as written:
            log.chmod(0o600)
            process = subprocess.Popen(
                [binary(self.environment), verb, "-json", *arguments],
                cwd=self.folder,
                env=_environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                start_new_session=True,  # Ctrl-C at the terminal reaches it only through us, and only once
            )
        self.started(process.pid)
        self.progress.start(f"terraform {verb} {self.folder.name}", total=total, unit="resources")
        found: list[dict[str, Any]] = []
        reason = None
        try:
            for line in new_lines(log, process):
                if (asked := self.interrupt.requested()) and reason is None:
                    reason = asked
                    process.send_signal(signal.SIGINT)
                if line and line.strip():
                    self._tell(_event(line), found)
        finally:
            _end(process)
        self.progress.finish()
        if process.returncode != 0:
            if reason:
                raise TryAgainError(f"terraform {verb} was stopped by {reason}", fix="the same command continues")
            if process.returncode < 0 and not found:
                name = signal.Signals(-process.returncode).name
                raise TryAgainError(
                    f"{self.folder.name}: somebody killed terraform {verb} ({name})", fix="the same command continues"
                )
            raise refusal(found, stage=self.folder.name, during=verb)

    def _tell(self, event: Mapping[str, Any], found: list[dict[str, Any]]) -> None:
        """Reports one line of terraform's stream; keeps what went wrong."""
        kind = event.get("type")
        resource = event.get("hook", {}).get("resource", {}).get("addr", "")
        if kind in {"apply_complete", "refresh_complete"}:
            self.progress.advance(1, note=resource)
        elif kind in {"apply_start", "apply_progress"}:
            self.progress.advance(0, note=resource)
        elif kind == "diagnostic" and event["diagnostic"]["severity"] == "error":
            found.append(event["diagnostic"])
        elif kind is None:
            found.append({"summary": str(event.get("@message", event))})


def binary(environment: Mapping[str, str]) -> str:
    """Path of terraform."""
    found = shutil.which("terraform", path=environment.get("PATH"))
    if found is None:
        raise DeploymentError("terraform is not on the PATH", fix=f"install Terraform 1.10 or newer: {INSTALL}")
    return found


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in given.items() if not name.startswith(_FOREIGN)}
    kept |= {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "TF_INPUT": "0"}
    if not Path(kept.get("TF_CLI_CONFIG_FILE", "")).is_file():
        kept.pop("TF_CLI_CONFIG_FILE", None)  # terraform warns about a file that is not there, in the middle of JSON
    if not kept.get("NEXUS_TERRAFORM_PLUGINS") and "TF_PLUGIN_CACHE_DIR" not in kept:
        cache = Path(kept.get("NEXUS_CACHE") or Path.home() / ".cache" / "nexus-llm") / "terraform"
        cache.mkdir(parents=True, exist_ok=True)
        kept["TF_PLUGIN_CACHE_DIR"] = str(cache)  # or else each stage would fetch 700 MB
    return kept


def _event(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {"@message": line}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end; where somebody insists on stopping at once, terraform still gets time to write its state."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS_SECONDS)
    if process.poll() is None:
        process.kill()
    process.wait()


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value
