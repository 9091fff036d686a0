"""Rollouts of a rehearsal: CodeDeploy's part and CloudWatch's part as stand-ins, around the product's own target.

The tasks are tiny servers that tell metrics as the gateway does; the account is the emulator's.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")

from nexus_llm.cloud.account import open_account
from nexus_llm.cloud.codedeploy import CodeDeployTarget
from nexus_llm.cloud.emulator import ACCOUNT, REGION, entered, running_emulator
from nexus_llm.cloud.rehearsal_alarms import (
    EvaluatedAlarms,
    Sample,
    Watched,
    balancer_metrics,
    balancer_samples,
    metric_lines,
    watched,
)
from nexus_llm.cloud.rehearsal_balancer import Answered, running_balancer
from nexus_llm.cloud.rehearsal_deployments import RunningDeployments
from nexus_llm.cloud.rehearsal_jobs import RunningJobs
from nexus_llm.cloud.rehearsal_platform import RehearsedPlatform
from nexus_llm.cloud.rehearsal_service import Service
from nexus_llm.cloud.stack_life import regional_clients
from nexus_llm.deploy.rollout import Judgement, Plan, Rollout
from nexus_llm.deploy.rollout_driver import Hands, RolloutFolder, drive

pytestmark = [pytest.mark.xdist_group("emulated")]

MINUTE_SECONDS = 0.3
NAME, ALARM = "nexus-small-api", "nexus-small-error-rate"
OWN = ("NexusLLM/API", "RequestCount", f"Service={NAME}"), ("NexusLLM/API", "ErrorCount", f"Service={NAME}")
FETCH = (
    "import pathlib, sys; f = pathlib.Path(sys.argv[2]); f.mkdir(parents=True); (f / 'from').write_text(sys.argv[1])"
)
# One whose package is called `bad` fails each request.
SERVE = """
import http.server, json, os, pathlib, sys, time
folder, lines = pathlib.Path(sys.argv[1]), sys.argv[-1].partition("=")[2]
is_bad = (folder / "from").read_text().endswith("bad")

class Gateway(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write((folder / "from").read_bytes())

    def do_POST(self):
        values = {"RequestCount": 1, "ErrorCount": int(is_bad)}
        about = {"Namespace": "NexusLLM/API", "Dimensions": [["Service"]], "Metrics": [{"Name": one} for one in values]}
        about = {"Timestamp": round(time.time() * 1000), "CloudWatchMetrics": [about]}
        with open(lines, "a") as out:
            out.write(json.dumps({"_aws": about, "Service": os.environ["NEXUS_SERVICE"], **values}) + "\\n")
        self.send_response(500 if is_bad else 200); self.end_headers(); self.wfile.write(b"{}")

    def log_message(self, *words):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
server.serve_forever()
"""
DEFINITION: dict[str, Any] = {
    "family": NAME,
    "containerDefinitions": [
        {
            "name": "model", "image": "serve:1", "memory": 64,
            "entryPoint": ["python", "-m", "nexus_llm.cli.fetch_model"], "command": ["s3://models/old", "/model"],
        },
        {"name": "gateway", "image": "serve:1", "memory": 64},
    ],
}  # fmt: skip
SERVING = {
    "cluster_name": "nexus-small", "service_name": NAME, "task_family": NAME, "capacity_provider": "FARGATE",
    "container_name": "gateway", "container_port": 8000, "rollback_alarm_names": [ALARM],
}  # fmt: skip
DELIVERY = {"application_name": NAME, "deployment_group_name": NAME, "deployment_config_name": "nexus-small-canary"}


class There:
    """An account with a service that runs here, and people who ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.statuses: list[int] = []
        self._over = threading.Event()

    def ask_on(self) -> None:
        while not self._over.wait(0.01):
            self.statuses.append(self.ask())

    def ask(self) -> int:
        request = urllib.request.Request(self.service.balancer.url, data=b"{}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def rolled(self, model: str) -> Rollout:
        target = CodeDeployTarget(open_account(REGION), serving=SERVING, delivery=DELIVERY, ask=lambda: 0.1)
        journal = RolloutFolder(self.folder / "rollouts")
        hands = Hands(self._check, now=time.time, sleep=time.sleep, poll_seconds=0.05)
        plan = Plan("ecs", NAME, model, canary_seconds=0, bake_seconds=0)
        return drive(journal.begin(plan, now=time.time()), target, journal, hands)

    def _check(self, _: Rollout) -> Judgement:
        (green,) = self.deployments.green
        with urllib.request.urlopen(green.url, timeout=10) as answer:
            self.tried = answer.read().decode()
        self.asked_of_green = self.service.balancer.served.get(green.url, 0)
        return Judgement("pass", "-")


@pytest.fixture
def there(tmp_path: Path) -> Iterator[There]:
    one = There(tmp_path)
    (tmp_path / "fetch.py").write_text(FETCH)
    (tmp_path / "serve.py").write_text(SERVE)
    with running_balancer() as balancer:
        one.service = Service(
            balancer,
            tmp_path / "tasks",
            (sys.executable, str(tmp_path / "fetch.py")),
            (sys.executable, str(tmp_path / "serve.py")),
            package="s3://models/old",
            name=NAME,
        )
        one.deployments = RunningDeployments(one.service, REGION, minute_seconds=MINUTE_SECONDS)
        with running_emulator(wrap=one.deployments.wrap) as emulator, entered(emulator):
            furnish()
            one.service.match(1)
            alarms = EvaluatedAlarms(
                regional_clients("cloudwatch", REGION),
                [ALARM],
                lambda: metric_lines(one.service.told()),
                MINUTE_SECONDS,
            )
            alarms.begin(OWN)
            one.alarms = alarms
            asking = threading.Thread(target=one.ask_on, daemon=True)
            asking.start()
            yield one
            one._over.set()
            asking.join()
            alarms.end()
            one.deployments.end()
            one.service.stop()


def furnish() -> None:
    ecs, deploy = regional_clients("ecs", REGION), regional_clients("codedeploy", REGION)
    ecs.create_cluster(clusterName="nexus-small")
    ecs.register_task_definition(**DEFINITION)
    ecs.create_service(
        cluster="nexus-small", serviceName=NAME, taskDefinition=NAME, desiredCount=1,
        deploymentController={"type": "CODE_DEPLOY"},
    )  # fmt: skip
    alarm = {"EvaluationPeriods": 5, "DatapointsToAlarm": 3, "Threshold": 5.0, "TreatMissingData": "notBreaching"}
    dimensions = [{"Name": "Service", "Value": NAME}]
    queries: list[Any] = [{"Id": "percent", "Expression": "100 * FILL(errors, 0) / requests", "ReturnData": True}]
    for name, metric in (("errors", "ErrorCount"), ("requests", "RequestCount")):
        about = {"Namespace": "NexusLLM/API", "MetricName": metric, "Dimensions": dimensions}
        queries.append({"Id": name, "MetricStat": {"Metric": about, "Period": 60, "Stat": "Sum"}, "ReturnData": False})
    regional_clients("cloudwatch", REGION).put_metric_alarm(
        AlarmName=ALARM, ComparisonOperator="GreaterThanThreshold", Metrics=queries, **alarm
    )
    deploy.create_application(applicationName=NAME, computePlatform="ECS")
    deploy.create_deployment_config(
        deploymentConfigName="nexus-small-canary",
        computePlatform="ECS",
        trafficRoutingConfig={
            "type": "TimeBasedCanary",
            "timeBasedCanary": {"canaryPercentage": 50, "canaryInterval": 10},
        },
    )
    deploy.create_deployment_group(
        applicationName=NAME,
        deploymentGroupName=NAME,
        deploymentConfigName="nexus-small-canary",
        serviceRoleArn=f"arn:aws:iam::{ACCOUNT}:role/deploy",
        ecsServices=[{"clusterName": "nexus-small", "serviceName": NAME}],
        alarmConfiguration={"enabled": True, "alarms": [{"name": ALARM}]},
        blueGreenDeploymentConfiguration={
            "deploymentReadyOption": {"actionOnTimeout": "STOP_DEPLOYMENT", "waitTimeInMinutes": 60},
            "terminateBlueInstancesOnDeploymentSuccess": {"action": "TERMINATE", "terminationWaitTimeInMinutes": 100},
        },
    )


def test_a_good_version_is_tried_unseen_gets_its_share_then_all_and_blue_ends(there: There) -> None:
    (blue,) = there.service.tasks
    done = there.rolled("s3://models/new")
    assert (done.status, done.verdict) == ("done", "pass"), done.reason
    assert (there.tried, there.asked_of_green) == ("s3://models/new", 0)
    assert [one.url for one in there.service.ended] == [blue.url]
    assert blue.process.poll() is not None
    assert there.ask() == 200
    assert set(there.statuses) == {200}
    # The next one begins where this one ended.
    again = there.rolled("s3://models/newer")
    assert again.facts["stage"]["blue"] == done.facts["stage"]["green"]


def test_a_version_that_fails_its_users_is_turned_back_by_the_alarm_of_the_account(there: There) -> None:
    (blue,) = there.service.tasks
    done = there.rolled("s3://models/bad")
    assert (done.status, done.verdict) == ("rolled_back", "fail")
    assert ALARM in done.reason
    assert there.alarms.fired() == [ALARM]
    assert there.service.tasks == [blue]
    assert [one.exit_code is not None for one in there.service.ended] == [True]
    failed, asked = there.statuses.count(500), len(there.statuses)
    assert 0 < failed < asked
    until = time.monotonic() + 20
    while not there.alarms.are_quiet() and time.monotonic() < until:
        time.sleep(0.05)
    assert there.alarms.are_quiet()
    assert there.statuses[-20:] == [200] * 20
    assert there.rolled("s3://models/new").facts["stage"]["blue"] == done.facts["stage"]["blue"]


def test_the_alarms_of_a_group_are_given_back_as_they_were_sent(there: There) -> None:
    group = regional_clients("codedeploy", REGION).get_deployment_group(applicationName=NAME, deploymentGroupName=NAME)
    assert group["deploymentGroupInfo"]["alarmConfiguration"] == {"enabled": True, "alarms": [{"name": ALARM}]}


def test_a_deployment_that_nobody_lets_go_on_gets_no_traffic_and_can_be_stopped(there: There) -> None:
    codedeploy = regional_clients("codedeploy", REGION)
    ecs = regional_clients("ecs", REGION)
    arn = ecs.register_task_definition(**DEFINITION)["taskDefinition"]["taskDefinitionArn"]
    service = {"Type": "AWS::ECS::Service", "Properties": {"TaskDefinition": arn}}
    spec = json.dumps({"version": 0.0, "Resources": [{"TargetService": service}]})
    name = codedeploy.create_deployment(
        applicationName=NAME,
        deploymentGroupName=NAME,
        deploymentConfigName="nexus-small-canary",
        revision={"revisionType": "AppSpecContent", "appSpecContent": {"content": spec}},
    )["deploymentId"]

    def status() -> str:
        return str(codedeploy.get_deployment(deploymentId=name)["deploymentInfo"]["status"])

    until = time.monotonic() + 20
    while status() != "Ready" and time.monotonic() < until:
        time.sleep(0.05)
    assert there.deployments.weight() == 0
    codedeploy.stop_deployment(deploymentId=name, autoRollbackEnabled=True)
    while status() != "Stopped" and time.monotonic() < until:
        time.sleep(0.05)
    assert status() == "Stopped"
    assert there.deployments.green == []


def test_the_report_names_every_stand_in(there: There, tmp_path: Path) -> None:
    platform = RehearsedPlatform(None, None, {}, kinds={"aws_kms_key"})  # type: ignore[arg-type]
    jobs = RunningJobs(tmp_path, REGION, ())
    rows = {
        one["kind"]: one["reason"] for one in platform.rests_on_patches((*jobs.patches, *there.deployments.patches))
    }
    assert rows["aws_kms_key"] == "moto forgets the period"
    assert "aws_codepipeline" not in rows  # it was not made
    named = " ".join(rows)
    for call in (
        "CreateDeployment", "GetDeploymentTarget", "StartJobRun", "CreateTrainingJob", "DescribeServices",
        "DeleteModelPackage", "states of alarms", "servicequotas",
    ):  # fmt: skip
        assert call in named, call


def test_a_balancer_shares_by_weight() -> None:
    with running_balancer() as balancer:
        balancer.weigh({"blue": 75, "green": 25})
        turns = [balancer._turn() for _ in range(100)]
        assert turns.count("green") == 25
        assert "green" in turns[:4]
        balancer.weigh({"blue": 100, "green": 0})
        assert {balancer._turn() for _ in range(10)} == {"blue"}


def test_what_the_balancer_answered_counts_as_an_albs() -> None:
    answered = [Answered(1.0, 200, by_task=True), Answered(2.0, 500, by_task=True), Answered(3.0, 503, by_task=False)]
    metrics = {one.metric[1]: 0 for one in balancer_samples(answered, "app/x/1")}
    for one in balancer_samples(answered, "app/x/1"):
        metrics[one.metric[1]] += 1
    assert metrics == {"RequestCount": 3, "HTTPCode_Target_5XX_Count": 1, "HTTPCode_ELB_5XX_Count": 1}


LATE = {
    "AlarmName": "late", "Namespace": "NexusLLM/API", "MetricName": "TimeToFirstToken", "ExtendedStatistic": "p95",
    "Dimensions": [{"Name": "Service", "Value": NAME}], "Period": 60, "EvaluationPeriods": 3, "DatapointsToAlarm": 2,
    "ComparisonOperator": "GreaterThanThreshold", "Threshold": 2.0, "TreatMissingData": "notBreaching",
}  # fmt: skip


def told(one: Watched, seconds_before: list[float], *, service: str = NAME) -> str:
    metric = ("NexusLLM/API", "TimeToFirstToken", f"Service={service}")
    samples = [Sample(100.0 - before, metric, 5.0) for before in seconds_before]
    return one.state(samples, previous="OK", until=100.0, period_seconds=10.0)


def test_an_alarm_is_judged_by_its_own_series_in_its_own_periods() -> None:
    one = watched(LATE)
    assert told(one, [5.0, 15.0]) == "ALARM"
    assert told(one, [5.0, 6.0]) == "OK"  # one period
    assert told(one, [5.0, 15.0], service="another") == "OK"
    assert told(one, [-5.0, 500.0]) == "OK"  # not over yet, and long ago


def test_an_alarm_of_which_nobody_tells_anything_is_named_and_not_called_well(there: There) -> None:
    cloudwatch = regional_clients("cloudwatch", REGION)
    cloudwatch.put_metric_alarm(**LATE)
    some = EvaluatedAlarms(cloudwatch, [ALARM, "late"], lambda: [], MINUTE_SECONDS)
    some.begin([*OWN, *balancer_metrics("app/x/1").values()])
    some.end()
    assert some.not_judged == ["late"]
