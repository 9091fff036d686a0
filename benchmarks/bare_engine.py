"""The least code around OpenVINO GenAI that gets tokens out: add everything, step until nothing is left.

    python benchmarks/bare_engine.py MODEL_FOLDER

Reads one round a line, `{"seed": 1, "streams": 32, "prompt": 128, "answer": 64, "vocabulary": 20000}`, and answers each
with what it took.
The engine is set up as the product sets it up (see `serve/engines/openvino.py`); what is missing is the product.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams import prompts


@dataclass(frozen=True, slots=True)
class BareRound:
    """Requests that were all added at once."""

    tokens: int
    seconds: float
    first_seconds: list[float]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class BareEngine:
    """The loop in a process of its own."""

    process: subprocess.Popen[str]

    def round(self, *, seed: int, streams: int, prompt: int, answer: int, vocabulary: int) -> BareRound:
        """Sends one round and waits for its end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"seed": seed, "streams": streams, "prompt": prompt, "answer": answer, "vocabulary": vocabulary}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return BareRound(**json.loads(self.process.stdout.readline()))


@contextlib.contextmanager
def bare_engine(model: Path) -> Iterator[BareEngine]:
    """A loaded engine, killed at the end."""
    command = [sys.executable, __file__, str(model)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the engine did not load: see above"
        yield BareEngine(process)
    finally:
        process.kill()
        process.wait()


def _main(model: Path) -> None:
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_batched_tokens = 512
    scheduler.enable_prefix_caching = True
    pipeline = genai.ContinuousBatchingPipeline(str(model / "model-q8_0.gguf"), scheduler, "CPU", {}, {}, {})
    next_id = 0
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_round(pipeline, next_id, **asked)), flush=True)
        next_id += asked["streams"]


def _round(
    pipeline: Any, next_id: int, *, seed: int, streams: int, prompt: int, answer: int, vocabulary: int
) -> dict[str, Any]:
    import numpy as np
    import openvino
    import openvino_genai as genai

    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = answer, True
    asked = prompts(seed, count=streams, tokens=prompt, vocabulary=vocabulary)
    started = time.perf_counter()
    handles = {
        next_id + number: pipeline.add_request(
            next_id + number, openvino.Tensor(np.array([one], dtype=np.int64)), config
        )
        for number, one in enumerate(asked)
    }
    tokens, first = 0, {}
    while pipeline.has_non_finished_requests():
        pipeline.step()
        for request_id, handle in handles.items():
            if handle.can_read():
                first.setdefault(request_id, time.perf_counter() - started)
                tokens += sum(len(output.generated_ids) for output in handle.read().values())
    return {"tokens": tokens, "seconds": time.perf_counter() - started, "first_seconds": list(first.values())}


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
