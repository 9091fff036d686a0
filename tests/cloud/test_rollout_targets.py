"""The same rollout on ECS through CodeDeploy and on a SageMaker endpoint, against botocore's models of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from fake_rollouts import DELIVERY, SERVING, FakeRollouts, arn_of
from nexus_llm.cloud.codedeploy import CodeDeployTarget, green_definition
from nexus_llm.cloud.sagemaker_endpoint import EndpointTarget, update_body
from nexus_llm.deploy.rollout import Judgement, Plan, Rollout, turned_back
from nexus_llm.deploy.rollout_driver import ASKED_BACK, Hands, RolloutFolder, drive
from nexus_llm.errors import PreflightError

ECS = Plan("ecs", "nexus-test-api", "s3://models/package/new", canary_seconds=0, bake_seconds=0)
ENDPOINT = Plan("sagemaker", "chat", "s3://models/package/new", canary_seconds=0, bake_seconds=0)


def passes(_: Rollout) -> Judgement:
    return Judgement("pass", "-")


def rolled(
    plan: Plan,
    account: FakeRollouts,
    folder: Path,
    *,
    check: Callable[[Rollout], Judgement] = passes,
    on_step: Callable[[Rollout], Any] = lambda _: None,
    rollout: Rollout | None = None,
) -> Rollout:
    """A rollout to its end, by a clock that does not wait."""
    now = [0.0]
    if plan.target == "ecs":
        target: Any = CodeDeployTarget(
            account, serving=SERVING, delivery=DELIVERY, image="here/serve@sha256:new", ask=lambda: 1.5  # type: ignore[arg-type]
        )  # fmt: skip
    else:
        target = EndpointTarget(account, alarms=["chat-errors"], ask=lambda _: 1.5)  # type: ignore[arg-type]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        assert now[0] < 100, "it never ends"

    hands = Hands(check, now=lambda: now[0], sleep=sleep, tell=on_step)
    journal = RolloutFolder(folder)
    return drive(rollout or journal.begin(plan, now=0.0), target, journal, hands)


def test_ecs_goes_from_the_test_listener_to_all_traffic_and_ends_blue(tmp_path: Path) -> None:
    account = FakeRollouts()
    asked_with: list[float] = []
    done = rolled(
        ECS, account, tmp_path, check=lambda _: asked_with.append(account.deployments[0]["weight"]) or passes(_)
    )
    assert done.status == "done"
    assert asked_with == [0.0]  # nobody was sent to green before it was checked
    assert account.primary == arn_of(2)
    model, gateway, tracing = account.definitions[1]["containerDefinitions"]
    assert model["command"] == ["s3://models/package/new", "/model"]
    assert {model["image"], gateway["image"]} == {"here/serve@sha256:new"}
    assert tracing["image"] == "there/collector:1"
    warm = done.facts["warm"]
    assert (warm["pull_seconds"], warm["load_seconds"], warm["warm_seconds"]) == (20, 20, 1.5)
    assert account.calls.count("create_deployment") == 1
    assert account.deployments[0]["status"] == "Succeeded"


@pytest.mark.parametrize("plan", [ECS, ENDPOINT])
def test_worse_answers_leave_blue_alone_and_nothing_behind(plan: Plan, tmp_path: Path) -> None:
    account = FakeRollouts()
    done = rolled(plan, account, tmp_path, check=lambda _: Judgement("fail", "worse"))
    assert (done.status, done.reason) == ("rolled_back", "worse")
    assert account.primary == arn_of(1)
    assert [one["status"] for one in account.deployments] == (["Stopped"] if plan is ECS else [])
    assert list(account.endpoints) == ["chat"]
    assert account.updates == []


@pytest.mark.parametrize("plan", [ECS, ENDPOINT])
def test_an_alarm_under_way_turns_back(plan: Plan, tmp_path: Path) -> None:
    account = FakeRollouts()

    def fires(rollout: Rollout) -> None:
        if rollout.step == "shift" and rollout.status == "running":
            account.alarms = ["nexus-test-error-rate", "chat-errors"]

    done = rolled(plan, account, tmp_path, on_step=fires)
    assert done.status == "rolled_back"
    assert "fired" in done.reason
    assert account.primary == arn_of(1)
    assert account.endpoints["chat"]["config"] == "chat-1"


@pytest.mark.parametrize("plan", [ECS, ENDPOINT])
def test_what_does_not_start_is_turned_back(plan: Plan, tmp_path: Path) -> None:
    account = FakeRollouts()
    account.starts_badly = True
    done = rolled(plan, account, tmp_path)
    assert done.status == "rolled_back"
    assert "Failed" in done.reason
    assert account.endpoints == {"chat": {"config": "chat-1", "status": "InService", "pending": None}}


@pytest.mark.parametrize("plan", [ECS, ENDPOINT])
def test_after_the_end_the_former_model_is_rolled_out_again(plan: Plan, tmp_path: Path) -> None:
    account = FakeRollouts()
    done = rolled(plan, account, tmp_path)
    back = rolled(plan, account, tmp_path, rollout=turned_back(done, ASKED_BACK, now=0.0))
    assert back.status == "rolled_back"
    assert account.primary == arn_of(1)
    assert account.endpoints["chat"]["config"] == "chat-1"


@pytest.mark.parametrize("plan", [ECS, ENDPOINT])
@pytest.mark.parametrize("step", ["warm", "canary", "shift", "drain"])
def test_a_killed_command_finds_its_deployment_again(plan: Plan, step: str, tmp_path: Path) -> None:
    account = FakeRollouts()

    def kill(rollout: Rollout) -> None:
        if rollout.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rolled(plan, account, tmp_path, on_step=kill)
    done = rolled(plan, account, tmp_path)
    assert done.status == "done"
    assert account.calls.count("create_deployment") == (plan is ECS)
    assert account.calls.count("update_endpoint") == (plan is ENDPOINT)


def test_what_would_fail_later_is_said_before_anything_is_begun(tmp_path: Path) -> None:
    account = FakeRollouts()
    account.waits = False
    with pytest.raises(PreflightError, match="before anybody has asked it") as caught:
        rolled(ECS, account, tmp_path)
    assert "test_minutes" in caught.value.fix
    account.waits, account.alarms = True, ["nexus-test-first-token", "chat-errors"]
    for plan, name in ((ECS, "nexus-test-first-token"), (ENDPOINT, "chat-errors")):
        with pytest.raises(PreflightError, match=name):
            rolled(plan, account, tmp_path / plan.target)
    account.alarms = []
    serving = SERVING | {"url": "https://nexus-test-1.eu-central-1.elb.amazonaws.com"}
    nameless = CodeDeployTarget(account, serving=serving, delivery=DELIVERY, ask=lambda: 1.5)  # type: ignore[arg-type]
    with pytest.raises(PreflightError, match="no certificate holds") as caught:
        nameless.advance(replace(RolloutFolder(tmp_path / "nameless").begin(ECS, now=0.0), step="preflight"))
    assert "host_name" in caught.value.fix
    assert account.deployments == []
    with pytest.raises(PreflightError, match="no container"):
        green_definition({"family": "x", "containerDefinitions": []}, model="m", image=None, serving=SERVING)


def test_the_endpoint_is_tried_on_one_of_its_own_and_keeps_blues_settings(tmp_path: Path) -> None:
    account = FakeRollouts()
    seen: list[set[str]] = []
    done = rolled(ENDPOINT, account, tmp_path, check=lambda _: seen.append(set(account.endpoints)) or passes(_))
    assert done.status == "done"
    assert seen == [{"chat", "chat-green"}]
    assert set(account.endpoints) == {"chat"}
    green = account.endpoints["chat"]["config"]
    container = account.models[green]["PrimaryContainer"]
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"] == "s3://models/package/new/"
    assert "ModelDataUrl" not in container
    assert container["Environment"] == {"NEXUS_SERVE_MODEL": "/opt/ml/model"}
    (update,) = account.updates
    policy = update["DeploymentConfig"]
    assert policy["AutoRollbackConfiguration"]["Alarms"] == [{"AlarmName": "chat-errors"}]
    assert policy["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["CanarySize"]["Value"] == 10
    alone = update_body(replace(done, plan=ENDPOINT), alarms=["a"], instances=1)
    routing = alone["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing["Type"] == "ALL_AT_ONCE"  # one machine cannot be shared out


def test_an_endpoint_is_asked_as_any_server() -> None:
    from io import BytesIO
    from types import SimpleNamespace

    from nexus_llm.cloud.sagemaker_endpoint import EndpointTransport

    sent: list[dict[str, Any]] = []

    def invoke_endpoint(**body: Any) -> dict[str, Any]:
        sent.append(body)
        return {"Body": BytesIO(b'{"choices": []}')}

    account: Any = SimpleNamespace(client=lambda _: SimpleNamespace(invoke_endpoint=invoke_endpoint))
    with httpx.Client(transport=EndpointTransport(account, "chat"), base_url="https://there") as client:
        assert client.get("/v1/models").json() == {"data": [{"id": "chat"}]}
        assert client.post("/v1/chat/completions", json={"model": "chat", "messages": []}).json() == {"choices": []}
    assert json.loads(sent[0]["Body"]) == {"messages": []}
