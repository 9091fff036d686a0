"""`nexus serve`, `chat` and `bench` as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from command_line import nexus, nexus_here
from running_server import RunningServer, StartServer


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`nexus serve … --json` until the block ends, and what it printed when it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nexus_llm.cli", "serve", *arguments, "--json", "--log-level", "info"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        yield process, json.loads("".join(lines))
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def run_folder(tmp_path: Path, tiny_folder: Path) -> Path:
    """A run folder as the line leaves it, around the tiny packaged model."""
    from nexus_llm.recipe import Recipe, recipe_yaml

    run = tmp_path / "runs" / "tiny-run"
    run.mkdir(parents=True)
    shutil.copytree(tiny_folder, tmp_path / "artifacts" / "package" / "k1")
    (run / "artifacts.json").write_text(json.dumps({"package": {"key": "k1", "path": "artifacts/package/k1"}}))
    (run / "recipe.resolved.yaml").write_text(recipe_yaml(Recipe(name="tiny-run")))
    return run


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_under_the_runs_name_and_leaves_no_child(run_folder: Path, stop_signal: int) -> None:
    port = free_port()
    with serving(str(run_folder), "--port", str(port), "--set", "serve.max_new_tokens=3") as (process, ready):
        assert ready["url"] == f"http://127.0.0.1:{port}"
        answer = httpx.post(f"{ready['url']}/v1/completions", json={"model": "tiny-run", "prompt": "def"})
        assert answer.json()["usage"]["completion_tokens"] <= 3
        children = psutil.Process(process.pid).children(recursive=True)
        assert ready["engine_pid"] in [child.pid for child in children]
        os.kill(process.pid, stop_signal)
        assert process.wait(15) == 0
        psutil.wait_procs(children, timeout=5)
        assert not any(child.is_running() for child in children)
        assert process.stderr is not None
        events = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]
        assert {"server.ready", "server.draining", "request.answered"} <= {event["event"] for event in events}


def test_serve_answers_sagemaker_on_a_port_of_its_own(run_folder: Path) -> None:
    with serving(str(run_folder), "--port", str(free_port()), "--sagemaker-port", str(free_port())) as (_, ready):
        assert httpx.get(f"{ready['sagemaker_url']}/ping").status_code == 200
        assert httpx.get(f"{ready['url']}/ping").status_code == 404


def test_ctrl_c_in_a_terminal_reaches_the_engine_too_and_still_drains(run_folder: Path) -> None:
    with serving(str(run_folder), "--port", str(free_port())) as (process, ready):
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(15) == 0
        assert not psutil.pid_exists(ready["engine_pid"])


def test_a_port_in_use_is_two_lines_and_exit_1(run_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = nexus("serve", str(run_folder), "--port", str(port), cwd=tmp_path)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert done.stderr.strip().splitlines()[-1].strip().startswith("fix:")
    assert "Traceback" not in done.stderr


def test_what_is_no_model_is_said_so(run_folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for target in (str(empty), "nothing-here", "runs/nothing-here", "no-such-model"):
        done = nexus_here("serve", target, cwd=tmp_path)
        assert (done.returncode, "fix:" in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr
    (run_folder / "artifacts.json").write_text("{}")
    assert "has no packaged model yet" in nexus_here("serve", str(run_folder), cwd=tmp_path).stderr
    wrong = nexus_here("serve", str(run_folder), "--set", "serve.prot=1", cwd=tmp_path)
    assert (wrong.returncode, "did you mean port?" in wrong.stderr) == (2, True)


def test_chat_serves_a_run_for_one_question_and_leaves_nothing(run_folder: Path, tmp_path: Path) -> None:
    asked = ("chat", "tiny-run", "--prompt", "Hello", "--max-tokens", "5", "--seed", "1")
    done = nexus(*asked, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.json["completion_tokens"] <= 5
    assert nexus(*asked, cwd=tmp_path).stdout.strip() == done.json["answer"].strip()


def test_chat_talks_to_an_address_line_by_line(echo_server: RunningServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nexus_llm.cli", "chat", echo_server.url],
        input="first line\n/new\nsecond line\n",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.stdout == "user\nfirst line\nuser\nsecond line\n"


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(start: StartServer, tmp_path: Path) -> None:
    server = start(step_seconds=0.02)
    process = subprocess.Popen(
        [sys.executable, "-m", "nexus_llm.cli", "chat", server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go on " * 100 + "\n")  # the echo of this takes twelve seconds
    process.stdin.flush()
    begun = process.stdout.read(8)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate("/new\n", timeout=20)
    assert begun == "user\ngo "
    assert rest.endswith(" … stopped\n")
    assert len(rest) < 300
    assert process.returncode == 0


def test_chat_without_a_server_says_how_to_start_one(tmp_path: Path) -> None:
    done = nexus_here("chat", f"http://127.0.0.1:{free_port()}", "--prompt", "x", cwd=tmp_path)
    assert (done.returncode, "nexus serve" in done.stderr) == (1, True)


def test_bench_prints_the_document_that_scripts_read(echo_server: RunningServer, tmp_path: Path) -> None:
    done = nexus_here(
        *("bench", echo_server.url, "--concurrency", "4", "--requests", "8"),
        *("--input-tokens", "64", "--output-tokens", "16", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.json) >= {
        "output_tokens_per_second", "requests_per_second", "ttft_seconds", "inter_token_seconds", "e2e_seconds",
        "errors",
    }  # fmt: skip
    for name in ("ttft_seconds", "inter_token_seconds", "e2e_seconds", "time_per_output_token_seconds"):
        assert set(done.json[name]) == {"p50", "p90", "p95", "p99"}
    assert done.json["errors"] == {}
    assert all(done.json[name]["p50"] is not None for name in ("ttft_seconds", "inter_token_seconds", "e2e_seconds"))
    assert done.json["output_tokens_per_second"] > 0


def test_bench_without_a_server_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    done = nexus_here("bench", f"http://127.0.0.1:{free_port()}", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert "nothing answers" in done.json["error"]["what"]
