"""What `/metrics` tells, in Prometheus' text form: vLLM's names where they mean the same, ours under `nexus_`.

Prefill is counted from the moment that the engine gets a request to its first token. vLLM's `num_preemptions_total` is
left out, because OpenVINO GenAI does not tell it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from nexus_llm.serve.admission import Admission
    from nexus_llm.serve.engines.supervisor import EngineSupervisor

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds in seconds: a small model on a laptop and a large one in a cluster must both fit. The objectives of
# nexus_llm.observe stand at bounds (2 and 30), because a histogram knows no share in between.
_LATENCY_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 2, 3, 6, 12, 25, 30, 50, 100, 200)
_TOKENS = tuple(factor * 10**power for power in range(6) for factor in (1, 2, 5))
_PER_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)


class Histogram(Collector):
    """A histogram of one label, which only the event loop's thread observes. The library's own locks twice, and looks
    at bound after bound: 0.6 µs instead of 0.1 for each token."""

    def __init__(self, name: str, text: str, model_name: str, bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._model_name, self._bounds = name, text, model_name, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=["model_name"])
        ends = map(floatToGoString, (*self._bounds, math.inf))
        buckets = list(zip(ends, accumulate(self._counts), strict=True))
        family.add_metric([self._model_name], buckets, self._sum)
        yield family


class ServerMetrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self, model_name: str, *, engine: str) -> None:
        self._registry = CollectorRegistry()
        self._model_name = model_name
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens of admitted requests.")
        self.generation_tokens = self._counter("vllm:generation_tokens", "Generated tokens.")
        # Lengths as counts only: enough to see prompts drift, and nobody's prompt.
        self.request_prompt_tokens = self._histogram("vllm:request_prompt_tokens", "Tokens of each prompt.", _TOKENS)
        self.request_generation_tokens = self._histogram(
            "vllm:request_generation_tokens", "Tokens of each finished answer.", _TOKENS
        )
        self.time_to_first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", _LATENCY_SECONDS
        )
        self.inter_token_latency = self._histogram(
            "vllm:inter_token_latency_seconds", "Between two deliveries of one sequence.", _PER_TOKEN_SECONDS
        )
        self.time_per_output_token = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean per token after the first.", _PER_TOKEN_SECONDS
        )
        self.e2e_latency = self._histogram(
            "vllm:e2e_request_latency_seconds", "From arrival to the last token.", _LATENCY_SECONDS
        )
        self.queue_time = self._histogram(
            "vllm:request_queue_time_seconds", "From arrival to the engine.", _LATENCY_SECONDS
        )
        self.prefill_time = self._histogram(
            "vllm:request_prefill_time_seconds", "From the engine to the first token.", _LATENCY_SECONDS
        )
        self.decode_time = self._histogram(
            "vllm:request_decode_time_seconds", "From the first token to the last.", _LATENCY_SECONDS
        )
        self._success = self._labelled("vllm:request_success", "Finished sequences.", "finished_reason")
        self._requests = self._labelled("nexus_requests", "Requests for a model's work, by outcome.", "outcome")
        for outcome in ("failed", "other"):  # a rate needs a zero to rise from
            self._requests.labels(model_name, outcome)
        self._responses = self._labelled("nexus_http_responses", "HTTP responses.", "route", "status")
        self._refused = self._labelled("nexus_requests_refused", "Requests not admitted.", "reason")
        self._timeouts = self._labelled("nexus_timeouts", "Requests that took too long, by phase.", "phase")
        self._dropped = self._labelled("nexus_telemetry_dropped", "Requests whose spans or sample were lost.", "sink")
        self.disconnects = self._counter("nexus_client_disconnects", "Clients that left before their answer was whole.")
        self._gauge("nexus_info", "Always 1.", lambda: 1.0, engine=engine)

    def track(self, admission: Admission, engine: Callable[[], EngineSupervisor]) -> None:
        """Names the sources of the gauges, which are asked when somebody looks; a swap changes the engine."""
        gauge = self._gauge
        gauge("vllm:num_requests_running", "Sequences that the engine works on.", lambda: admission.running)
        gauge("vllm:num_requests_waiting", "Sequences in the queue.", lambda: admission.waiting)
        gauge("vllm:kv_cache_usage_perc", "Part of the key-value cache in use, 0 to 1.", lambda: engine().cache_share)
        gauge("nexus_engine_up", "1 while the engine is ready.", lambda: engine().state == "ready")
        gauge("nexus_engine_restarts", "Engine processes started again after a death.", lambda: engine().restarts)
        gauge("nexus_tokens_running", "Tokens that running requests may come to.", lambda: admission.running_tokens)
        gauge("nexus_tokens_waiting", "Tokens that waiting requests may come to.", lambda: admission.waiting_tokens)
        freed = admission.throughput
        gauge(
            "nexus_tokens_freed_per_second",
            "Measured while requests wait; 0: not yet.",
            lambda: freed.tokens_per_second or 0.0,
        )

    def finished(self, reason: str) -> None:
        self._success.labels(self._model_name, reason).inc()

    def requested(self, *, is_failure: bool) -> None:
        """One more request for a model's work is over; a failure is the server's, as `RequestRecord.is_failure`."""
        self._requests.labels(self._model_name, "failed" if is_failure else "other").inc()

    def responded(self, route: str, status: int) -> None:
        self._responses.labels(self._model_name, route, str(status)).inc()

    def dropped(self, sink: str, count: int) -> None:
        self._dropped.labels(self._model_name, sink).inc(count)

    def refused(self, reason: str) -> None:
        self._refused.labels(self._model_name, reason).inc()

    def timed_out(self, phase: str) -> None:
        self._timeouts.labels(self._model_name, phase).inc()

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["model_name"], registry=self._registry).labels(self._model_name)

    def _labelled(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ["model_name", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, self._model_name, bounds)
        self._registry.register(histogram)
        return histogram

    def _gauge(self, name: str, text: str, source: Callable[[], float], **labels: str) -> None:
        gauge = Gauge(name, text, ["model_name", *labels], registry=self._registry)
        gauge.labels(self._model_name, *labels.values()).set_function(source)
