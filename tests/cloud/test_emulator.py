"""The emulator's list of gaps, and its patches where Terraform does not look."""

from __future__ import annotations

from typing import Any

import pytest

from emulator_drift import judge
from nexus_llm.cloud.emulator_gaps import GAPS, Gap

ONE = Gap("1-platform", "aws_thing", "colour", "moto forgets it")


def plan(*changes: tuple[str, list[str], dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return {
        "resource_changes": [
            {"type": kind, "address": f"{kind}.x", "change": {"actions": actions, "before": before, "after": after}}
            for kind, actions, before, after in changes
        ]
    }


def test_a_known_gap_is_met_and_everything_else_is_named() -> None:
    same: dict[str, Any] = {"colour": "red", "size": 1}
    found = plan(
        ("aws_thing", ["update"], same | {"colour": None}, same),
        ("aws_thing", ["update"], same | {"size": 2}, same),
        ("aws_other", ["delete", "create"], same, same),
        ("aws_still", ["no-op"], same, same),
    )
    verdict = judge({"1-platform": found}, [ONE])
    assert verdict.met == (ONE,)
    assert verdict.unexplained == ("1-platform: aws_thing.x: size", "1-platform: aws_other.x: (delete/create)")
    assert not verdict.holds


def test_a_gap_that_no_longer_appears_fails_unless_its_stage_was_not_planned() -> None:
    assert judge({"1-platform": plan()}, [ONE]).unused == (ONE,)
    assert not judge({"1-platform": plan()}, [ONE]).holds
    assert judge({"0-state": plan()}, [ONE]).holds


def test_every_gap_and_every_patch_has_a_reason() -> None:
    from nexus_llm.cloud.emulator_patches import PATCHES

    assert [one for one in (*GAPS, *PATCHES) if len(one.reason.split()) < 3] == []


def test_a_bucket_that_denies_clear_text_can_be_used_and_shows_its_whole_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")
    import json

    import boto3

    from nexus_llm.cloud.emulator import REGION, running_emulator

    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    statement = {
        "Sid": "NothingInClearText", "Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "s3:*",
        "Resource": ["arn:aws:s3:::some-bucket", "arn:aws:s3:::some-bucket/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    with running_emulator() as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        s3 = boto3.session.Session().client("s3")
        s3.create_bucket(Bucket="some-bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_bucket_policy(Bucket="some-bucket", Policy=json.dumps(policy))
        s3.put_object(Bucket="some-bucket", Key="k", Body=b"text")
        assert s3.get_object(Bucket="some-bucket", Key="k")["Body"].read() == b"text"
        assert json.loads(s3.get_bucket_policy(Bucket="some-bucket")["Policy"]) == policy
    with running_emulator() as emulator:  # a new one is empty
        assert boto3.session.Session().client("s3", endpoint_url=emulator.url).list_buckets()["Buckets"] == []


def test_an_alarm_of_alarms_is_kept_and_given_back() -> None:
    pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")
    from urllib.parse import urlencode
    from urllib.request import Request, urlopen

    from nexus_llm.cloud.emulator import REGION, running_emulator

    with running_emulator() as emulator:

        def ask(action: str, **parameters: str) -> str:  # as Terraform's provider does; boto3 speaks another protocol
            scope = f"AWS4-HMAC-SHA256 Credential=k/20261122/{REGION}/monitoring/aws4_request"
            body = urlencode({"Action": action, "Version": "2010-08-01", **parameters}).encode()
            headers = {"Authorization": scope, "Content-Type": "application/x-www-form-urlencoded"}
            with urlopen(Request(emulator.url, data=body, headers=headers)) as answer:
                return str(answer.read().decode())

        made = {"AlarmName": "page", "AlarmRule": 'ALARM("a") AND ALARM("b")', "AlarmActions.member.1": "topic"}
        ask("PutCompositeAlarm", **made, **{"Tags.member.1.Key": "platform", "Tags.member.1.Value": "nexus"})
        named = {"AlarmNames.member.1": "page", "AlarmTypes.member.1": "CompositeAlarm"}
        told = ask("DescribeAlarms", **named)
        assert '<AlarmRule>ALARM("a") AND ALARM("b")</AlarmRule>' in told
        assert "<AlarmActions><member>topic</member></AlarmActions>" in told
        ask("DeleteAlarms", **named)
        assert "page" not in ask("DescribeAlarms", **named)


def test_a_service_keeps_who_gives_it_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")
    import boto3

    from nexus_llm.cloud.emulator import running_emulator

    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    given: dict[str, Any] = {
        "capacityProviderStrategy": [{"capacityProvider": "FARGATE", "weight": 1, "base": 0}],
        "healthCheckGracePeriodSeconds": 600,
        "enableECSManagedTags": True,
        "availabilityZoneRebalancing": "DISABLED",
    }
    with running_emulator() as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        ecs = boto3.session.Session().client("ecs")
        ecs.create_cluster(clusterName="c")
        image = {"name": "gateway", "image": "i:1", "memory": 128}
        ecs.register_task_definition(family="f", containerDefinitions=[image])
        made = {"cluster": "c", "taskDefinition": "f", "desiredCount": 1}
        ecs.create_service(**made, serviceName="kept", **given)
        ecs.create_service(**made, serviceName="plain", launchType="EC2")
        ecs.update_service(cluster="c", service="kept", healthCheckGracePeriodSeconds=60)
        kept, plain = ecs.describe_services(cluster="c", services=["kept", "plain"])["services"]
        assert {name: kept[name] for name in given} == given | {"healthCheckGracePeriodSeconds": 60}
        assert "launchType" not in kept
        assert (plain["launchType"], plain.get("capacityProviderStrategy", [])) == ("EC2", [])
        ecs.delete_service(cluster="c", service="kept", force=True)
        made_anew = ecs.create_service(**made, serviceName="kept", launchType="EC2")["service"]
        assert made_anew["launchType"] == "EC2"


def test_automatic_snapshots_go_with_their_cluster_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")
    import boto3

    from nexus_llm.cloud.emulator import running_emulator

    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with running_emulator() as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        rds = boto3.session.Session().client("rds")
        for name in ("keys", "others"):
            rds.create_db_cluster(
                DBClusterIdentifier=name, Engine="aurora-postgresql", MasterUsername="n", MasterUserPassword="12345678"
            )
        before = rds.describe_db_cluster_snapshots(SnapshotType="automated")["DBClusterSnapshots"]
        assert {one["DBClusterIdentifier"] for one in before} == {"keys", "others"}
        rds.delete_db_cluster(DBClusterIdentifier="keys", FinalDBSnapshotIdentifier="keys-final")
        left = rds.describe_db_cluster_snapshots()["DBClusterSnapshots"]
        assert {(one["DBClusterIdentifier"], one["SnapshotType"]) for one in left} == {
            ("keys", "manual"),
            ("others", "automated"),
        }
