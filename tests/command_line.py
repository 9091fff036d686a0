"""The real command line, as tests of the whole line use it."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
QUICKSTART = REPOSITORY / "recipes" / "quickstart.yaml"
# The same stages as the quickstart, on a share of its text.
SMALL = (
    "data.max_documents=500",
    "train.max_steps=6",
    "train.max_length=128",
    "train.per_device_train_batch_size=2",
    "train.save_steps=2",
    "train.eval_steps=6",
    "package.equivalence.tokens=256",
    "evaluate.domain_documents=12",
    "evaluate.max_tokens_per_document=48",
    "evaluate.max_new_tokens=8",
)


@dataclass(frozen=True)
class Done:
    """A finished command."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def nexus_here(*arguments: str, cwd: Path) -> Done:
    """Runs the command line in this process, which has imported it already."""
    from nexus_llm import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run_command(arguments)
    return Done(code, out.getvalue(), err.getvalue())


def nexus(*arguments: str, cwd: Path, timeout_seconds: float = 600) -> Done:
    """Runs the real command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "nexus_llm.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def settings(values: tuple[str, ...]) -> list[str]:
    """`--set` for each value."""
    return [word for value in values for word in ("--set", value)]


@dataclass(frozen=True)
class Run:
    """One finished run of the line."""

    root: Path
    document: Any

    def path(self, stage: str) -> Path:
        return self.root / next(row["path"] for row in self.document["stages"] if row["stage"] == stage)

    @property
    def ids(self) -> dict[str, str]:
        return {row["stage"]: row["id"] for row in self.document["stages"]}
