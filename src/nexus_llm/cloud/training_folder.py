"""What a training process has done so far, read from the files that it writes while it runs."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

from nexus_llm.train.drill import Outcome

# The layout that nexus_llm.train.checkpoint describes. It is not imported here: that would load torch.
_WHOLE, _PARTIAL = re.compile(r"step-(\d{8})"), re.compile(r"\.partial-step-(\d{8})")
_STATE, _QUARANTINE, _REASON = "state.json", "quarantine", "reason"
_METRICS = "metrics.jsonl"


class TrainingFolder:
    """The one train artifact below a root, finished or not. `look` refreshes what the properties say."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._signature: tuple[int, int] | None = None
        self._old_signature: tuple[int, int] | None = None
        self._step_times: list[float] = []
        self._row_came_at = 0.0
        self._write_times: list[float] = []
        self._writing_since: float | None = None
        self._distrusted: set[int] = set()
        self._checkpoints: dict[int, dict[str, str]] = {}
        self._read: set[tuple[int, int]] = set()
        self.steps_done = 0
        """Rows of the log."""
        self.whole: tuple[int, ...] = ()
        """Steps of the checkpoints that are there, in order."""
        self.half_written: tuple[str, ...] = ()
        """Names of the checkpoints that are being written, or were when the process died."""

    @property
    def is_resumed(self) -> bool:
        """Whether the present process has taken over what the last one left: it rewrites the log when it does."""
        return self._signature is not None and self._signature != self._old_signature

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint of the present process is on its way to the disk."""
        return self.is_resumed and bool(self.half_written)

    def forget_process(self) -> None:
        """Another process begins: what lies there is not its work."""
        self._old_signature = self._signature
        self._writing_since = None

    def look(self) -> None:
        """Reads names and sizes, and what is new among them."""
        work = self._work()
        if work is None:
            self.half_written = ()
            return
        self._look_at_log(work / _METRICS)
        names = _names(work / "checkpoints")
        self.whole = tuple(sorted(int(found[1]) for name in names if (found := _WHOLE.fullmatch(name))))
        # An old checkpoint is renamed in the same way before it is removed: only a newer one is being written.
        newest = self.whole[-1] if self.whole else -1
        partial = [found for name in sorted(names) if (found := _PARTIAL.fullmatch(name))]
        self.half_written = tuple(found[0] for found in partial if int(found[1]) > newest)
        self._time_writing()
        self._distrusted &= set(self.whole)
        for step in self.whole:
            if step not in self._distrusted:
                self._read_checkpoint(work, step)

    def checkpoint_files(self, step: int) -> list[Path]:
        """The files of a whole checkpoint, by path."""
        work = self._work()
        assert work is not None
        folder = work / "checkpoints" / f"step-{step:08d}"
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def distrust(self, step: int) -> None:
        """That checkpoint was damaged: what it says of itself does not count."""
        self._distrusted.add(step)

    def broken(self) -> list[dict[str, str]]:
        """Checkpoints that were set aside, with the reason."""
        work = self._work()
        found = sorted(work.glob(f"checkpoints/{_QUARANTINE}/*/{_REASON}")) if work else []
        return [{"name": path.parent.name, "reason": path.read_text(encoding="utf-8")} for path in found]

    def broken_in_facts(self) -> list[dict[str, str]]:
        """The same, of a finished run."""
        return list(self._manifest()["facts"].get("broken_checkpoints", []))

    def typical_seconds(self) -> tuple[float, float]:
        """Medians of a step and of the writing of a checkpoint, as far as they were seen."""
        return _median(self._step_times), _median(self._write_times)

    def outcome(self) -> Outcome:
        """What the finished run left, and the checkpoints that were seen on the way."""
        manifest = self._manifest()
        last = manifest["facts"].get("last_checkpoint")
        (log,) = self._root.glob(f"artifacts/train/*/{_METRICS}")
        return Outcome(
            files={entry["path"]: entry["sha256"] for entry in manifest["files"]},
            checkpoints=self._checkpoints | ({int(last["step"]): dict(last["files"])} if last else {}),
            rows=tuple(json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()),
        )

    def _work(self) -> Path | None:
        return next(self._root.glob("artifacts/train/*/work"), None)

    def _manifest(self) -> Any:
        (path,) = self._root.glob("artifacts/train/*/manifest.json")
        return json.loads(path.read_text(encoding="utf-8"))

    def _look_at_log(self, log: Path) -> None:
        try:
            status = log.stat()
        except OSError:
            return
        signature = (status.st_mtime_ns, status.st_size)
        if signature == self._signature:
            return
        with contextlib.suppress(OSError):
            lines = log.read_bytes().count(b"\n")
            now = time.monotonic()
            if lines == self.steps_done + 1 > 1:
                self._step_times.append(now - self._row_came_at)
            self._signature, self.steps_done, self._row_came_at = signature, lines, now

    def _time_writing(self) -> None:
        now = time.monotonic()
        if self.half_written and self._writing_since is None:
            self._writing_since = now
        elif not self.half_written and self._writing_since is not None:
            self._write_times.append(now - self._writing_since)
            self._writing_since = None

    def _read_checkpoint(self, work: Path, step: int) -> None:
        path = work / "checkpoints" / f"step-{step:08d}" / _STATE
        # It may be removed at this very moment; then it was never seen.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            status = path.stat()
            if (mark := (status.st_ino, status.st_mtime_ns)) in self._read:
                return
            found = json.loads(path.read_bytes())["files"]
            files = {name: str(entry["sha256"]) for name, entry in found.items()}
            self._read.add(mark)
            if self._checkpoints.setdefault(step, files) != files:
                # Written again after a kill, and not the same: the comparison must see it.
                self._checkpoints[step] |= {f"{name}, written again": sha256 for name, sha256 in files.items()}


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0
