"""What is shipped for Prometheus, in the hands of Prometheus' own tool: queries, rules that fire and end, the page."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from nexus_llm.observe.dashboard import grafana_dashboard
from nexus_llm.observe.objectives import LEAST_REQUESTS, OBJECTIVES, TIERS, WINDOW_SECONDS, Objective, prometheus_rules
from nexus_llm.observe.runbooks import code_blocks
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import ServedModel
from running_server import running_server

PROMTOOL = shutil.which("promtool") or ""
pytestmark = pytest.mark.skipif(not PROMTOOL, reason="no promtool on the PATH: Debian's package prometheus has it")
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
REQUESTS = ('nexus_requests_total{outcome="failed"}', 'nexus_requests_total{outcome="other"}')
HISTOGRAMS = {
    "first-token": ("vllm:time_to_first_token_seconds", "2.0"),
    "answer": ("vllm:e2e_request_latency_seconds", "30.0"),
}
ENGINE = {
    "engine-down": ("nexus_engine_up", "1x30 0x30 1x30"),
    "engine-restarts": ("nexus_engine_restarts", "0x30 1+1x2 3x60"),
    "cache-full": ("vllm:kv_cache_usage_perc", "0.5x30 0.97x30 0.5x30"),
}


def told(*words: str, text: str | None = None) -> tuple[int, str]:
    done = subprocess.run([PROMTOOL, *words], input=text, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def written(folder: Path, document: Any) -> str:
    path = folder / f"{len(list(folder.iterdir()))}.yml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def queries() -> Iterator[str]:
    for panel in grafana_dashboard()["panels"]:
        yield from (one["expr"] for one in panel["targets"])
    for page in RUNBOOKS.glob("*.md"):
        for block in code_blocks(page.read_text()):
            if block.language == "promql":
                yield from block.text.splitlines()


def test_the_rules_are_well_formed_and_no_two_are_the_same_to_an_alertmanager(tmp_path: Path) -> None:
    code, said = told("check", "rules", "--lint-fatal", written(tmp_path, prometheus_rules()))
    assert code == 0, said


def test_every_query_of_dashboard_and_runbooks_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    assert len(rules) > 40
    code, said = told("check", "rules", written(tmp_path, {"groups": [{"name": "queries", "rules": rules}]}))
    assert code == 0, said
    rules[0]["expr"] = "sum by (le (rate(nexus_requests_total[5m]))"
    code, said = told("check", "rules", written(tmp_path, {"groups": [{"name": "queries", "rules": rules}]}))
    assert code == 1, said


def series(objective: Objective, bad: str, good: str, everything: str) -> list[dict[str, str]]:
    """Input of promtool whose counters grow as told, by Prometheus' short hand."""
    if objective.name == "availability":
        return [{"series": name, "values": one} for name, one in zip(REQUESTS, (bad, good), strict=True)]
    name, bound = HISTOGRAMS[objective.name]
    parts = ((f'{name}_bucket{{le="{bound}"}}', good), (f"{name}_count", everything))
    return [{"series": one, "values": values} for one, values in parts]


def severities(*, burn_rate: float, quiet: int, bad: int, clean: int) -> set[str]:
    """What has to be on, by the minutes at the rate, before and after: each window's mean, from where data begin."""

    def mean(window: str) -> float:
        length = min(WINDOW_SECONDS[window] // 60, quiet + bad + clean)
        return burn_rate * max(0, min(bad, length - clean)) / length

    return {tier.severity for tier in TIERS if min(mean(tier.long), mean(tier.short)) > tier.burn_rate}


def looked_at(objective: Objective, on: set[str], minute: int) -> list[dict[str, Any]]:
    """What promtool has to find then: these severities, and nothing else."""
    (group,) = [one for one in prometheus_rules()["groups"] if one["name"] == f"nexus-{objective.name}"]
    return [
        {
            "eval_time": f"{minute}m",
            "alertname": rule["alert"],
            "exp_alerts": [{"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}]
            if rule["labels"]["severity"] in on
            else [],
        }
        for rule in group["rules"]
        if "alert" in rule
    ]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one.name)
def test_an_objective_is_told_by_the_windows_that_burn_and_ends_with_its_cause(
    objective: Objective, tmp_path: Path
) -> None:
    tests = []
    # The second needs the three days, the third the hour, the fourth the six hours.
    for quiet, rate, bad in ((0, 0.5, 180), (0, 2.0, 180), (300, 19.0, 60), (0, 8.0, 180)):
        lost = 1000 * rate * objective.budget_share  # of 1,000 requests in two minutes

        def grown(before: float, then: float, quiet: int = quiet, bad: int = bad) -> str:
            rows = ((0.0, before, quiet // 2), (before * quiet / 2, then, bad // 2))
            last = before * quiet / 2 + then * bad / 2
            return " ".join(f"{start:g}+{step:g}x{count - 1}" for start, step, count in rows if count) + (
                f" {last:g}+{before:g}x20"
            )

        at_its_end, later = (severities(burn_rate=rate, quiet=quiet, bad=bad, clean=clean) for clean in (0, 36))
        tests.append({
            "interval": "2m",
            "input_series": series(objective, grown(0, lost), grown(1000, 1000 - lost), grown(1000, 1000)),
            "alert_rule_test": [
                *looked_at(objective, at_its_end, quiet + bad),
                *looked_at(objective, later, quiet + bad + 36),
            ],
        })  # fmt: skip
    few = f"0+{2 * (LEAST_REQUESTS - 10) / 180:g}x90"  # all of them lost
    tests.append({
        "interval": "2m",
        "input_series": series(objective, few, "0+0x90", few),
        "alert_rule_test": looked_at(objective, set(), 170),
    })  # fmt: skip
    rules = written(tmp_path, prometheus_rules())
    code, said = told("test", "rules", written(tmp_path, {"rule_files": [rules], "tests": tests}))
    assert code == 0, said


def test_what_tells_of_the_engine_fires_and_ends(tmp_path: Path) -> None:
    (group,) = [one for one in prometheus_rules()["groups"] if one["name"] == "nexus-engine"]
    assert [rule["alert"] for rule in group["rules"]] == list(ENGINE)
    tests = []
    for rule in group["rules"]:
        name, values = ENGINE[rule["alert"]]
        on = [{"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}]
        tests.append({
            "interval": "1m",
            "input_series": [{"series": name, "values": values}],
            "alert_rule_test": [
                {"eval_time": at, "alertname": rule["alert"], "exp_alerts": alerts}
                for at, alerts in (("25m", []), ("42m", on), ("75m", []))
            ],
        })  # fmt: skip
    rules = written(tmp_path, prometheus_rules())
    code, said = told("test", "rules", written(tmp_path, {"rule_files": [rules], "tests": tests}))
    assert code == 0, said


def test_the_page_of_a_real_server_is_what_prometheus_reads(echo_model: ServedModel) -> None:
    with running_server(echo_model, EngineCommand("fake", {})) as server:
        httpx.post(f"{server.url}/v1/completions", json={"model": "echo", "prompt": "Say this."}).raise_for_status()
        page = httpx.get(f"{server.url}/metrics").text
    code, said = told("check", "metrics", text=page)
    # The colon is vLLM's: its names were taken over where they mean the same.
    others = [line for line in said.splitlines() if line and not line.endswith("should not contain ':'")]
    assert (code, others) == (3, []), said
