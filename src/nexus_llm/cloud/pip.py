"""Wheels from the package index that pip is set up for (PyPI, a mirror, a folder)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from nexus_llm.errors import ModelError

POLL_SECONDS = 0.2


class PipIndex:
    """The `nexus_llm.ports.PackageIndex` that runs `pip download`, so that a user's pip settings hold."""

    def fetch(self, requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        scratch = folder / "pip"
        scratch.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(scratch), "--no-deps"]
        # Only wheels: to look into a source package, pip would run its code.
        command += ["--only-binary=:all:", "--progress-bar=off", "--disable-pip-version-check", "--no-input"]
        process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(scratch)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            complaint = _wait(process, scratch, on_bytes)
        finally:
            process.kill()
            process.wait()
        wheels = sorted(scratch.glob("*.whl"))
        if process.returncode or not wheels:
            raise ModelError(
                f"pip could not download {requirement}: {_last_line(complaint)}",
                fix=f"check the network and pip's settings with: {sys.executable} -m pip download {requirement}",
            )
        return wheels[0]


def _wait(process: subprocess.Popen[str], scratch: Path, on_bytes: Callable[[int], None]) -> str:
    """What pip said on stderr at its end. pip tells no program how far it is, but its temporary file grows."""
    seen = 0
    while True:
        try:
            return process.communicate(timeout=POLL_SECONDS)[1]
        except subprocess.TimeoutExpired:
            size = _bytes_below(scratch)
            on_bytes(max(0, size - seen))
            seen = max(seen, size)


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except FileNotFoundError:  # pip moves and deletes its temporary files
                continue
    return total


def _last_line(complaint: str) -> str:
    lines = [line for line in complaint.splitlines() if line.startswith("ERROR")] or complaint.splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else "it gave no reason"
