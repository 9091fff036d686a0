"""CloudWatch's alarms in a rehearsal: what tasks and balancer tell, judged by the rules that `observe.alarms` knows.

The emulator keeps alarms and evaluates none. Here the alarms are read from the emulated account as Terraform made them,
their metrics from the gateways' own metric lines and from the balancer's counts, and a state that changes is set in the
account, where a rollout looks for it. A minute lasts less than a minute, or a rehearsal would mostly wait.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm.cloud.rehearsal_balancer import Answered
from nexus_llm.observe.alarms import EXTRA_POINTS, Metric, MetricAlarm, State, evaluate, points


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric."""

    at: float
    """Seconds since 1970."""
    metric: tuple[str, ...]
    """Namespace, name, then dimensions as `Name=value`."""
    value: float


@dataclass(frozen=True, slots=True)
class Watched:
    """An alarm, and which series each of its metrics is."""

    alarm: MetricAlarm
    series: Mapping[str, tuple[str, ...]]
    """Name of a metric → as in `Sample.metric`."""

    def state(self, samples: Sequence[Sample], *, previous: State, until: float, period_seconds: float) -> State:
        """By the samples of the newest periods, the last of which ends at `until`."""
        count = self.alarm.evaluation_periods + EXTRA_POINTS
        told: dict[str, list[list[float]]] = {name: [[] for _ in range(count)] for name in self.series}
        for name, metric in self.series.items():
            for one in samples:
                before = int((until - one.at) // period_seconds)
                if one.metric == metric and 0 <= before < count:
                    told[name][count - 1 - before].append(one.value)
        return evaluate(self.alarm, points(self.alarm, told), previous=previous)


@dataclass
class EvaluatedAlarms:
    """Some alarms of the emulated account, looked at once a minute, which lasts `minute_seconds`."""

    cloudwatch: Any
    """boto3's client."""
    names: Sequence[str]
    samples: Callable[[], Iterable[Sample]]
    minute_seconds: float
    changes: list[tuple[str, State]] = field(default_factory=list)
    """Alarms, and what they became, in that order; all begin as OK."""
    not_judged: list[str] = field(default_factory=list)
    """Alarms with a metric that nobody tells here."""
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self, told: Iterable[tuple[str, ...]]) -> None:
        """From now on they are looked at; `told` are the metrics that `samples` may have."""
        described = self.cloudwatch.describe_alarms(AlarmNames=list(self.names))["MetricAlarms"]
        known, found = set(told), [watched(one) for one in described]
        judged = [one for one in found if set(one.series.values()) <= known]
        self.not_judged = sorted(set(self.names) - {one.alarm.name for one in judged})
        self._thread = threading.Thread(target=self._watch, args=(judged,), name="alarms", daemon=True)
        self._thread.start()

    def fired(self) -> list[str]:
        """Alarms that went on."""
        return sorted({name for name, state in self.changes if state == "ALARM"})

    def are_quiet(self) -> bool:
        """Whether none is on now."""
        return "ALARM" not in dict(self.changes).values()

    def end(self) -> None:
        """Nobody looks any more; states stay as they are."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, judged: Sequence[Watched]) -> None:
        states: dict[str, State] = dict.fromkeys((one.alarm.name for one in judged), "OK")
        until = time.time()
        while not self._over.wait(max(0.0, until + self.minute_seconds - time.time())):
            until += self.minute_seconds
            samples = list(self.samples())
            for one in judged:
                name, before = one.alarm.name, states[one.alarm.name]
                period = one.alarm.period_seconds / 60 * self.minute_seconds
                states[name] = one.state(samples, previous=before, until=until, period_seconds=period)
                if states[name] != before:
                    why = "evaluated by the rehearsal"
                    self.cloudwatch.set_alarm_state(AlarmName=name, StateValue=states[name], StateReason=why)
                    self.changes.append((name, states[name]))


def watched(described: Mapping[str, Any]) -> Watched:
    """One of DescribeAlarms' metric alarms."""
    single = {"Id": "value", "MetricStat": {
        "Metric": described, "Period": described.get("Period"),
        "Stat": described.get("Statistic") or described.get("ExtendedStatistic"),
    }}  # fmt: skip
    queries = described.get("Metrics") or [single]
    told = {one["Id"]: one["MetricStat"] for one in queries if one.get("MetricStat")}
    series, metrics = {}, []
    for name, one in told.items():
        dimensions = {each["Name"]: each["Value"] for each in one["Metric"].get("Dimensions", [])}
        place = (one["Metric"]["Namespace"], one["Metric"]["MetricName"])
        metrics.append(Metric(name, *place, tuple(sorted(dimensions)), str(one["Stat"])))
        series[place[1]] = (*place, *(f"{key}={value}" for key, value in sorted(dimensions.items())))
    alarm = MetricAlarm(
        name=described["AlarmName"],
        metrics=tuple(metrics),
        expression=next((one["Expression"] for one in queries if one.get("Expression")), "value"),
        comparison=described["ComparisonOperator"],
        threshold=float(described["Threshold"]),
        period_seconds=int(next(iter(told.values()))["Period"]),
        evaluation_periods=int(described["EvaluationPeriods"]),
        datapoints_to_alarm=int(described.get("DatapointsToAlarm") or described["EvaluationPeriods"]),
        treat_missing=described.get("TreatMissingData", "missing"),
    )
    return Watched(alarm, series)


def metric_lines(files: Iterable[Path]) -> Iterator[Sample]:
    """What gateways have told so far in CloudWatch's embedded metric format, a file each."""
    for file in files:
        for line in file.read_bytes().splitlines():
            try:
                told = json.loads(line)
            except ValueError:  # the line is being written
                continue
            for directive in told["_aws"]["CloudWatchMetrics"]:
                (keys,) = directive["Dimensions"]
                dimensions = [f"{key}={told[key]}" for key in sorted(keys)]
                for metric in directive["Metrics"]:
                    place = (directive["Namespace"], metric["Name"], *dimensions)
                    yield Sample(told["_aws"]["Timestamp"] / 1000, place, float(told[metric["Name"]]))


def balancer_metrics(balancer: str) -> dict[str, tuple[str, ...]]:
    """The metrics that `balancer_samples` tells of an ALB with this ARN suffix, by their names."""
    names = ("RequestCount", "HTTPCode_Target_5XX_Count", "HTTPCode_ELB_5XX_Count")
    return {name: ("AWS/ApplicationELB", name, f"LoadBalancer={balancer}") for name in names}


def balancer_samples(answered: Sequence[Answered], balancer: str) -> Iterator[Sample]:
    """What the balancer answered, counted as an ALB counts it."""
    metrics = balancer_metrics(balancer)
    for one in list(answered):
        yield Sample(one.at, metrics["RequestCount"], 1.0)
        if one.status >= 500:
            kind = "Target" if one.by_task else "ELB"
            yield Sample(one.at, metrics[f"HTTPCode_{kind}_5XX_Count"], 1.0)
