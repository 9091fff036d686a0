"""The controls themselves: each finds the fault that it is there for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infrastructure_controls import (
    above_the_ceiling,
    clear_text,
    confused_deputies,
    explained_statements,
    public,
    roles_above_the_ceiling,
    told_secrets,
    unencrypted,
    unexplained_wildcards,
)

BUCKET = {"address": "aws_s3_bucket.a", "type": "aws_s3_bucket", "values": {"bucket": "a"}}


def resource(kind: str, **values: Any) -> dict[str, Any]:
    return {"address": f"{kind}.a", "type": kind, "values": values}


def policy(kind: str, *found: dict[str, Any], **values: Any) -> dict[str, Any]:
    return resource(kind, policy=json.dumps({"Statement": list(found)}), **values)


def test_a_bucket_whose_policy_denies_something_else_answers_without_tls() -> None:
    other = {"Effect": "Deny", "Principal": "*", "Condition": {"Bool": {"aws:MultiFactorAuthPresent": "false"}}}
    right = {"Effect": "Deny", "Principal": "*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    assert clear_text([BUCKET, policy("aws_s3_bucket_policy", other, bucket="a")])
    assert clear_text([BUCKET, policy("aws_s3_bucket_policy", right, bucket="b")])
    assert clear_text([BUCKET, policy("aws_s3_bucket_policy", right, bucket="a")]) == []


@pytest.mark.parametrize(
    "found",
    [
        BUCKET,
        resource("aws_cloudwatch_log_group", kms_key_id=None),
        resource("aws_sns_topic", kms_master_key_id=""),
        resource("aws_launch_template", block_device_mappings=[{"ebs": [{"encrypted": "false", "kms_key_id": "k"}]}]),
        resource("aws_launch_template", block_device_mappings=[]),
        resource("aws_brand_new_store"),
    ],
)
def test_what_is_not_encrypted_or_not_known_is_found(found: dict[str, Any]) -> None:
    assert len(unencrypted([found])) == 1


@pytest.mark.parametrize(
    "found",
    [
        BUCKET,
        resource("aws_subnet", map_public_ip_on_launch=True),
        resource("aws_instance", associate_public_ip_address=True),
        resource("aws_vpc_security_group_ingress_rule", cidr_ipv4="0.0.0.0/0"),
        policy("aws_s3_bucket_policy", {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": "s3:GetObject"}),
    ],
)
def test_what_is_open_is_found(found: dict[str, Any]) -> None:
    assert len(public([found])) == 1


@pytest.mark.parametrize(
    ("action", "target", "is_found"),
    [
        ("s3:GetObject", "*", True),
        ("s3:*", "arn:aws:s3:::a", True),
        (["s3:GetObject", "*"], ["arn:aws:s3:::a"], True),
        ("s3:GetObject", "arn:aws:s3:::a/*", False),
        ("logs:PutLogEvents", "arn:aws:logs:eu-central-1:123456789012:log-group:a:*", False),
    ],
)
def test_a_wide_statement_needs_a_reason(action: Any, target: Any, is_found: bool) -> None:
    statement = {"Sid": "Wide", "Effect": "Allow", "Action": action, "Resource": target}
    assert bool(unexplained_wildcards([policy("aws_iam_role_policy", statement)], [])) is is_found
    assert unexplained_wildcards([policy("aws_iam_role_policy", statement)], ["Wide"]) == []


def test_a_reason_belongs_to_the_statement_that_it_stands_in(tmp_path: Path) -> None:
    (tmp_path / "a.tf").write_text(
        'a = {\n  Sid      = "With"\n  # "*": it takes no resource.\n  Resource = "*"\n}\n'
        'b = {\n  Sid      = "Without"\n  Resource = "*"\n}\n'
    )
    assert explained_statements(tmp_path) == {"With"}


def test_a_role_that_any_account_s_service_may_take_is_found() -> None:
    statement: dict[str, Any] = {"Effect": "Allow", "Principal": {"Service": "glue.amazonaws.com"}}
    role = resource("aws_iam_role", assume_role_policy=json.dumps({"Statement": [statement]}))
    assert confused_deputies([role])
    assert roles_above_the_ceiling([role])
    statement["Condition"] = {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    role = resource("aws_iam_role", assume_role_policy=json.dumps({"Statement": [statement]}), permissions_boundary="b")
    assert confused_deputies([role]) == []
    assert roles_above_the_ceiling([role]) == []


def test_what_the_boundary_takes_away_is_found() -> None:
    ceiling = {"Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": "*"}]}
    statement = {"Effect": "Allow", "Action": ["s3:GetObject", "rds-db:connect"], "Resource": "*"}
    (found,) = above_the_ceiling([policy("aws_iam_role_policy", statement)], ceiling, region="eu-central-1")
    assert "grants rds-db:connect" in found


def test_a_secret_in_an_output_or_in_the_state_is_found() -> None:
    output = {"after": {"url": "https://a", "admin_secret_arn": "arn:a"}, "after_unknown": {}, "after_sensitive": False}
    password = {"after": {"password": None}, "after_sensitive": {"password": True}}
    plan: dict[str, Any] = {
        "output_changes": {"serving": output},
        "resource_changes": [{"address": "aws_rds_cluster.a", "change": password}],
    }
    assert told_secrets(plan) == []
    password["after"] = {"password": "x"}
    assert told_secrets(plan) == ["aws_rds_cluster.a.password is a secret that the state would hold"]
    password["after"] = {}
    output["after_unknown"] = {"admin": {"password": True}}
    assert told_secrets(plan) == ["output serving.admin.password may be a secret"]
    output["after_unknown"], output["after_sensitive"] = {}, True
    assert told_secrets(plan) == ["output serving is marked as a secret"]
