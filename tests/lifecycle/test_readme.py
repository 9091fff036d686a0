"""What the README says is run as it is written there. That its commands exist: tests/docs."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest

from command_line import REPOSITORY, Run

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.lifecycle
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("quickstart")
def test_the_client_of_the_readme_gets_an_answer_from_the_served_model(small_run: Run) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "nexus_llm.cli", "serve", "runs/quickstart", "--port", str(port)]
    server = subprocess.Popen(words, cwd=small_run.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert f"quickstart answers at http://127.0.0.1:{port}" in server.stdout.readline()
        client = code.replace(":8000", f":{port}")
        done = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0
