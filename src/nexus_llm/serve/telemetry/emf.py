"""CloudWatch metrics as log lines: the embedded metric format, pure.

Format: AWS, CloudWatch user guide, "Specification: Embedded metric format" (read 22 November 2026). CloudWatch Logs
makes metrics of such a line where the log driver takes it as it is, one line an event; no API is called from here.

Which metric stands in which line: docs/observability.md. The one dimension is Service. Request id, model,
route and status stand beside the metrics, for Logs Insights only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from nexus_llm.serve.telemetry.record import RequestRecord

NAMESPACE = "NexusLLM/API"
QUEUE_PERIOD_SECONDS = 15.0
"""Between two QueueDepth lines: four values for each minute, CloudWatch's usual resolution."""
_UNITS = {"ResponseTime": "Seconds", "TimeToFirstToken": "Seconds"}


def request_line(record: RequestRecord, *, service: str) -> str:
    """The line of a finished request. Its time is that of the request's end."""
    values: dict[str, float] = {"RequestCount": 1, "ErrorCount": int(record.is_failure)}
    if record.status < 400:
        values["ResponseTime"] = round(record.seconds, 6)
        values["TokensGenerated"] = record.completion_tokens
    first = record.seconds_to_first_token
    if first is not None:
        values["TimeToFirstToken"] = round(first, 6)
    beside = {"RequestId": record.request_id, "Model": record.model, "Route": record.route, "Status": record.status}
    ended_ms = record.started_unix_ns // 1_000_000 + int(record.seconds * 1000)
    return _line(values, service=service, timestamp_ms=ended_ms, beside=beside)


def queue_line(depth: int, *, running: int, service: str, timestamp_ms: int) -> str:
    """The line of how many wait and run at this moment (milliseconds since 1970)."""
    values = {"QueueDepth": depth, "RequestsInFlight": depth + running}
    return _line(values, service=service, timestamp_ms=timestamp_ms, beside={})


def _line(values: Mapping[str, float], *, service: str, timestamp_ms: int, beside: Mapping[str, object]) -> str:
    metrics = [{"Name": name, "Unit": _UNITS.get(name, "Count")} for name in values]
    directive = {"Namespace": NAMESPACE, "Dimensions": [["Service"]], "Metrics": metrics}
    about = {"Timestamp": timestamp_ms, "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": about, "Service": service, **beside, **values}, ensure_ascii=False)
