"""The examples of docs/serving-guide.md do what the guide says, run in order as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.recipe import KeysRecipe, ServeRecipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import ServedModel
from running_server import RunningServer, running_server
from talking_engine import SAID, TOOL_TEMPLATE, byte_token_ids

GUIDE = Path(__file__).parent.parent.parent / "docs" / "serving-guide.md"
NOT_RUN = "<!-- not run by the tests: "
ADDRESS = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    """One example."""

    language: str
    text: str
    line: int
    is_run: bool


def blocks() -> list[Block]:
    text = GUIDE.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        above = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match[1], match[2], line, not above.startswith(NOT_RUN)))
    return found


@pytest.fixture(scope="module")
def guide_server(echo_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    from nexus_llm.chat import ChatTokenizer

    tokenizer = ChatTokenizer(
        echo_model.tokenizer.tokenizer_json, template=TOOL_TEMPLATE, config={"eos_token": "<|im_end|>"}
    )
    model = replace(echo_model, name="quickstart", tokenizer=tokenizer)
    settings = {"end_token_id": 2, "script": tokenizer.encode_text(SAID), "byte_token_ids": byte_token_ids(tokenizer)}
    database = tmp_path_factory.mktemp("guide") / "keys.db"
    recipe = ServeRecipe(keys=KeysRecipe(database=f"sqlite:///{database}"))
    with running_server(model, EngineCommand("fake", settings), recipe=recipe) as server:
        yield server


def test_the_examples_run(
    guide_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    database = guide_server.background.server._recipe.keys.database  # type: ignore[union-attr]
    monkeypatch.setenv("NEXUS_DATABASE", str(database))
    commands, key = run_commands(guide_server.url, tmp_path)
    assert '"status":"ok"' in commands
    assert commands.count("data: [DONE]") == 1
    assert "vllm:generation_tokens_total" in commands
    monkeypatch.setenv("NEXUS_API_KEY", key)
    namespace: dict[str, Any] = {}
    for block in blocks():
        if block.language == "python" and block.is_run:
            capsys.readouterr()
            code = block.text.replace(ADDRESS, guide_server.url)
            exec(compile("\n" * (block.line - 1) + code, str(GUIDE), "exec"), namespace)
            printed = capsys.readouterr().out
            assert printed.strip(), f"the example at line {block.line} says nothing"
            for promised in re.findall(r"^ *print\(.*\)  # (.+)$", block.text, flags=re.MULTILINE):
                assert promised in printed
    assert namespace["call"].function.name == "weather"
    assert namespace["parsed"].choices[0].message.parsed is not None


def run_commands(url: str, folder: Path) -> tuple[str, str]:
    """What the shell's examples print, all in one session; and the key that they made."""
    examples = [block for block in blocks() if block.language == "bash" and block.is_run]
    script = "\n".join(["set -euo pipefail", *(block.text for block in examples), 'echo "$NEXUS_API_KEY" > key'])
    script = f'nexus() {{ "{sys.executable}" -m nexus_llm.cli "$@"; }}\n' + script.replace(ADDRESS, url)
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, (folder / "key").read_text().strip()


def test_every_example_is_run_or_says_why_not() -> None:
    languages = {block.language for block in blocks()}
    assert languages == {"bash", "python"}
    assert sum(block.is_run for block in blocks() if block.language == "python") == 7
    assert [block.line for block in blocks() if not block.is_run] == sorted(
        {
            block.line
            for block in blocks()
            if "nexus serve" in block.text or "nexus bench" in block.text or "$PID" in block.text
        }
    )
