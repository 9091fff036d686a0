"""A process that writes files as training does, in milliseconds and without a model: ROOT STEPS SAVE_STEPS FAULT."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def whole(folder: Path) -> str | None:
    """The state in a checkpoint, or None where a byte of it was changed."""
    try:
        body = json.loads((folder / "state.json").read_bytes())
        content = (folder / "tensors.safetensors").read_bytes()
        ok = body["files"]["tensors.safetensors"]["sha256"] == sha256(content) and body["sha256"] == sha256(
            json.dumps([body["step"], body["files"]]).encode()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content.decode() if ok else None


def resume(checkpoints: Path) -> tuple[int, str]:
    for partial in checkpoints.glob(".partial-*"):
        shutil.rmtree(partial)
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        if (state := whole(folder)) is not None:
            return int(folder.name[5:]), state
        (folder / "reason").write_text("was altered")
        (checkpoints / "quarantine").mkdir(exist_ok=True)
        folder.rename(checkpoints / "quarantine" / folder.name)
    return 0, ""


def save(checkpoints: Path, step: int, state: str) -> None:
    partial = checkpoints / f".partial-step-{step:08d}"
    partial.mkdir()
    (partial / "tensors.safetensors").write_bytes(state.encode())
    time.sleep(0.02)  # stands for a big file
    files = {"tensors.safetensors": {"bytes": len(state), "sha256": sha256(state.encode())}}
    body = {"step": step, "files": files, "sha256": sha256(json.dumps([step, files]).encode())}
    (partial / "state.json").write_text(json.dumps(body))
    partial.rename(checkpoints / f"step-{step:08d}")


def main(root: Path, steps: int, save_steps: int, fault: str) -> int:
    artifact = root / "artifacts" / "train" / "k"
    work, log = artifact / "work", artifact / "work" / "metrics.jsonl"
    checkpoints = work / "checkpoints"
    if (artifact / "manifest.json").exists():
        return 0
    checkpoints.mkdir(parents=True, exist_ok=True)
    start, state = resume(checkpoints)
    log.write_text("".join(line + "\n" for line in (log.read_text().splitlines() if log.exists() else [])[:start]))
    if fault == "refuses to resume" and start:
        print("error: the checkpoint is of another recipe\n  fix: there is none", file=sys.stderr)
        return 1
    for step in range(start + 1, steps + 1):
        time.sleep(0.02)  # stands for the work
        place = step - start if fault == "forgets where it was" and start else step
        state = sha256(f"{state} {place}".encode())
        row = {"step": step, "rows_sha256": sha256(str(place).encode()), "loss": int(state[:8], 16) / 2**32}
        with log.open("a") as stream:
            stream.write(json.dumps(row | {"tokens": 8, "tokens_per_second": time.monotonic() % 100}) + "\n")
        if step % save_steps == 0 or step == steps:
            save(checkpoints, step, state)
    broken = [{"name": path.parent.name, "reason": "was altered"} for path in work.rglob("reason")]
    shutil.copy(log, artifact / "metrics.jsonl")
    last = {"step": steps, "files": {"tensors.safetensors": sha256(state.encode())}}
    shutil.rmtree(work)
    manifest = {"files": [{"path": "weights", "sha256": sha256(state.encode())}]}
    facts = {"broken_checkpoints": broken, "last_checkpoint": last}
    (artifact / "manifest.json").write_text(json.dumps(manifest | {"facts": facts}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
