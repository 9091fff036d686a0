"""Glue and SageMaker that run what they are sent: the emulator accepts the job, this machine does it.

The emulator reports success and runs nothing. Here a run of a Glue job starts the script that lies in the bucket, with
Spark on this machine; a training job gets its channels from the bucket into a tree like /opt/ml, is interrupted once as
spot machines are, moves to a second tree with the checkpoints that S3 would hold, and leaves its model.tar.gz. Lines go
to the emulated CloudWatch Logs, so whoever submits and follows a job is the product's own code, unchanged.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nexus_llm.cloud.account import open_account
from nexus_llm.cloud.emulator import JOINING_SECONDS
from nexus_llm.cloud.emulator_patches import Answer, Call, Memory, Moto, Patch, PatchedApplication, Wsgi
from nexus_llm.cloud.rehearsal import half_synced, make_tree, start
from nexus_llm.cloud.stack_life import regional_clients
from nexus_llm.cloud.training_processes import end_group, new_lines, start_rehearsed
from nexus_llm.recipe import load_recipe
from nexus_llm.train.container import RECIPE_FILE
from nexus_llm.train.metrics_line import parse_metrics_line

MASTER = "local[2]"
_STOPPED = 75  # exit code of a container that saved and ended; see cli/train_job.py
_GLUE_LOGS = "/aws-glue/jobs"


@dataclass
class _Run:
    """A job as its service would describe it."""

    state: str
    words: str = ""
    """SageMaker's SecondaryStatus."""
    reason: str = ""
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """Of machines that worked."""
    total: float = 0.0


class RunningJobs:
    """The two services, in front of the emulator's."""

    def __init__(self, folder: Path, region: str, train_command: Sequence[str]) -> None:
        """`folder` is for scripts, trees and logs; `train_command` is what the train image runs."""
        self._folder, self._region, self._train_command = folder, region, train_command
        self._runs: dict[str, _Run] = {}
        self._processes: list[Any] = []
        self.interruption: dict[str, Any] = {}
        """What the spot interruption did: the first machine's exit code, and the files that S3 lacked."""
        self.losses: list[dict[int, float]] = []
        """Of each machine: step → loss, as they were printed."""
        self.spark_seconds = 0.0

    @property
    def patches(self) -> tuple[Patch, ...]:
        """What stands in for the two services."""
        reason = "moto reports success and runs nothing: a stand-in starts the same program here"
        return (
            Patch("glue", "StartJobRun", reason, (), self._start_glue),
            Patch("glue", "GetJobRun", reason, (), self._glue_run),
            Patch("sagemaker", "CreateTrainingJob", reason, (), self._start_training),
            Patch("sagemaker", "DescribeTrainingJob", reason, (), self._training_job),
        )

    def wrap(self, app: Wsgi) -> Wsgi:
        """The emulator with these two services."""
        return PatchedApplication(app, self.patches)

    def stop(self) -> None:
        """Ends what still runs."""
        for process in self._processes:
            end_group(process)

    def _start_glue(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        answer = moto(call)
        if answer.status == 200:
            run = answer.document["JobRunId"]
            self._begin(run, _Run("RUNNING"), lambda: self._glue(run, call.document))
        return answer

    def _glue_run(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        answer, run = moto(call), self._runs.get(call.document.get("RunId", ""))
        if answer.status != 200 or run is None:
            return answer
        told = answer.document["JobRun"] | {"JobRunState": run.state, "ErrorMessage": run.reason}
        told |= {"ExecutionTime": round(run.seconds), "Id": call.document["RunId"], "LogGroupName": _GLUE_LOGS}
        return Answer(200, json.dumps({"JobRun": told}).encode())

    def _start_training(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        answer, body = moto(call), call.document
        if answer.status == 200:
            name = body["TrainingJobName"]
            self._begin(name, _Run("InProgress", "Starting"), lambda: self._train(name, body))
        return answer

    def _training_job(self, call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG002
        name = call.document.get("TrainingJobName", "")
        answer, run = moto(call), self._runs.get(name)
        if answer.status != 200 or run is None:
            return answer
        told = answer.document
        told |= {"TrainingJobStatus": run.state, "SecondaryStatus": run.words, "FailureReason": run.reason}
        told["ModelArtifacts"] = {"S3ModelArtifacts": _result_url(name, told["OutputDataConfig"]["S3OutputPath"])}
        if run.state == "Completed":
            told |= {"TrainingTimeInSeconds": round(run.total), "BillableTimeInSeconds": round(run.seconds)}
        return replace(answer, body=json.dumps(told).encode())

    def _begin(self, name: str, run: _Run, work: Callable[[], None]) -> None:
        self._runs[name] = run

        def watched() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - the job's end, as its service would tell it
                run.reason, run.words = f"{type(error).__name__}: {error}", "Failed"
                run.state = "FAILED" if run.state.isupper() else "Failed"

        threading.Thread(target=watched, name=name, daemon=True).start()

    def _glue(self, name: str, asked: Mapping[str, Any]) -> None:
        run = self._runs[name]
        job = regional_clients("glue", self._region).get_job(JobName=asked["JobName"])["Job"]
        script = _download(self._s3(), job["Command"]["ScriptLocation"], self._folder / name / "glue_job.py")
        given = job.get("DefaultArguments", {}) | asked.get("Arguments", {})
        words = [word for one in ("--RECIPE", "--OUTPUT", "--MODEL") if one in given for word in (one, given[one])]
        log = self._folder / name / "output.log"
        command = [sys.executable, str(script), "--JOB_NAME", asked["JobName"], *words, "--MASTER", MASTER]
        process = start_rehearsed(command, environment=dict(os.environ), log=log)
        code = self._watched(process, log, _Lines(self._region, f"{_GLUE_LOGS}/output", name))
        run.seconds = self.spark_seconds = time.monotonic() - run.started
        run.state, run.reason = ("SUCCEEDED", "") if code == 0 else ("FAILED", f"exit code {code}: {_last(log)}")

    def _train(self, name: str, body: Mapping[str, Any]) -> None:
        run, s3, folder = self._runs[name], self._s3(), self._folder / name
        run.words = "Downloading"
        channels = {}
        for one in body["InputDataConfig"]:
            channels[one["ChannelName"]] = folder / "channels" / one["ChannelName"]
            _download_tree(s3, one["DataSource"]["S3DataSource"]["S3Uri"], channels[one["ChannelName"]])
        store, checkpoints = body["CheckpointConfig"]["S3Uri"], folder / "machine-1" / "opt-ml" / "checkpoints"
        code = self._machine(name, 1, channels, body, until=lambda: len(list(checkpoints.rglob("step-*"))) > 1)
        self.interruption["exit_code"], last = code, folder / "machine-1"
        if code == _STOPPED:
            run.words, last = "Interrupted", folder / "machine-2"
            self.interruption["missing_after_copy"] = half_synced(checkpoints, folder / "synced")
            _upload_tree(s3, folder / "synced", store)
            run.words = "Restarting"
            _download_tree(s3, store, last / "opt-ml" / "checkpoints")
            code = self._machine(name, 2, channels, body)
        run.total = time.monotonic() - run.started
        if code == 0:
            run.words = "Uploading"
            _upload_model(s3, last / "opt-ml" / "model", _result_url(name, body["OutputDataConfig"]["S3OutputPath"]))
            run.words = run.state = "Completed"
        else:
            run.reason = f"exit code {code}: {_last(last / 'container.log')}"
            run.words = run.state = "Failed"

    def _machine(
        self,
        name: str,
        number: int,
        channels: Mapping[str, Path],
        body: Mapping[str, Any],
        *,
        until: Callable[[], bool] | None = None,
    ) -> int:
        """The exit code of the container on one machine, which is told to end once `until` says so."""
        run, root = self._runs[name], self._folder / name / f"machine-{number}" / "opt-ml"
        inputs = {kind: folder for kind, folder in channels.items() if kind != "recipe"}
        recipe = load_recipe(channels["recipe"] / RECIPE_FILE)
        make_tree(root, recipe, inputs, hyperparameters=body.get("HyperParameters", {}))
        run.words, began = "Training", time.monotonic()
        process, log = start(root, self._train_command, job=name), root.with_name("container.log")
        told = False

        def poll() -> None:
            nonlocal told
            if until and not told and until():
                told = True
                process.send_signal(signal.SIGTERM)

        code = self._watched(
            process, log, _Lines(self._region, "/aws/sagemaker/TrainingJobs", f"{name}/algo-{number}"), poll
        )
        run.seconds += time.monotonic() - began
        rows = (parse_metrics_line(line) for line in log.read_text(errors="replace").splitlines())
        self.losses.append({int(row["step"]): row["loss"] for row in rows if {"step", "loss"} <= set(row)})
        return code

    def _watched(self, process: Any, log: Path, lines: _Lines, poll: Callable[[], None] = lambda: None) -> int:
        self._processes.append(process)
        waiting: list[str] = []
        for line in new_lines(log, process):
            if line is not None:
                waiting.append(line)
                continue
            lines.put(waiting)
            waiting = []
            poll()
        lines.put(waiting)
        return int(process.wait())

    def _s3(self) -> Any:
        from botocore.config import Config

        return open_account(self._region).session.client("s3", config=Config(read_timeout=JOINING_SECONDS))


class _Lines:
    """One stream of the emulated CloudWatch Logs."""

    def __init__(self, region: str, group: str, stream: str) -> None:
        self._logs = regional_clients("logs", region)
        self._place = {"logGroupName": group, "logStreamName": stream}
        for create, names in (("create_log_group", ["logGroupName"]), ("create_log_stream", [*self._place])):
            with contextlib.suppress(self._logs.exceptions.ResourceAlreadyExistsException):
                getattr(self._logs, create)(**{name: self._place[name] for name in names})

    def put(self, lines: Sequence[str]) -> None:
        """CloudWatch refuses empty events."""
        now = round(time.time() * 1000)
        events = [{"timestamp": now, "message": line} for line in lines if line.strip()]
        if events:
            self._logs.put_log_events(**self._place, logEvents=events)


def _result_url(name: str, output: str) -> str:
    return f"{output.rstrip('/')}/{name}/output/model.tar.gz"


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def _download(s3: Any, url: str, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file(*_split(url), str(target))
    return target


def _download_tree(s3: Any, url: str, folder: Path) -> None:
    bucket, prefix = _split(url)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for one in page.get("Contents", []):
            _download(s3, f"s3://{bucket}/{one['Key']}", folder / one["Key"].removeprefix(prefix))


def _upload_tree(s3: Any, folder: Path, url: str) -> None:
    bucket, prefix = _split(url)
    for path in _files(folder):
        s3.upload_file(str(path), bucket, f"{prefix.rstrip('/')}/{path.relative_to(folder).as_posix()}")


def _upload_model(s3: Any, model: Path, url: str) -> None:
    archive = model.with_name("model.tar.gz")
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in _files(model):
            tar.add(path, path.relative_to(model).as_posix())
    s3.upload_file(str(archive), *_split(url))
    archive.unlink()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _last(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return " / ".join(lines[-2:])
