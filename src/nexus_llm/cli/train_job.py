"""What the train image runs: `train` reads /opt/ml as SageMaker fills it, trains, and leaves the artifact in its place.

    python -m nexus_llm.cli.train_job train           # the image's entry point; NEXUS_OPT_ML names another root
    python -m nexus_llm.cli.train_job evaluate        # and other stages, as processing jobs: see processing_job.py

Exit codes: 0 done · 1 failed, the reason is in output/failure · 75 stopped by SIGTERM with everything saved.
The same file runs as SageMaker's container, as `train.launcher: container-rehearsal`, and in the tests.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.cli import processing_job
from nexus_llm.errors import ArtifactError, NexusError, RecipeError, TryAgainError, UsageError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact, Draft
    from nexus_llm.cloud.training_processes import TerminationNotice
    from nexus_llm.ports import Interrupt, Ports
    from nexus_llm.recipe import Recipe
    from nexus_llm.train.container import Contract

MODULE = "nexus_llm.cli.train_job"
COMMAND = (sys.executable, "-m", MODULE, "train")
"""What the image's entry point runs when SageMaker starts it."""
ROOT_VARIABLE = "NEXUS_OPT_ML"
_PROCESSING = [[stage] for stage in processing_job.STAGES]
SPOT_VARIABLE = "NEXUS_SPOT_NOTICE"
"""Set to 1 on a spot machine of EC2, Batch or ECS. Not in SageMaker: it turns the notice into SIGTERM by itself, and
counts a container that ends before it as failed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends the process with the exit code of the job."""
    from nexus_llm.train.distributed.launch import end_rank

    exit_code = run(sys.argv[1:] if arguments is None else list(arguments))
    if _is_worker():
        end_rank(exit_code)
    sys.exit(exit_code)


def run(arguments: Sequence[str]) -> int:
    """The exit code of one start of the container; the reason of a failure is in `output/failure`."""
    from nexus_llm.cloud.training_processes import TerminationNotice
    from nexus_llm.train import container
    from nexus_llm.train.distributed.launch import leave_last_words

    last_words = processing_job.MESSAGE_FILE if list(arguments) in _PROCESSING else "failure"
    notice = TerminationNotice().install()
    root = Path(os.environ.get(ROOT_VARIABLE) or container.ROOT)
    try:
        return _job(list(arguments), root, notice)
    except TryAgainError as error:
        _tell(error)
        leave_last_words(error, os.environ)
        return error.exit_code
    except NexusError as error:
        _tell(error)
        leave_last_words(error, os.environ)
        _write_failure(root / "output" / last_words, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, SageMaker shows only what stands in the file
        traceback.print_exc()
        _write_failure(root / "output" / last_words, error)
    return 1


def _job(arguments: list[str], root: Path, notice: TerminationNotice) -> int:
    from nexus_llm.recipe import load_recipe
    from nexus_llm.train import container

    if arguments in _PROCESSING:
        processing_job.run(arguments[0], root, notice)
        return 0
    if arguments != ["train"]:
        raise UsageError(
            f"the train image was started with {' '.join(arguments) or 'no word'!r}",
            fix="start it as SageMaker does: docker run IMAGE train",
        )
    contract = container.read_contract(root)
    os.environ.update(container.network_variables(contract))
    recipe = load_recipe(
        contract.channel("recipe") / container.RECIPE_FILE,
        overrides=(*container.recipe_overrides(contract.hyperparameters), "train.launcher=local"),
    )
    processes = _processes(recipe, contract)
    if processes * len(contract.hosts) == 1 or _is_worker():
        _train(contract, recipe, _interrupt(notice))
        return 0
    container.await_hosts(contract.hosts, resolve=socket.gethostbyname, sleep=time.sleep)
    if error := _launch(contract, processes, notice):
        raise error
    return 0


def _train(contract: Contract, recipe: Recipe, interrupt: Interrupt) -> None:
    """Runs the train stage; its artifact, manifest included, is what lies in the model folder afterwards."""
    from nexus_llm.artifacts import altered_files, artifact_key, load
    from nexus_llm.train.distributed.process_group import joined, place
    from nexus_llm.train.stage import METRICS, STAGE, train_here

    inputs = {kind: load(contract.channel(kind)) for kind in STAGE.needs}
    for kind, artifact in inputs.items():
        if _rank() == 0 and (altered := altered_files(artifact)):
            raise ArtifactError(
                f"channel {kind}: {', '.join(altered[:3])} did not arrive as it was made ({len(altered)} files)",
                fix="delete its prefix in the bucket and start the job again: it is uploaded anew",
            )
    part = STAGE.recipe_part(recipe)
    keys = {kind: artifact.key for kind, artifact in inputs.items()}
    key = artifact_key(STAGE.kind, stage_version=STAGE.version, recipe=part, inputs=keys)
    draft = _draft(contract, key=key, stage_version=STAGE.version, part=part, inputs=inputs)
    ports, here = _ports(draft, interrupt), place(os.environ)
    if here is None:
        facts = train_here(recipe, inputs, draft.folder, draft.work, ports)
    else:
        with joined(here) as ranks:
            facts = train_here(recipe, inputs, draft.folder, draft.work, ports, ranks)
    if _rank() == 0:
        draft.finish(facts=facts, logs=(METRICS,))


def _draft(
    contract: Contract, *, key: str, stage_version: int, part: dict[str, Any], inputs: dict[str, Artifact]
) -> Draft:
    """A draft in the model folder whose scratch is what SageMaker copies to S3 and puts back."""
    from nexus_llm.artifacts import Draft, stable_hash
    from nexus_llm.cloud.local import provenance

    class KeepingDraft(Draft):
        """Keeps its scratch: a machine that is lost while the result is uploaded must find the last checkpoint."""

        def finish(self, *, facts: dict[str, Any], logs: tuple[str, ...] = ()) -> Artifact:
            self.work = self.folder / ".no-scratch"
            return super().finish(facts=facts, logs=logs)

    ids = {kind: artifact.id for kind, artifact in inputs.items()}
    contract.model.mkdir(parents=True, exist_ok=True)
    if _rank() == 0:
        _empty(contract.model)  # the folder itself may be a mount, which cannot be removed
    draft = KeepingDraft(
        contract.model,
        kind="train",
        key=key,
        stage_version=stage_version,
        recipe=part,
        inputs=ids,
        provenance=provenance(["train_job", "train"]),
    )
    # Checkpoints of other inputs under the same prefix are nothing to continue from.
    draft.work = contract.checkpoints / stable_hash({"key": key, "inputs": ids})
    draft.work.mkdir(parents=True, exist_ok=True)
    return draft


def _ports(draft: Draft, interrupt: Interrupt) -> Ports:
    from nexus_llm.ports import Ports, SilentProgress
    from nexus_llm.train.stage import METRICS

    progress = MetricsLines(draft.work / METRICS) if _rank() == 0 else SilentProgress()
    return Ports(progress=progress, interrupt=interrupt)


class MetricsLines:
    """A `nexus_llm.ports.Progress` that prints the newest row of `metrics.jsonl` for whoever reads the job's log."""

    def __init__(self, metrics: Path) -> None:
        self._metrics = metrics

    def start(self, label: str, *, total: float | None, unit: str) -> None:
        print(f"{label}: {total or '?'} {unit}", flush=True)

    def advance(self, amount: float, note: str = "") -> None:  # noqa: ARG002 - the row says more
        import json

        from nexus_llm.train.metrics_line import metrics_line

        if not self._metrics.exists():  # a restart whose checkpoint has come back, and whose log has not
            return
        with self._metrics.open("rb") as stream:
            stream.seek(max(0, self._metrics.stat().st_size - 8192))
            rows = [line for line in stream.read().splitlines() if line.startswith(b"{") and line.endswith(b"}")]
        if rows:
            print(metrics_line(json.loads(rows[-1])), flush=True)

    def finish(self, note: str = "") -> None:
        print(f"training: done {note}".rstrip(), flush=True)


def _launch(contract: Contract, processes: int, notice: TerminationNotice) -> NexusError | None:
    """What ended the processes of this machine, None for success. Each of them runs this file again."""
    from nexus_llm.cloud.training_processes import run_torchrun
    from nexus_llm.train import container
    from nexus_llm.train.distributed.launch import launch

    with tempfile.TemporaryDirectory(prefix="nexus-") as scratch:
        command = launch(
            ["-m", MODULE, "train"],
            processes=processes,
            machines=len(contract.hosts),
            machine=contract.host_rank,
            address=contract.master_address,
            port=container.MASTER_PORT,
            log_folder=Path(scratch),
        )
        environment = {**os.environ, ROOT_VARIABLE: str(contract.root)}
        return run_torchrun(
            command, environment=environment, log_folder=Path(scratch), requested=_interrupt(notice).requested
        )


@dataclass(frozen=True)
class _AnyOf:
    """The first of several interrupts that asks to stop."""

    interrupts: tuple[Interrupt, ...]

    def requested(self) -> str | None:
        reasons = (interrupt.requested() for interrupt in self.interrupts)
        return next((reason for reason in reasons if reason), None)


def _interrupt(notice: TerminationNotice) -> Interrupt:
    """The signal alone, or also the spot notice, where the environment says that there may be one."""
    if os.environ.get(SPOT_VARIABLE) != "1" or _is_worker():
        return notice
    from nexus_llm.cloud.spot import SpotNotice

    return _AnyOf((notice, SpotNotice().start()))


def _processes(recipe: Recipe, contract: Contract) -> int:
    """Processes on this machine."""
    distributed = recipe.train.distributed
    if distributed.num_machines != len(contract.hosts):
        raise RecipeError(
            f"train.distributed.num_machines is {distributed.num_machines}, the job has {len(contract.hosts)} hosts",
            fix=f"--set train.distributed.num_machines={len(contract.hosts)}, which is also sagemaker.instance_count",
        )
    return distributed.num_processes


def _is_worker() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ


def _rank() -> int:
    return int(os.environ.get("RANK", "0")) if _is_worker() else 0


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_failure(target: Path, error: BaseException) -> None:
    """The first failure is the cause: processes that die of it come later."""
    from nexus_llm.train import container

    text = container.failure_text(error, secrets=container.secret_values(os.environ))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        return
    except OSError as refused:  # the exit code must still tell
        print(f"{target} cannot be written ({refused}); the failure was:\n{text}", file=sys.stderr, flush=True)


def _tell(error: NexusError) -> None:
    from nexus_llm.train import container

    secrets = container.secret_values(os.environ)
    lines = f"error: {error.what}\n  fix: {error.fix}"
    print(container.hide_secrets(lines, secrets=secrets), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
