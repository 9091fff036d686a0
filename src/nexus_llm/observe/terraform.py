"""What a Terraform plan or state (`terraform show -json`) has to look at: its alarms, and the metrics that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nexus_llm.observe.alarms import CompositeAlarm, Metric, MetricAlarm
from nexus_llm.observe.contract import Named

Resource = Mapping[str, Any]


def resources_of(document: Mapping[str, Any]) -> list[Resource]:
    """The resources of a plan, each with `address`, `type`, `values`; `unknown` has what is known only once made."""
    unknown = {one["address"]: one["change"].get("after_unknown", {}) for one in document.get("resource_changes", [])}
    planned = document.get("planned_values") or document.get("values") or {}
    return [
        {"values": {}, **one, "unknown": unknown.get(one["address"], {})}
        for one in _walk(planned.get("root_module", {}))
    ]


def metric_alarms(resources: list[Resource]) -> list[MetricAlarm]:
    """Every metric alarm, in the order of the resources."""
    return [_alarm(one) for one in resources if one["type"] == "aws_cloudwatch_metric_alarm"]


def composite_alarms(resources: list[Resource]) -> list[CompositeAlarm]:
    """Every composite alarm, in the order of the resources."""
    return [
        CompositeAlarm(one["values"]["alarm_name"], one["values"]["alarm_rule"], one["values"]["alarm_description"])
        for one in resources
        if one["type"] == "aws_cloudwatch_composite_alarm"
    ]


def named_by(resources: list[Resource]) -> list[Named]:
    """Every CloudWatch metric that an alarm, a scaling policy or a dashboard names, with its dimensions."""
    found = [
        Named("cloudwatch", f"{metric.namespace}/{metric.name}", metric.dimensions, alarm.name)
        for alarm in metric_alarms(resources)
        for metric in alarm.metrics
    ]
    for one in resources:
        place, values = one["address"], one["values"]
        if one["type"] == "aws_appautoscaling_policy":
            for tracking in values["target_tracking_scaling_policy_configuration"]:
                for metric in tracking["customized_metric_specification"]:
                    keys = tuple(sorted(dimension["name"] for dimension in metric["dimensions"]))
                    found.append(Named("cloudwatch", f"{metric['namespace']}/{metric['metric_name']}", keys, place))
        elif one["type"] == "aws_cloudwatch_dashboard":
            found += _on_dashboard(json.loads(values["dashboard_body"]), place)
    return found


def emitted_by(resources: list[Resource]) -> dict[str, list[str]]:
    """Metrics that log groups' filters make: name → dimensions."""
    made: dict[str, list[str]] = {}
    for one in resources:
        if one["type"] == "aws_cloudwatch_log_metric_filter":
            (metric,) = one["values"]["metric_transformation"]
            made[f"{metric['namespace']}/{metric['name']}"] = sorted(metric.get("dimensions") or {})
    return made


def _alarm(resource: Resource) -> MetricAlarm:
    values, unknown = resource["values"], resource["unknown"]
    queries = values.get("metric_query") or []
    if queries:
        blanks = unknown.get("metric_query") or [{}] * len(queries)
        metrics = tuple(
            _metric(one["id"], one["metric"][0], (blank.get("metric") or [{}])[0], one["metric"][0]["stat"])
            for one, blank in zip(queries, blanks, strict=True)
            if one["metric"]
        )
        (expression,) = [one["expression"] for one in queries if one["expression"]]
        (period,) = {one["metric"][0]["period"] for one in queries if one["metric"]}
    else:
        name = values["statistic"] if values.get("statistic") else values["extended_statistic"]
        metrics = (_metric("value", values, unknown, name),)
        expression, period = "value", values["period"]
    return MetricAlarm(
        name=values["alarm_name"],
        metrics=metrics,
        expression=expression,
        comparison=values["comparison_operator"],
        threshold=float(values["threshold"]),
        period_seconds=int(period),
        evaluation_periods=values["evaluation_periods"],
        datapoints_to_alarm=values.get("datapoints_to_alarm") or values["evaluation_periods"],
        treat_missing=values["treat_missing_data"],
        ignores_low_samples=values.get("evaluate_low_sample_count_percentiles") == "ignore",
        description=values["alarm_description"],
        actions=tuple(values.get("alarm_actions") or ()),
    )


def _metric(name: str, values: Mapping[str, Any], unknown: Mapping[str, Any], statistic: str) -> Metric:
    """A plan keeps all dimensions back where it does not know the value of one: `*` then."""
    dimensions = ["*"] if unknown.get("dimensions") is True else sorted(values.get("dimensions") or {})
    return Metric(name, values["namespace"], values["metric_name"], tuple(dimensions), statistic)


def _on_dashboard(body: Mapping[str, Any], place: str) -> Iterator[Named]:
    """A row of `metrics` is namespace, name, then dimension and value in turns; or an expression, which names rows."""
    for widget in body["widgets"]:
        for row in widget["properties"].get("metrics", []):
            if isinstance(row[0], str):
                words = [word for word in row if isinstance(word, str)]
                title = f"{place}, {widget['properties'].get('title', '')}"
                yield Named("cloudwatch", f"{words[0]}/{words[1]}", tuple(sorted(words[2::2])), title)


def _walk(module: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (one for one in module.get("resources", []) if one.get("mode", "managed") == "managed")
    for child in module.get("child_modules", []):
        yield from _walk(child)
