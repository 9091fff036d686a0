"""Gateways in processes of their own, and what the kernel tells of them: processor time, memory, open files.

As a program it is a gateway with the fake engine, which `nexus serve` does not offer:

    python benchmarks/served.py MODEL_FOLDER PORT '{"step_seconds": 0.01}' '{"max_running": 64}' [PROFILE_FILE]

`MODEL_FOLDER` needs a tokenizer and a config; weights are not read.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

READY_SECONDS = 300
STOP_SECONDS = 90
NAME = "model"


@dataclass
class Served:
    """A running gateway with its engine."""

    port: int
    process: subprocess.Popen[Any]
    key: str | None = None
    start_seconds: float = 0.0
    """From the start of the process until it was ready: reading the weights is part of it."""
    gateway: psutil.Process = field(init=False)

    def __post_init__(self) -> None:
        self.gateway = psutil.Process(self.process.pid)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def engine(self) -> psutil.Process | None:
        """The engine's process; None while there is none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.gateway.children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if any("engines.child" in part for part in child.cmdline()):
                        return child
        return None

    def gateway_core_seconds(self) -> float:
        """Processor time of the gateway alone, its engine not included."""
        return core_seconds(self.gateway)

    def status(self, path: str = "/ready") -> int:
        """The status of a small page; 0 where nothing answers."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=30).status_code
        except httpx.HTTPError:
            return 0

    def metric(self, name: str) -> float:
        """The first value of that name on `/metrics`."""
        for line in httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)


def core_seconds(process: psutil.Process) -> float:
    """Processor time of one process, user and system, from /proc; its children are not included."""
    times = process.cpu_times()
    return float(times.user + times.system)


def sizes(process: psutil.Process | None) -> dict[str, float]:
    """Resident memory in MB, and open file descriptors; nothing for a process that is gone."""
    if process is None:
        return {}
    with contextlib.suppress(psutil.NoSuchProcess):
        return {"rss_mb": round(process.memory_info().rss / 1e6, 1), "descriptors": process.num_fds()}
    return {}


@contextlib.contextmanager
def served(
    model: Path, *, engine: str = "openvino", options: Sequence[str] = (), keys: Path | None = None
) -> Iterator[Served]:
    """`nexus serve` on a packaged model folder; with `keys`, behind a key that this makes in that SQLite file."""
    port, key = free_port(), None
    command = [sys.executable, "-m", "nexus_llm.cli", "serve", str(model), "--port", str(port), "--name", NAME]
    command += ["--engine", engine, *options]
    if keys is not None:
        command += ["--database", f"sqlite:///{keys}"]
        key = make_key(keys)
    with _running(command, port, key) as one:
        yield one


@contextlib.contextmanager
def served_fake(
    model: Path,
    *,
    settings: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    keys: Path | None = None,
    profile: Path | None = None,
) -> Iterator[Served]:
    """The gateway with the fake engine; with `profile`, under cProfile, which slows it to about a half."""
    port, key, recipe = free_port(), None, dict(recipe or {})
    if keys is not None:
        recipe["keys"] = {"database": f"sqlite:///{keys}"}
        key = make_key(keys)
    command = [sys.executable, __file__, str(model), str(port), json.dumps(settings or {}), json.dumps(recipe)]
    with _running([*command, *([str(profile)] if profile else [])], port, key) as one:
        yield one


@contextlib.contextmanager
def _running(command: list[str], port: int, key: str | None) -> Iterator[Served]:
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/ready", process)
        yield Served(port, process, key, time.monotonic() - started)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def make_key(database: Path) -> str:
    """A new key without limits, in the form that clients send."""
    made = subprocess.run(
        [sys.executable, "-m", "nexus_llm.cli", "keys", "create", f"bench-{os.getpid()}-{time.time_ns()}", "--json",
         "--database", f"sqlite:///{database}"],
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return str(json.loads(made.stdout)["key"])


def packaged_model(given: Path | None) -> Path:
    """The folder that was named; else the newest packaged model in artifacts/, else the small base model, packaged."""
    if given is not None:
        return given
    made = sorted(Path("artifacts/package").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if made:
        return made[-1].parent
    from nexus_llm.cli.serve import find_model

    return find_model("smollm2-135m-instruct", root=Path()).folder


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[Any]) -> None:
    """Returns once the address answers 200, or ends the benchmark."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{url} never got ready")


def _serve_fake(
    folder: Path, port: int, settings: dict[str, Any], recipe_values: dict[str, Any], on_ready: Callable[[], None]
) -> None:
    from nexus_llm.recipe import ServeRecipe
    from nexus_llm.serve.engines.process import EngineCommand
    from nexus_llm.serve.listening import bound_socket
    from nexus_llm.serve.logs import log_to_stderr
    from nexus_llm.serve.model_folder import WEIGHTS, read_model
    from nexus_llm.serve.server import Server, run_loop, settle_memory

    log_to_stderr("warning")
    model = read_model(folder, name=NAME, engine="llama.cpp" if (folder / WEIGHTS).exists() else "transformers")

    async def serve() -> None:
        server = Server(model, EngineCommand("fake", settings), recipe=ServeRecipe.model_validate(recipe_values))
        await server.run(listener, on_ready=ready, handle_signals=True)

    def ready(_info: object) -> None:
        settle_memory()
        on_ready()

    with bound_socket("127.0.0.1", port) as listener:
        run_loop(serve())


def _main() -> None:
    folder, port, settings, recipe = (
        Path(sys.argv[1]),
        int(sys.argv[2]),
        json.loads(sys.argv[3]),
        json.loads(sys.argv[4]),
    )
    if len(sys.argv) <= 5:
        _serve_fake(folder, port, settings, recipe, lambda: None)
        return
    import cProfile

    # The thread's own processor time, from the moment that it is ready: neither imports nor waiting are of interest.
    profile = cProfile.Profile(time.thread_time)
    try:
        _serve_fake(folder, port, settings, recipe, profile.enable)
    finally:
        profile.disable()
        profile.dump_stats(sys.argv[5])


if __name__ == "__main__":
    _main()
