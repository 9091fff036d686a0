from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.cli import run_command
from nexus_llm.deploy.policy_evaluation import listed

PLACE = ["--account", "123456789012", "--region", "eu-central-1"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run_command(["aws", "iam", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_document_names_every_role_its_policies_and_what_was_not_recorded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = printed(capsys, "--json", *PLACE)
    assert {"up", "jobs", "rollout", "recovery", "preflight"} == set(found["roles"])
    assert found["roles"]["jobs"]["policies"]
    assert found["roles"]["up"]["not_recorded"]
    assert "s3fs" in found["recorded_with"]


def test_a_policy_is_printed_so_that_it_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    policy = printed(capsys, "--role", "jobs", "--name", "nexus-mine", *PLACE)
    assert policy["Version"] == "2012-10-17"
    assert "arn:aws:s3:::nexus-mine-*/*" in json.dumps(policy)


def test_without_an_account_nothing_is_asked_and_the_place_stays_open(capsys: pytest.CaptureFixture[str]) -> None:
    assert "arn:aws:sagemaker:*:*:training-job/*" in json.dumps(printed(capsys, "--role", "jobs"))


def test_one_s_own_policy_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = printed(capsys, "--role", "jobs", *PLACE)
    path = tmp_path / "own.json"
    path.write_text(json.dumps(own))
    check = ["aws", "iam", "--role", "jobs", *PLACE, "--check", str(path)]
    assert run_command(check) == 0
    for statement in own["Statement"]:
        statement["Action"] = [one for one in listed(statement["Action"]) if one != "glue:StartJobRun"]
    path.write_text(json.dumps(own))
    capsys.readouterr()
    assert run_command(check) == 6
    said = capsys.readouterr().err
    assert "lacks" in said
    assert "glue:StartJobRun" in said
    assert run_command([*check, "--json"]) == 6
    lacks = json.loads(capsys.readouterr().out)["lacks"]
    assert lacks["glue:StartJobRun"] == ["arn:aws:glue:eu-central-1:123456789012:job/nexus-data-*"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--account", "12"], "--account 12 is no account"),
        (["--role", "boss"], "no role 'boss'"),
        (["--check", "x.json"], "--check needs to know for whom"),
        (["--check", "absent.json", "--role", "jobs"], "no JSON that can be read"),
    ],
)
def test_a_wrong_word_is_a_usage_error(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["aws", "iam", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_policies_are_printed_without_boto3() -> None:
    code = (
        "import sys; from nexus_llm.cli import run_command; run_command(['aws', 'iam', '--json']);"
        "print([name for name in ('boto3', 'botocore') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
