"""A share of prompts and answers kept as JSON lines, for whoever has to look at what a model is asked: off by default.

Only with a recipe's `serve.samples`. A line holds the texts with personal data and secrets replaced (`nexus_llm.pii`;
names of persons are not looked for), the request's id, and which weights answered; no key and no address. Files are
one a day (UTC), readable by their owner only, and removed after `days`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ServingError
from nexus_llm.recipe import SamplesRecipe
from nexus_llm.serve.telemetry.record import RequestRecord
from nexus_llm.serve.text import TextDelta

log = logging.getLogger("nexus_llm.serve.telemetry")

QUEUE_SAMPLES = 64
CLOSE_SECONDS = 10.0
DAY_SECONDS = 86_400
_FILE = re.compile(r"samples-(\d{4}-\d{2}-\d{2})\.jsonl")


@dataclass(slots=True)
class Sample:
    """What one chosen request brings together. Only its request's own tasks touch it until it is written."""

    tokenizer: ChatTokenizer | None = None
    prompts: list[Sequence[int]] = field(default_factory=list)
    """Token ids of each prompt, as the model got them."""
    answers: dict[int, str] = field(default_factory=dict)
    """Text of each answer so far, calls of tools as their JSON."""

    def add(self, index: int, delta: TextDelta) -> None:
        calls = "".join(json.dumps({"name": call.name, "arguments": call.arguments}) for call in delta.calls)
        self.answers[index] = self.answers.get(index, "") + delta.text + calls


def is_chosen(request_id: str, share: float) -> bool:
    """Whether a request is among those to keep: decided by its id alone, so that replicas and retries agree.

    >>> [is_chosen(f"r{number}", 0.5) for number in range(4, 8)], is_chosen("r1", 0.0), is_chosen("r1", 1.0)
    ([False, True, True, False], False, True)
    """
    digest = hashlib.sha256(request_id.encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


class Samples:
    """Writes samples to a folder from a thread of its own. `dropped` is told how many were lost."""

    def __init__(
        self, recipe: SamplesRecipe, *, dropped: Callable[[int], None], clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds since 1970.

        Raises:
            ServingError: the folder cannot be made or written to.
        """
        assert recipe.folder is not None
        self._recipe = recipe
        self._folder = Path(recipe.folder)
        self._dropped = dropped
        self._clock = clock
        self._queue: queue.Queue[tuple[RequestRecord, Sample] | None] = queue.Queue(QUEUE_SAMPLES)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.remove_old()
        except OSError as error:
            raise ServingError(
                f"serve.samples.folder {self._folder} cannot be used ({error.strerror})",
                fix="name a folder that this user may write to, or set serve.samples.share=0",
            ) from error
        if recipe.redact:
            _redacted(["warm up: the first text compiles the search, which takes seconds"])
        self._thread = threading.Thread(target=self._work, name="samples", daemon=True)
        self._thread.start()

    def begin(self, request_id: str) -> Sample | None:
        """Where to collect, if this request is chosen."""
        return Sample() if is_chosen(request_id, self._recipe.share) else None

    def write(self, record: RequestRecord) -> None:
        """Takes a finished request's sample; never waits."""
        sample, record.sample = record.sample, None
        if sample is None or sample.tokenizer is None:
            return  # refused before a model got it
        try:
            self._queue.put_nowait((record, sample))
        except queue.Full:
            self._dropped(1)

    def remove_old(self) -> None:
        oldest = _day(self._clock() - self._recipe.days * DAY_SECONDS)
        for path in self._folder.iterdir():
            found = _FILE.fullmatch(path.name)
            if found is not None and found[1] < oldest:
                path.unlink()

    async def keep_removing(self) -> None:
        """Removes old files once a day, until it is cancelled."""
        while True:
            await asyncio.sleep(DAY_SECONDS)
            try:
                await asyncio.to_thread(self.remove_old)
            except OSError as error:
                log.error("samples.not_removed", extra={"reason": error.strerror})

    def close(self) -> None:
        """Writes what is left, for CLOSE_SECONDS at most. Blocks."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while (taken := self._queue.get()) is not None:
            try:
                self._append(*taken)
            except Exception as error:  # noqa: BLE001 - its text may quote the sample
                log.error("samples.not_written", extra={"error": type(error).__name__})
                self._dropped(1)

    def _append(self, record: RequestRecord, sample: Sample) -> None:
        assert sample.tokenizer is not None
        prompts = [sample.tokenizer.decode(ids, keep_control_tokens=True) for ids in sample.prompts]
        answers = [sample.answers[index] for index in sorted(sample.answers)]
        if self._recipe.redact:
            clear = _redacted([*prompts, *answers])
            prompts, answers = clear[: len(prompts)], clear[len(prompts) :]
        now = self._clock()
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            "request_id": record.request_id,
            "model": record.model,
            "receipt": record.receipt,
            "is_redacted": self._recipe.redact,
            "prompts": prompts,
            "answers": answers,
            "finish_reasons": record.finish_reasons,
        }
        path = self._folder / f"samples-{_day(now)}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "a", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123 - of a descriptor
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _redacted(texts: list[str]) -> list[str]:
    import polars as pl

    from nexus_llm.pii.redaction import redact

    clear: list[str] = redact(pl.Series(texts, dtype=pl.String))[0].to_list()
    return clear
