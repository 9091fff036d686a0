"""Everything that a real server tells while it answers, refuses, is late, loses its engine and cannot write."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from nexus_llm.recipe import KeysRecipe, ServeRecipe, TelemetryRecipe
from nexus_llm.recipe.serving import TimeoutsRecipe
from nexus_llm.recipe.telemetry import SamplesRecipe
from nexus_llm.serve.access.database import open_database
from nexus_llm.serve.access.key_store import create_key
from nexus_llm.serve.access.limits import Limits
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.logs import JsonLines
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.receipt import Receipt
from otlp_collector import attributes, collector
from running_server import RunningServer, running_server

BY_CHANCE = {"usage.not_recorded_yet", "request.disconnected"}
"""Told where a thread happens to be at work at that moment."""
Told = dict[str, dict[str, list[str]]]


def everything_told(model: ServedModel, folder: Path) -> Told:
    """What three servers tell in all, in the form of emitted.json."""
    model = replace(model, receipt=Receipt("a92d", None, "fake", "sha256:94f2", "tests", {}, None, None))
    with _log_lines() as log, collector() as spans:
        emf = folder / "emf.jsonl"
        pages = [_answers_and_crashes(model, folder, emf, spans.url), _refuses(model, folder), _is_late(model)]
        _gives_up(model)
        spans.named("decode")
    told: Told = {"prometheus": {}, "cloudwatch": {}, "log": {}, "span": {}}
    for page in pages:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    _add(told["prometheus"], sample.name, sample.labels)
    for line in map(json.loads, emf.read_text().splitlines()):
        for directive in line["_aws"]["CloudWatchMetrics"]:
            for metric in directive["Metrics"]:
                assert metric["Name"] in line
                _add(told["cloudwatch"], f"{directive['Namespace']}/{metric['Name']}", directive["Dimensions"][0])
    for line in map(json.loads, log.getvalue().splitlines()):
        if "logger" not in line and line["event"] not in BY_CHANCE:  # a library's words are not ours
            _add(told["log"], line["event"], set(line) - {"event", "time", "level", "exception"})
    for span in spans.spans:
        name = span.name.split()[0] if span.name.split()[0] in ("POST", "GET", "chat", "text_completion") else span.name
        _add(told["span"], name, attributes(span))
    return {kind: dict(sorted(names.items())) for kind, names in told.items()}


def _add(names: dict[str, list[str]], name: str, parts: Any) -> None:
    names[name] = sorted({*names.get(name, []), *parts})


@contextlib.contextmanager
def _log_lines() -> Iterator[io.StringIO]:
    """The lines that `nexus serve --log-level info` would write."""
    stream, own = io.StringIO(), logging.getLogger("nexus_llm")
    handler, level = logging.StreamHandler(stream), own.level
    handler.setFormatter(JsonLines())
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        yield stream
    finally:
        own.removeHandler(handler)
        own.setLevel(level)


def _ask(server: RunningServer, key: str = "none", **more: Any) -> httpx.Response:
    body = {"model": "echo", "messages": [{"role": "user", "content": "Say this."}]} | more
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def _page(server: RunningServer, key: str = "none") -> str:
    return httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {key}"}, timeout=60).text


def _answers_and_crashes(model: ServedModel, folder: Path, emf: Path, collector_url: str) -> str:
    """Whole and streamed answers, mistakes, an engine that dies once, samples that cannot be kept, a lost client."""
    samples = folder / "samples"
    recipe = ServeRecipe(
        telemetry=TelemetryRecipe(
            otlp_endpoint=collector_url, emf=str(emf), service="tests", slow_request_seconds=0.000_001
        ),
        samples=SamplesRecipe(share=1.0, folder=str(samples)),
    )
    with running_server(model, EngineCommand("fake", {"step_seconds": 0.002}), recipe=recipe) as server:
        assert _ask(server, max_tokens=8).status_code == 200
        assert "[DONE]" in _ask(server, max_tokens=8, stream=True).text
        assert _ask(server, n=0).status_code == 400
        assert _ask(server, model="nobody").status_code == 404
        shutil.rmtree(samples)
        body = {"model": "echo", "prompt": "Say this.", "max_tokens": 1_500, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as broken:
            lines = broken.iter_lines()
            next(lines)
            os.kill(server.engine_pid, signal.SIGKILL)
            assert "engine_died" in "".join(lines)
        assert _ask(server, max_tokens=8).status_code == 200
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as gone:
            gone.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        return _page(server)


def _refuses(model: ServedModel, folder: Path) -> str:
    """No place in the queue, and a database of keys that somebody else holds."""
    place = str(folder / "keys.db")
    database = open_database(place)
    key, _ = create_key(database, "tests", limits=Limits(requests_per_minute=100))
    recipe = ServeRecipe(max_running=1, max_waiting=0, keys=KeysRecipe(database=place))
    with running_server(model, EngineCommand("fake", {"step_seconds": 0.01}), recipe=recipe) as server:
        body = {"model": "echo", "prompt": "Say this.", "max_tokens": 500, "stream": True}
        headers = {"authorization": f"Bearer {key}"}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=headers, timeout=60) as first:
            lines = first.iter_lines()
            assert next(lines).startswith("data:"), first.status_code
            refused = _ask(server, key)
            assert refused.status_code == 429, refused.text
        with contextlib.closing(sqlite3.connect(folder / "keys.db", isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            assert _ask(server, key).status_code == 503
        return _page(server, key)


def _gives_up(model: ServedModel) -> None:
    """An engine that dies of every request, until nobody starts it again."""
    with running_server(model, EngineCommand("fake", {"die_at_step": 1})) as server:
        while not server.background.server.engine.given_up.done():  # type: ignore[union-attr]
            with contextlib.suppress(httpx.HTTPError):
                _ask(server)


def _is_late(model: ServedModel) -> str:
    recipe = ServeRecipe(timeouts=TimeoutsRecipe(first_token_seconds=0.05))
    with running_server(model, EngineCommand("fake", {"step_seconds": 0.2}), recipe=recipe) as server:
        assert _ask(server).status_code >= 400
        return _page(server)
