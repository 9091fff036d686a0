"""What AWS and terraform say when they refuse, as the two lines that a user reads."""

from __future__ import annotations

import pytest

from nexus_llm.cloud.terraform import Terraform
from nexus_llm.cloud.terraform_refusals import LockedError, refusal
from nexus_llm.errors import DeploymentError, TryAgainError

LOCK = """Error message: operation error S3: PutObject, https response error StatusCode: 412, PreconditionFailed
Lock Info:
  ID:        8f0c
  Path:      nexus-small-state-123456789012/1-platform.tfstate
  Operation: OperationTypeApply
  Who:       ann@laptop
  Version:   1.11.4
  Created:   2026-11-22 10:00:00.5 +0000 UTC
  Info:
"""
DENIED = (
    "operation error KMS: CreateKey, https response error StatusCode: 400, RequestID: 1, api error "
    "AccessDeniedException: User: arn:aws:iam::123456789012:user/ann is not authorized to perform: kms:TagResource "
    "because no identity-based policy allows the kms:TagResource action"
)


@pytest.mark.parametrize(
    ("summary", "kind", "what", "fix"),
    [
        (DENIED, DeploymentError, "not allowed: kms:TagResource", "policy of arn:aws:iam::123456789012:user/ann"),
        ("operation error S3: CreateBucket, StatusCode: 403, api error AccessDenied: Access Denied", DeploymentError,
         "not allowed: s3:CreateBucket", "add s3:CreateBucket to a policy of the caller"),
        ("operation error STS: GetCallerIdentity, StatusCode: 403, api error ExpiredToken: The security token included "
         "in the request is expired", DeploymentError, "does not know who asks", "aws sso login"),
        ("No valid credential sources found", DeploymentError, "does not know who asks", "aws configure"),
        ("operation error EC2: DescribeVpcs, api error RequestLimitExceeded: Request limit exceeded", TryAgainError,
         "AWS is busy", "same command"),
        ("creating S3 Bucket (x): BucketAlreadyExists", DeploymentError, "the name is taken", "--name"),
        ("deleting S3 Bucket: BucketNotEmpty", DeploymentError, "still holds something", "--yes-delete-data"),
        ("AWS account ID not allowed: 210987654321", DeploymentError, "210987654321", "--account"),
        ("Failed to query available provider packages\nCould not retrieve the list of available versions",
         DeploymentError, "provider cannot be had", "NEXUS_TERRAFORM_PLUGINS"),
        ("Saved plan is stale", TryAgainError, "changed after the plan was shown", "run it again"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_is_wrong_and_what_to_do(summary: str, kind: type, what: str, fix: str) -> None:
    error = refusal([{"summary": summary, "address": "module.x.aws_thing.y"}], stage="1-platform", during="apply")
    assert type(error) is kind
    assert what in error.what
    assert error.what.startswith("1-platform")
    assert fix in error.fix
    assert "\n" not in error.what


def test_a_lock_says_who_holds_it_since_when_and_how_to_take_it() -> None:
    error = refusal([{"summary": "Error acquiring the state lock", "detail": LOCK}], stage="1-platform", during="plan")
    assert isinstance(error, LockedError)
    assert error.exit_code == 75
    assert "ann@laptop holds the state since 2026-11-22 10:00:00.5 +0000 UTC" in error.what
    assert "--break-lock 8f0c" in error.fix


def test_without_terraform_the_error_says_where_it_comes_from(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(DeploymentError, match="terraform is not on the PATH") as told:
        Terraform(Path(str(tmp_path)), {"PATH": str(tmp_path)}).init()
    assert "developer.hashicorp.com/terraform/install" in told.value.fix


def test_the_environment_with_its_credentials_is_never_printed(tmp_path: object) -> None:
    from pathlib import Path

    assert "wJalr" not in repr(Terraform(Path(str(tmp_path)), {"AWS_SECRET_ACCESS_KEY": "wJalr"}))
