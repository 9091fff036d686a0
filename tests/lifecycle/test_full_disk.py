"""A disk that fills up in the middle of a stage: two lines, nothing half-made looks whole, and it continues."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import QUICKSTART, SMALL, nexus, settings

pytestmark = pytest.mark.lifecycle


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of half a MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_same_command_continues_when_there_is_space(
    small_disk: Path, small_model: Path
) -> None:
    words = ["data", str(QUICKSTART), *settings(SMALL)]
    done = nexus(*words, cwd=small_disk)
    assert done.returncode == 1
    what, fix = done.stderr.strip().splitlines()[-2:]
    assert "no space left on the disk while writing artifacts/data/" in what
    assert "the same command continues" in fix
    assert not list(small_disk.rglob("manifest.json"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert nexus(*words, cwd=small_disk).returncode == 0


def test_a_disk_that_fills_while_a_checkpoint_is_written_loses_nothing(small_disk: Path, small_model: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=90m", str(small_disk)], check=True)
    words = ["train", str(QUICKSTART), *settings(SMALL)]
    done = nexus(*words, cwd=small_disk)
    assert done.returncode == 1
    assert "no space left on the disk while writing artifacts/train/" in done.stderr
    kept = [path.name for path in small_disk.rglob("step-*")]
    assert kept == ["step-00000002"]  # the first checkpoint stays when the second does not fit
    subprocess.run(["mount", "-o", "remount,size=300m", str(small_disk)], check=True)
    assert nexus(*words, cwd=small_disk).returncode == 0
