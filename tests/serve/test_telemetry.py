"""What a server tells of requests: spans at a real collector, the access log, CloudWatch's lines, the receipt."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nexus_llm.errors import MissingExtraError, RecipeError
from nexus_llm.recipe import ServeRecipe, TelemetryRecipe, default_recipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.logs import JsonLines
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.model_folder import ServedModel, read_model
from nexus_llm.serve.receipt import Receipt, read_receipt
from nexus_llm.serve.relay import Upstream
from nexus_llm.serve.relay_engine import relayed_model
from nexus_llm.serve.telemetry import emf, tracing
from nexus_llm.serve.telemetry.record import RequestRecord
from nexus_llm.serve.telemetry.telemetry import Telemetry
from nexus_llm.serve.telemetry.trace_context import trace_context
from otlp_collector import Collector, attributes, collector
from running_server import RunningServer, StartServer, running_server

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "Say this."}]}
RECEIPT = Receipt("a92dceeb37893d66", "9a0d1e", "fake", "sha256:94f2988b", "quickstart", {"data": "d1"}, "0.1", None)


def ask(server: RunningServer, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    return httpx.post(f"{server.url}/v1/chat/completions", json=CHAT | more, headers=headers, timeout=60)


def traced(collector: Collector, **more: Any) -> ServeRecipe:
    return ServeRecipe(telemetry=TelemetryRecipe(otlp_endpoint=collector.url, service="tests", **more))


def metric(server: RunningServer, name: str) -> float:
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith(name):
            return float(line.split()[-1])
    return 0.0


@pytest.fixture
def spans() -> Any:
    with collector() as state:
        yield state


def test_a_request_is_one_trace_below_its_caller_with_the_conventions_names(
    start: StartServer, spans: Collector
) -> None:
    server = start(end_token_id=2, recipe=traced(spans))
    headers = {"traceparent": CALLER, "x-request-id": "r-17"}
    assert ask(server, stream=True, headers=headers).status_code == 200
    root = spans.named("POST /v1/chat/completions")
    assert root.kind == Span.SPAN_KIND_SERVER
    assert root.trace_id.hex() == CALLER[3:35]
    assert root.parent_span_id.hex() == CALLER[36:52]
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "nexus.request.id": "r-17",
    }
    engine = spans.named("chat echo")
    told = attributes(engine)
    assert engine.kind == Span.SPAN_KIND_CLIENT
    assert 0 < told.pop("gen_ai.response.time_to_first_chunk") < 60
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "nexus_llm",
        "gen_ai.request.model": "echo",
        "gen_ai.response.model": "echo",
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 28,
        "gen_ai.usage.output_tokens": 16,
    }
    tree = {span.name: span.parent_span_id for span in spans.spans if span.trace_id == root.trace_id}
    assert tree["encode"] == tree["queue"] == tree["chat echo"] == root.span_id
    assert tree["prefill"] == tree["decode"] == engine.span_id
    for span in spans.spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano <= time.time_ns()
    assert spans.resources[0]["service.name"] == "tests"


def test_a_server_that_failed_says_so_in_its_spans_and_a_clients_mistake_does_not(
    start: StartServer, spans: Collector
) -> None:
    server = start(recipe=traced(spans), die_at_step=4)
    ask(server, n=0)
    mistake = spans.named("POST /v1/chat/completions")
    assert mistake.status.code == Status.STATUS_CODE_UNSET
    assert "error.type" not in attributes(mistake)
    assert "chat echo" not in [span.name for span in spans.spans]  # the engine never got it
    ask(server)
    engine = spans.named("chat echo")
    assert engine.status.code == Status.STATUS_CODE_ERROR
    assert attributes(engine)["error.type"] == "engine_died"


def test_a_caller_that_does_not_record_is_followed_and_a_share_of_new_traces_is_kept() -> None:
    unrecorded = [(b"traceparent", CALLER[:-1].encode() + b"0")]
    context = trace_context(unrecorded, is_tracing=True, share=1.0)
    assert context is not None
    assert not context.is_sampled
    chosen = [trace_context([], is_tracing=True, share=0.25) for _ in range(400)]
    assert 50 < sum(one is not None and one.is_sampled for one in chosen) < 150  # 100 ± 8.7; both ends are 5 sigma away
    assert trace_context([], is_tracing=False, share=1.0) is None


@pytest.mark.parametrize(
    "value",
    ["", "00-0-0-01", CALLER.upper(), "ff" + CALLER[2:], CALLER + "-more", f"00-{'0' * 32}{CALLER[35:]}"],
)  # fmt: skip
def test_a_malformed_traceparent_begins_a_trace_of_its_own(value: str) -> None:
    context = trace_context([(b"traceparent", value.encode())], is_tracing=True, share=1.0)
    assert context is not None
    assert context.parent_id is None
    assert trace_context([(b"traceparent", value.encode())], is_tracing=False, share=1.0) is None


def test_a_later_version_of_traceparent_is_read_by_its_first_four_parts() -> None:
    context = trace_context([(b"traceparent", b"cc" + CALLER[2:].encode() + b"-what")], is_tracing=False, share=1.0)
    assert context is not None
    assert context.header() == CALLER


def test_the_relay_passes_the_trace_on_to_its_upstream(echo_model: ServedModel, spans: Collector) -> None:
    upstream_recipe = traced(spans)
    with running_server(echo_model, EngineCommand("fake", {"end_token_id": 2}), recipe=upstream_recipe) as there:
        upstream = Upstream(f"{there.url}/v1", model="echo")
        relay = relayed_model("echo"), EngineCommand("openai", {})
        with running_server(*relay, upstream=upstream, recipe=traced(spans)) as here:
            assert ask(here, headers={"traceparent": CALLER}).status_code == 200
            spans.named("decode")
            deadline = time.monotonic() + 30
            while len([span for span in spans.spans if span.name == "chat echo"]) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
        with running_server(*relay, upstream=upstream) as untraced:
            assert ask(untraced, headers={"traceparent": CALLER, "x-request-id": "bare"}).status_code == 200
    by_id = {span.span_id: span for span in spans.spans}
    assert {span.trace_id.hex() for span in spans.spans} == {CALLER[3:35]}
    roots = [span for span in spans.spans if span.name == "POST /v1/chat/completions"]
    (below,) = [span for span in roots if span.parent_span_id in by_id]
    caller = by_id[below.parent_span_id]
    assert caller.name == "chat echo"
    assert attributes(caller)["gen_ai.provider.name"] == "openai"
    assert attributes(caller)["gen_ai.response.finish_reasons"] == ["stop"]
    # without a collector the relay hands on what it got, so that the upstream stands below the caller itself
    assert sum(span.parent_span_id.hex() == CALLER[36:52] for span in roots) == 2


@pytest.mark.parametrize("kind", ["refuses", "hangs", "gone"])
def test_a_collector_that_fails_costs_spans_and_no_time(
    start: StartServer, spans: Collector, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "QUEUE_REQUESTS", 4)
    monkeypatch.setattr(tracing, "BATCH_SECONDS", 0.05)
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    recipe = traced(spans)
    if kind == "refuses":
        spans.status = 400
    elif kind == "hangs":
        spans.answer_seconds = 20
    else:
        recipe = ServeRecipe(telemetry=TelemetryRecipe(otlp_endpoint="http://127.0.0.1:9"))
    server = start(end_token_id=2, recipe=recipe)
    began = time.monotonic()
    for _ in range(12):
        assert ask(server, max_tokens=1).status_code == 200
    assert time.monotonic() - began < 15  # 12 requests that waited for a collector that hangs would take minutes
    deadline = time.monotonic() + 30
    while not metric(server, 'nexus_telemetry_dropped_total{model_name="echo",sink="spans"}'):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nothing_is_sent_and_nothing_loaded_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not tracing.wanted_endpoint(None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert tracing.wanted_endpoint(None)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not tracing.wanted_endpoint("http://collector:4318")


def test_a_missing_exporter_stops_a_recipe_that_wants_it_but_not_a_platform_that_sets_a_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "_EXPORTER", "opentelemetry.exporter.not_there.at_all")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    metrics = ServerMetrics("m", engine="fake")
    Telemetry.open(ServeRecipe(), model_name="m", metrics=metrics)
    wanting = ServeRecipe(telemetry=TelemetryRecipe(otlp_endpoint="http://127.0.0.1:4318"))
    with pytest.raises(MissingExtraError, match="not_there"):
        Telemetry.open(wanting, model_name="m", metrics=metrics)


def logged(logs: pytest.LogCaptureFixture, event: str, *, path: str) -> dict[str, Any]:
    """The only line of this event about `path`; it is written behind the answer, so it may take a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [one for one in list(logs.records) if one.getMessage() == event and vars(one).get("route") == path]
        if found:
            (record,) = found
            line: dict[str, Any] = json.loads(JsonLines().format(record))
            return line
        time.sleep(0.01)
    raise AssertionError(f"no {event} about {path}")


def test_the_access_log_tells_who_what_how_long_and_how_many_tokens(
    start: StartServer, all_logs: pytest.LogCaptureFixture
) -> None:
    server = start(end_token_id=2, recipe=ServeRecipe(telemetry=TelemetryRecipe(slow_request_seconds=1e-6)))
    ask(server, headers={"traceparent": CALLER, "x-request-id": "r-18"})
    for event in ("request.answered", "request.slow"):
        line = logged(all_logs, event, path="/v1/chat/completions")
        assert line.pop("seconds") >= line.pop("ttft_seconds") > 0
        assert line == {
            "time": line["time"],
            "level": "info" if event == "request.answered" else "warning",
            "event": event,
            "request_id": "r-18",
            "trace_id": CALLER[3:35],
            "method": "POST",
            "route": "/v1/chat/completions",
            "status": 200,
            "key": None,
            "model": "echo",
            "prompt_tokens": 28,
            "completion_tokens": 16,
            "finish_reasons": ["stop"],
        }
    all_logs.clear()
    httpx.post(f"{server.url}/v1/chat/completions", json=CHAT | {"model": "other"})
    line = logged(all_logs, "request.answered", path="/v1/chat/completions")
    assert (line["status"], line["error_code"]) == (404, "model_not_found")
    assert "model" not in line


def test_a_librarys_log_line_keeps_its_words_and_loses_its_values(tmp_path: Path) -> None:
    source = tmp_path / "library.py"
    source.write_text('log.error("cannot read %s", it)\nlog.error(f"cannot read {it}")\n')

    def line(message: str, *values: str) -> dict[str, Any]:
        record = logging.LogRecord("library", 40, str(source), 1, message, values, None)
        logging.Formatter().format(record)  # another handler, which leaves the whole text in the record
        return dict(json.loads(JsonLines().format(record)))

    told = line("cannot read %s", "SECRET")
    assert (told["event"], told["logger"], told["place"]) == ("cannot read %s", "library", "library.py:1")
    assert line("cannot read SECRET")["event"] == "library"
    assert "SECRET" not in str([told, line("cannot read SECRET"), line("cannot read %s\nSECRET", "SECRET")])


# AWS, CloudWatch user guide, "Specification: Embedded metric format", its rules and JSON schema (read 2026-11-22).
# An older edition allowed 9 dimensions and 256 kB; the stricter number of both is checked.
EMF_UNITS = re.compile(r"(Seconds|Microseconds|Milliseconds|Bytes|Percent|Count|Count/Second|None)")


def check_emf(line: str) -> dict[str, Any]:
    assert len(line.encode()) <= 256_000
    assert "\n" not in line
    root: dict[str, Any] = json.loads(line)
    about = root["_aws"]
    assert set(about) == {"Timestamp", "CloudWatchMetrics"}
    assert type(about["Timestamp"]) is int
    assert isinstance(about["CloudWatchMetrics"], list)
    for directive in about["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert 1 <= len(directive["Namespace"]) <= 255
        assert len(directive["Dimensions"]) >= 1
        for dimensions in directive["Dimensions"]:
            assert len(dimensions) <= 9
            for name in dimensions:
                assert 1 <= len(name) <= 250
                assert isinstance(root[name], str)
                assert 1 <= len(root[name]) <= 255
        assert 1 <= len(directive["Metrics"]) <= 100
        for metric in directive["Metrics"]:
            assert set(metric) <= {"Name", "Unit", "StorageResolution"}
            assert 1 <= len(metric["Name"]) <= 255
            assert EMF_UNITS.fullmatch(metric["Unit"])
            value = root[metric["Name"]]  # a target stands at the root, and is a number or at most 100 of them
            assert type(value) in (int, float)
    return root


def finished(**values: Any) -> RequestRecord:
    moments = {"first_token": 100.5, "ended": 102.0}
    record = RequestRecord("r1", "POST", started_at=100.0, started_unix_ns=1_700_000_000_000_000_000, moments=moments)  # type: ignore[arg-type]
    record.model, record.completion_tokens = "m", 64
    for name, value in values.items():
        setattr(record, name, value)
    record.finish(route="/v1/chat/completions", status=values.get("status", 200), key_id=None)
    return record


def test_a_cloudwatch_line_keeps_the_published_format_and_has_the_dashboards_metrics() -> None:
    root = check_emf(emf.request_line(finished(), service="gateway"))
    assert root["_aws"]["Timestamp"] == 1_700_000_002_000
    (directive,) = root["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("NexusLLM/API", [["Service"]])
    units = {one["Name"]: one["Unit"] for one in directive["Metrics"]}
    assert {name: (root[name], unit) for name, unit in units.items()} == {
        "RequestCount": (1, "Count"),
        "ErrorCount": (0, "Count"),
        "ResponseTime": (2.0, "Seconds"),
        "TimeToFirstToken": (0.5, "Seconds"),
        "TokensGenerated": (64, "Count"),
    }
    depth = check_emf(emf.queue_line(3, running=4, service="gateway", timestamp_ms=1))
    assert (depth["QueueDepth"], depth["RequestsInFlight"], depth["Service"]) == (3, 7, "gateway")


@pytest.mark.parametrize(
    ("values", "errors", "is_timed"),
    [
        ({"status": 500, "error_code": "engine_died"}, 1, False),
        ({"status": 200, "error_code": "engine_died"}, 1, True),  # a stream that broke off
        ({"status": 200, "error_code": "client_disconnected"}, 0, True),
        ({"status": 0}, 0, False),  # left before there was an answer
        ({"status": 429, "error_code": "queue_full"}, 0, False),
    ],
)
def test_errors_are_the_servers_own_and_refusals_do_not_make_answers_look_fast(
    values: dict[str, Any], errors: int, is_timed: bool
) -> None:
    root = check_emf(emf.request_line(finished(**values), service="gateway"))
    assert (root["ErrorCount"], "ResponseTime" in root) == (errors, is_timed)


def test_a_server_writes_a_line_for_each_request_for_a_model_and_the_queues_depth(
    start: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "emf.jsonl"
    server = start(end_token_id=2, recipe=ServeRecipe(telemetry=TelemetryRecipe(emf=str(path), service="s")))
    ask(server)
    ask(server, n=0)
    httpx.get(f"{server.url}/health")
    roots = [check_emf(line) for line in path.read_text().splitlines()]
    assert [root["QueueDepth"] for root in roots if "QueueDepth" in root] == [0]
    told = [(one["Status"], one["RequestCount"], one.get("TokensGenerated")) for one in roots if "Status" in one]
    assert told == [(200, 1, 16), (400, 1, None)]


def test_every_answer_names_its_weights_and_the_model_tells_their_lineage(
    start: StartServer, echo_model: ServedModel
) -> None:
    server = start(model=replace(echo_model, receipt=RECEIPT), end_token_id=2)
    expected = "a92dceeb37893d66; engine=fake; weights=sha256:94f2988b"
    for is_stream in (False, True):
        assert ask(server, stream=is_stream).headers["x-nexus-receipt"] == expected
    assert "x-nexus-receipt" not in ask(server, n=0).headers
    document = httpx.get(f"{server.url}/v1/models/echo").json()
    assert RECEIPT.document().items() <= document["nexus"].items()
    assert document["nexus"]["made_of"] == {"data": "d1"}


def test_a_receipt_is_read_from_the_manifest_and_tells_nothing_of_the_machine(
    tiny_folder: Path, tmp_path: Path
) -> None:
    manifest = {
        "id": "a92d", "key": "9a0d", "inputs": {"data": "d1", "train": "t1"}, "recipe": {"name": "run"},
        "files": [{"path": "model-q8_0.gguf", "sha256": "ab" * 32}, {"path": "model.safetensors", "sha256": "cd" * 32}],
        "provenance": {"version": "0.1.0", "git_commit": "abc", "argv": ["nexus", "/home/jane"], "platform": "Linux"},
    }  # fmt: skip
    receipt = read_receipt(manifest, engine="openvino", weights="model-q8_0.gguf")
    assert receipt is not None
    assert receipt.header(adapter="law") == "a92d; engine=openvino; weights=sha256:abababababababab; adapter=law"
    assert "jane" not in json.dumps(receipt.document())
    tensors = read_receipt(manifest, engine="vllm", weights=None)
    assert tensors is not None
    assert tensors.weights == "sha256:cdcdcdcdcdcdcdcd"
    assert read_receipt({}, engine="openvino", weights="model-q8_0.gguf") is None
    folder = tmp_path / "packaged"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    model = read_model(folder, name="m")
    assert model.receipt == receipt
    assert model.fingerprint == "a92d"


def test_a_recipe_that_would_keep_samples_nowhere_or_cannot_take_them_is_refused() -> None:
    for overrides in (
        ("serve.samples.share=0.1",),
        ("serve.samples.share=0.1", "serve.samples.folder=s", "serve.engine=openai", "serve.upstream.url=http://u/v1"),
        ("serve.telemetry.otlp_endpoint=http://user:password@collector",),
    ):
        with pytest.raises(RecipeError):
            default_recipe("r", overrides=overrides)
