"""The platform as it is planned for each environment, and as a mocked provider makes it with everything switched on."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from infrastructure_controls import (
    above_the_ceiling,
    ceiling_of,
    clear_text,
    confused_deputies,
    explained_statements,
    public,
    roles_above_the_ceiling,
    statements,
    unencrypted,
    unexplained_wildcards,
)
from infrastructure_plans import ENVIRONMENTS, resources
from nexus_llm.deploy.policies import recordings
from nexus_llm.deploy.policy_evaluation import listed
from terraform_here import INFRA, binary, copy_of_infra, mocked

# One process makes all plans. Terraform starts a provider of 700 MB for each step: minutes on a busy machine.
pytestmark = [pytest.mark.xdist_group("infrastructure_plans"), pytest.mark.timeout(1800)]

GOLDEN = Path(__file__).parent / "golden"
STAGES = ("0-state", "1-platform")
MODULES = sorted(
    {
        module
        for stage in STAGES
        for file in (INFRA / "stages" / stage).glob("*.tf")
        for module in re.findall(r'"\.\./\.\./modules/([\w-]+)"', file.read_text(encoding="utf-8"))
    }
)
EXPLAINED = {sid for module in MODULES for sid in explained_statements(INFRA / "modules" / module)}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    binary()
    return mocked(copy_of_infra(tmp_path_factory.mktemp("mocked")), "1-platform", "platform.tftest.hcl")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_makes_what_it_made_before_and_nothing_public(
    planned: Callable[[str], dict[str, Any]], environment: str
) -> None:
    found = [asdict(one) for one in resources(planned(f"platform-{environment}"))]
    assert public(found) == []
    golden = GOLDEN / f"platform-{environment}.json"
    counts = dict(sorted(Counter(resource["type"] for resource in found).items()))
    if os.environ.get("NEXUS_WRITE_GOLDEN"):
        golden.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    # A golden changes only in a commit that says why: NEXUS_WRITE_GOLDEN=1 pytest tests/infra/test_platform.py
    assert counts == json.loads(golden.read_text(encoding="utf-8"))


def test_everything_is_made_so_that_the_controls_below_see_it(everything: list[dict[str, Any]]) -> None:
    planned = {kind for one in ENVIRONMENTS for kind in json.loads((GOLDEN / f"platform-{one}.json").read_text())}
    assert planned - {resource["type"] for resource in everything} == set()


def test_nothing_answers_without_tls(everything: list[dict[str, Any]]) -> None:
    assert clear_text(everything) == []


def test_everything_that_keeps_something_is_encrypted_with_our_key(everything: list[dict[str, Any]]) -> None:
    assert unencrypted(everything) == []


def test_nobody_outside_reaches_anything(everything: list[dict[str, Any]]) -> None:
    assert public(everything) == []


def test_every_wide_statement_has_a_reason_beside_it(everything: list[dict[str, Any]]) -> None:
    assert unexplained_wildcards(everything, EXPLAINED) == []


def test_a_reason_without_its_wide_statement_is_gone(everything: list[dict[str, Any]]) -> None:
    wide = {
        statement.get("Sid")
        for resource in everything
        for statement in statements(resource)
        if statement.get("Resource") == "*"
    }
    assert wide >= EXPLAINED


def test_no_service_takes_a_role_for_somebody_else(everything: list[dict[str, Any]]) -> None:
    assert confused_deputies(everything) == []


def test_every_role_stands_below_the_ceiling(everything: list[dict[str, Any]]) -> None:
    assert roles_above_the_ceiling(everything) == []


def test_the_ceiling_is_read_as_terraform_makes_it(everything: list[dict[str, Any]]) -> None:
    (made,) = [one for one in everything if one["address"].endswith("aws_iam_policy.boundary")]
    found = ceiling_of(INFRA, regions=("eu-central-1", "eu-west-1"))
    assert found == json.loads(made["values"]["policy"])


def test_no_role_is_given_what_the_ceiling_takes_away(everything: list[dict[str, Any]]) -> None:
    ceiling = ceiling_of(INFRA, regions=("eu-central-1", "eu-west-1"))
    assert above_the_ceiling(everything, ceiling, region="eu-central-1") == []


def test_roles_of_data_jobs_allow_what_their_code_asks_of_the_bucket(everything: list[dict[str, Any]]) -> None:
    asked = {need.action for need in recordings().roles["jobs"].needs if need.action.startswith(("s3:", "kms:"))}
    assert {"s3:GetObject", "s3:PutObject", "s3:ListBucket", "kms:Decrypt", "kms:GenerateDataKey"} <= asked
    for name in ("glue", "emr", "batch-job", "sagemaker"):
        (role,) = [one for one in everything if one["address"].endswith(f'aws_iam_role_policy.this["{name}"]')]
        granted = {action for one in statements(role) for action in listed(one["Action"])}
        assert asked - granted == set(), name


def test_every_alarm_reaches_somebody(everything: list[dict[str, Any]]) -> None:
    alarms = [resource for resource in everything if resource["type"] == "aws_cloudwatch_metric_alarm"]
    assert alarms
    assert [one["address"] for one in alarms if not any(":sns:" in to for to in one["values"]["alarm_actions"])] == []


def test_a_policy_fits_into_what_iam_takes(everything: list[dict[str, Any]]) -> None:
    # IAM quotas, read 2026-11: 10,240 characters of inline policies a role, 6,144 a managed policy, white space not
    # counted. Mocked ARNs are about as long as real ones.
    limits = {"aws_iam_role_policy": 10_240, "aws_iam_policy": 6_144}
    sizes = {
        one["address"]: (len(one["values"]["policy"]), limits[one["type"]])
        for one in everything
        if one["type"] in limits
    }
    assert {address: size for address, size in sizes.items() if size[0] > size[1]} == {}
