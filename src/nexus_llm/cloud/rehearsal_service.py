"""The serving tasks as processes of this machine: what an ECS task's containers run, behind a balancer on loopback.

A task is the fetch of the package from the bucket, then the gateway with its engine. How many there are is asked of the
emulated ECS, as its scheduler would; requests come from the official OpenAI client.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm.cloud.emulator import without_aws
from nexus_llm.cloud.rehearsal_balancer import BLUE, Balancer
from nexus_llm.cloud.training_processes import end_group
from nexus_llm.errors import ServingError

START_SECONDS = 300.0
STOP_SECONDS = 60.0
_POLL_SECONDS = 0.2
QUESTIONS = ("What is a list in Python?", "Explain what an exception is.", "Name three uses of a dictionary.")


@dataclass
class Task:
    """One task that answers."""

    process: subprocess.Popen[bytes]
    url: str
    metric_lines: Path
    """CloudWatch's lines, as they would go to its log."""
    fetch_seconds: float
    start_seconds: float
    drained_seconds: float | None = None
    exit_code: int | None = None


@dataclass
class Service:
    """The tasks of one service, oldest first."""

    balancer: Balancer
    folder: Path
    fetch_command: Sequence[str]
    """Location and folder follow."""
    serve_command: Sequence[str]
    """The folder follows."""
    package: str = ""
    """Location of the package in the bucket."""
    name: str = ""
    """The service's, which its metrics are told under."""
    group: str = BLUE
    """Of the balancer: where tasks are added."""
    tasks: list[Task] = field(default_factory=list)
    ended: list[Task] = field(default_factory=list)
    _started: list[Task] = field(default_factory=list)

    def match(self, desired: int) -> None:
        """Starts or ends tasks until there are as many as desired; the newest leaves first, with its answers given.

        Raises:
            ServingError: one does not start.
        """
        while len(self.tasks) < desired:
            task = self.start(self.package)
            self.tasks.append(task)
            self.balancer.add(task.url, self.group)
        while len(self.tasks) > desired:
            self.retire(self.tasks.pop())

    def start(self, package: str) -> Task:
        """A task that answers, and that nobody is sent to yet.

        Raises:
            ServingError: it does not start.
        """
        number = len(self._started) + 1
        folder, log = self.folder / f"task-{number}", self.folder / f"task-{number}.log"
        said, lines = self.folder / f"task-{number}.json", self.folder / f"task-{number}.metrics.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with log.open("ab") as stream, said.open("wb") as out:
            fetched = subprocess.run([*self.fetch_command, package, str(folder)], stderr=stream, check=False)
            if fetched.returncode:
                raise ServingError(f"task {number} could not fetch {package}", fix=f"read {log}")
            between = time.monotonic()
            process = subprocess.Popen(
                [*self.serve_command, str(folder), "--port", "0", "--json", "--set", f"serve.telemetry.emf={lines}"],
                env=without_aws(os.environ) | ({"NEXUS_SERVICE": self.name} if self.name else {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=stream,
                start_new_session=True,
            )
        try:
            url = _address(process, said, log)
            _await_ready(process, url, log)
        except BaseException:
            end_group(process)
            raise
        self._started.append(Task(process, url, lines, between - began, time.monotonic() - between))
        return self._started[-1]

    def retire(self, task: Task) -> None:
        """Ends a task once its open answers are given; one that does not go is killed."""
        task.drained_seconds = self.balancer.remove(task.url)
        task.process.terminate()
        try:
            task.exit_code = task.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            end_group(task.process)
            task.exit_code = task.process.returncode
        self.ended.append(task)

    def told(self) -> list[Path]:
        """The metric lines of all tasks so far."""
        return [one.metric_lines for one in self._started if one.metric_lines.exists()]

    def stop(self) -> None:
        """Ends what still runs, however it is."""
        for task in self._started:
            end_group(task.process)


@dataclass
class Callers:
    """People who ask one question after another, streamed, until they are told to go home."""

    url: str
    model: str
    count: int = 3
    max_tokens: int = 24
    whole: int = 0
    lost: list[str] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)
    _going: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        """They start asking."""
        for number in range(self.count):
            thread = threading.Thread(target=self._ask_on, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self) -> None:
        """They stop after their open answers."""
        self._going.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, number: int) -> None:
        import openai

        client = client_of(self.url)
        while not self._going.is_set():
            try:
                seconds, reason, _ = streamed(client, self.model, QUESTIONS[number % len(QUESTIONS)], self.max_tokens)
            except openai.OpenAIError as error:
                self.lost.append(f"{type(error).__name__}: {error}")
                continue
            if reason is None:
                self.lost.append("an answer ended without a reason")
            else:
                self.whole += 1
                self.first_token_seconds.append(seconds)


def client_of(url: str) -> Any:
    """The official client, which asks once: what is lost is seen."""
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key="rehearsal", max_retries=0, timeout=120)


def streamed(client: Any, model: str, question: str, max_tokens: int) -> tuple[float, str | None, str]:
    """Seconds to the first token, why the answer ended (None: it was cut off), and its text."""
    began, first, reason, text = time.monotonic(), 0.0, None, ""
    messages = [{"role": "user", "content": question}]
    with client.chat.completions.create(
        model=model, messages=messages, max_completion_tokens=max_tokens, stream=True
    ) as answer:
        for chunk in answer:
            for choice in chunk.choices:
                if choice.delta.content:
                    first = first or time.monotonic() - began
                    text += choice.delta.content
                reason = choice.finish_reason or reason
    return first, reason, text


def desired_count(ecs: Any, serving: Mapping[str, Any]) -> int:
    """How many tasks the service wants, as ECS says."""
    found = ecs.describe_services(cluster=serving["cluster_name"], services=[serving["service_name"]])["services"]
    return int(found[0]["desiredCount"])


def want(ecs: Any, serving: Mapping[str, Any], count: int) -> None:
    """Asks ECS for so many tasks: what Application Auto Scaling does by its policies."""
    ecs.update_service(cluster=serving["cluster_name"], service=serving["service_name"], desiredCount=count)


def share(callers: Callers, balancer: Balancer) -> dict[str, Any]:
    """What the callers saw, as facts."""
    first = sorted(callers.first_token_seconds)
    return {
        "answers that came whole": callers.whole,
        "answers lost": len(callers.lost),
        "first token, median (s)": round(first[len(first) // 2], 2) if first else None,
        "requests by task": [count for _, count in sorted(Counter(balancer.served).items())],
    }


def _address(process: subprocess.Popen[bytes], said: Path, log: Path) -> str:
    """Where the gateway listens: it prints one JSON document once its engine answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return str(json.loads(said.read_bytes())["url"])
        except ValueError:
            time.sleep(_POLL_SECONDS)
    raise ServingError(f"the gateway did not start (exit code {process.poll()})", fix=f"read {log}")


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:  # noqa: S310 - loopback
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(_POLL_SECONDS)
    raise ServingError(f"{url}/ready never said yes", fix=f"read {log}")
