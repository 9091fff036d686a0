"""The Grafana dashboard of one gateway, as the JSON that Grafana imports."""

from __future__ import annotations

from typing import Any

from nexus_llm.observe.objectives import OBJECTIVES, TIERS

_WIDTH, _HEIGHT = 8, 8  # three panels a row; Grafana's grid is 24 wide
_DISTRIBUTIONS = (
    ("First token", "vllm:time_to_first_token_seconds"),
    ("Between tokens", "vllm:inter_token_latency_seconds"),
    ("Whole answer", "vllm:e2e_request_latency_seconds"),
    ("In the queue", "vllm:request_queue_time_seconds"),
    ("Prefill", "vllm:request_prefill_time_seconds"),
    ("Decode", "vllm:request_decode_time_seconds"),
    ("A token, after the first", "vllm:request_time_per_output_token_seconds"),
    ("Tokens of a prompt", "vllm:request_prompt_tokens"),
    ("Tokens of an answer", "vllm:request_generation_tokens"),
)
_RATES = (
    ("Requests a second, by outcome", "sum by (outcome) (rate(nexus_requests_total[5m]))", "{{outcome}}"),
    (
        "Responses a second, by route and status",
        "sum by (route, status) (rate(nexus_http_responses_total[5m]))",
        "{{route}} {{status}}",
    ),
    ("Refused a second, by reason", "sum by (reason) (rate(nexus_requests_refused_total[5m]))", "{{reason}}"),
    ("Too late a second, by phase", "sum by (phase) (rate(nexus_timeouts_total[5m]))", "{{phase}}"),
    (
        "Sequences finished a second, by reason",
        "sum by (finished_reason) (rate(vllm:request_success_total[5m]))",
        "{{finished_reason}}",
    ),
    ("Prompt tokens a second", "sum(rate(vllm:prompt_tokens_total[5m]))", "prompt"),
    ("Generated tokens a second", "sum(rate(vllm:generation_tokens_total[5m]))", "answer"),
    ("Clients that left, a second", "sum(rate(nexus_client_disconnects_total[5m]))", "left"),
    ("Telemetry lost a second, by sink", "sum by (sink) (rate(nexus_telemetry_dropped_total[5m]))", "{{sink}}"),
)
_STATES = (
    ("Engine ready", "min(nexus_engine_up)", "ready"),
    ("Engine restarts", "sum(nexus_engine_restarts)", "restarts"),
    ("Running", "sum(vllm:num_requests_running)", "sequences"),
    ("Waiting", "sum(vllm:num_requests_waiting)", "sequences"),
    ("Tokens of what runs", "sum(nexus_tokens_running)", "tokens"),
    ("Tokens of what waits", "sum(nexus_tokens_waiting)", "tokens"),
    ("Tokens freed a second", "sum(nexus_tokens_freed_per_second)", "tokens"),
    ("Key-value cache in use", "max(vllm:kv_cache_usage_perc)", "share"),
)


def grafana_dashboard() -> dict[str, Any]:
    """The dashboard; its data source is a variable, which a reader chooses on the page."""
    panels = [
        (
            f"Burn rate: {one.title}",
            [(f"nexus_burn_rate:{one.name.replace('-', '_')}:{tier.long}", tier.long) for tier in TIERS],
        )
        for one in OBJECTIVES
    ]
    panels += [(title, [(query, legend)]) for title, query, legend in (*_RATES, *_STATES)]
    panels += [
        (title, [(_quantile(name, share), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)])
        for title, name in _DISTRIBUTIONS
    ]
    return {
        "title": "Nexus LLM",
        "uid": "nexus-llm",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"}]
        },
        "panels": [_panel(index, title, queries) for index, (title, queries) in enumerate(panels)],
    }


def _quantile(histogram: str, share: float) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket[5m])))"


def _panel(index: int, title: str, queries: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "fieldConfig": {"defaults": {"unit": "s" if "_seconds" in queries[0][0] else "short"}, "overrides": []},
        "gridPos": {"x": index % 3 * _WIDTH, "y": index // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(queries)
        ],
    }
