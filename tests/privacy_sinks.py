"""Every place that a server writes to, so that tests can look for what must be in none of them."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from nexus_llm.recipe import KeysRecipe, ServeRecipe, TelemetryRecipe
from nexus_llm.serve.logs import JsonLines
from otlp_collector import Collector, collector


@dataclass
class Sinks:
    """What was written so far, by place."""

    folder: Path
    collector: Collector
    logged: io.StringIO
    capture: pytest.CaptureFixture[str]
    stdout: str = ""
    stderr: str = ""
    pages: dict[str, str] = field(default_factory=dict)
    """`/metrics` and the like, as last fetched."""

    def recipe(self, **more: object) -> ServeRecipe:
        """All of it switched on: keys in a file, spans, CloudWatch's lines, a line for each slow request."""
        telemetry = TelemetryRecipe(
            otlp_endpoint=self.collector.url, emf=str(self.folder / "emf.jsonl"), slow_request_seconds=1e-9
        )
        keys = KeysRecipe(database=f"sqlite:///{self.folder / 'keys.db'}", require_keys=False)
        return ServeRecipe(telemetry=telemetry, keys=keys, **more)  # type: ignore[arg-type]

    def look(self, url: str | None = None) -> None:
        """Fetches what a server tells when it is asked."""
        if url is not None:
            self.pages["metrics"] = httpx.get(f"{url}/metrics", timeout=60).text
        written = self.capture.readouterr()
        self.stdout += written.out
        self.stderr += written.err

    def all(self) -> dict[str, bytes]:
        """Place → everything in it."""
        places = {
            "log": self.logged.getvalue(),
            "stdout": self.stdout,
            "stderr": self.stderr,
            **self.pages,
        }
        files = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}
        return {
            **{place: text.encode(errors="replace") for place, text in places.items()},
            "spans": b"".join(self.collector.raw),
            **{name: path.read_bytes() for name, path in sorted(files.items())},
        }

    def holding(self, *needles: str) -> set[str]:
        """The places that hold one of the texts."""
        return {place for place, held in self.all().items() for needle in needles if needle.encode() in held}

    def wait_for_spans(self, requests: int, *, seconds: float = 30) -> None:
        """Until the collector has the server spans of so many requests."""
        deadline = time.monotonic() + seconds
        while sum(span.kind == 2 for span in self.collector.spans) < requests:
            assert time.monotonic() < deadline, "the spans of some request never came"
            time.sleep(0.05)


@contextlib.contextmanager
def open_sinks(folder: Path, capture: pytest.CaptureFixture[str]) -> Iterator[Sinks]:
    """Sinks below a folder, every logger of every library at its most talkative."""
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in logging.Logger.manager.loggerDict:  # other tests may have silenced some, as uvicorn's log_level does
        logging.getLogger(name).setLevel(logging.NOTSET)
    try:
        with collector() as spans:
            yield Sinks(folder, spans, logged, capture)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
