"""Whose lock may be opened, what is taken over after a kill, and which deployment a name means."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.cloud.adoption import forget_adopted, write_adopted
from nexus_llm.cloud.stack_life import StackLife, _is_abandoned, begun, infra_folder
from nexus_llm.cloud.terraform import Planned, Terraform
from nexus_llm.cloud.terraform_refusals import Lock
from nexus_llm.deploy.ledger import Entry, Event
from nexus_llm.deploy.stack import STAGES
from nexus_llm.errors import DeploymentError, StorageError, UsageError

WHERE = {"account": "123456789012", "region": "eu-central-1", "zones": ("eu-central-1a", "eu-central-1b")}
HOST = socket.gethostname()


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_only_a_lock_that_a_dead_process_of_this_machine_left_is_opened() -> None:
    lock = Lock("8f", f"ann@{HOST}", "2026-11-22 10:00:05.25 +0000 UTC", "OperationTypeApply")
    ours = Entry("2026-11-22T10:00:00+00:00", "1-platform", "apply", Event.RUNNING, HOST, dead_process())
    assert _is_abandoned(lock, [ours])
    assert not _is_abandoned(lock, [])
    assert not _is_abandoned(replace(lock, who="ann@another-machine"), [ours])
    assert not _is_abandoned(replace(lock, since="2026-11-22 12:00:00 +0000 UTC"), [ours])  # somebody's after us
    assert not _is_abandoned(replace(lock, since="2026-11-22 09:59:00 +0000 UTC"), [ours])  # somebody's before us
    assert not _is_abandoned(lock, [replace(ours, process=os.getpid())])
    assert not _is_abandoned(lock, [ours, replace(ours, process=os.getpid())])
    assert not _is_abandoned(lock, [replace(ours, host="another-machine")])


def test_what_the_log_says_was_made_and_no_state_knows_is_imported_by_its_id(tmp_path: Path) -> None:
    class Known(Terraform):
        def addresses(self) -> list[str]:
            return ["aws_vpc.this"]

        def planned_before(self) -> dict[str, Any]:
            change = {"after": {"destination_cidr_block": "0.0.0.0/0"}}
            return {"resource_changes": [{"type": "aws_route", "address": "aws_route.out", "change": change}]}

    def made(address: str, identity: str, action: str = "create") -> str:
        resource = {"addr": address, "resource_type": address.split(".")[-2]}
        hook = {"resource": resource, "action": action, "id_key": "id", "id_value": identity}
        return json.dumps({"type": "apply_complete", "hook": hook})

    lines = [
        made("aws_vpc.this", "vpc-1"),
        made('module.storage.aws_s3_bucket.this["data"]', "nexus-data"),
        made("aws_route.out", "r-rtb-0123456789abcdef01080289494"),
        made("aws_network_acl_rule.in", "nacl-4711"),
        made("aws_eip.old", "eip-1", action="delete"),
        '{"type": "apply_comp',  # the line that it was killed in
    ]
    (tmp_path / "apply.jsonl").write_text("\n".join(lines))
    assert write_adopted(Known(tmp_path, {})) == ["aws_route.out", 'module.storage.aws_s3_bucket.this["data"]']
    written = (tmp_path / "nexus_adopted.tf").read_text()
    assert 'to = module.storage.aws_s3_bucket.this["data"]\n  id = "nexus-data"' in written
    assert 'id = "rtb-0123456789abcdef0_0.0.0.0/0"' in written
    forget_adopted(tmp_path)
    assert not (tmp_path / "nexus_adopted.tf").exists()


def test_a_name_means_one_deployment_for_ever(tmp_path: Path) -> None:
    first, folder = begun(tmp_path, name="nexus-x", environment=None, **WHERE)
    assert (first.environment, first.state_bucket) == ("small", "nexus-x-state-123456789012")
    assert begun(tmp_path, name="nexus-x", environment=None, account=None, region=None) == (first, folder)
    with pytest.raises(UsageError, match="nexus-x was begun with region eu-central-1, not us-east-1"):
        begun(tmp_path, name="nexus-x", environment=None, account=None, region="us-east-1")
    with pytest.raises(UsageError, match="nexus-y is not known here"):
        begun(tmp_path, name="nexus-y", environment=None, account=None, region=None)
    with pytest.raises(UsageError, match="there is no environment 'huge'"):
        begun(tmp_path, name="nexus-z", environment="huge", **WHERE)


def test_a_state_bucket_that_has_to_be_made_anew_is_left_empty(tmp_path: Path) -> None:
    kept: list[str] = []

    class Bucket:
        def put_object(self, **asked: Any) -> None:
            kept.append(asked["Key"])

    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "terraform").write_text("#!/bin/sh\nexit 1\n")
    (programs / "terraform").chmod(0o755)
    deployment, folder = begun(tmp_path, name="nexus-x", environment=None, **WHERE)
    life = StackLife(
        deployment, folder, {"PATH": str(programs)}, lambda: "2026-11-22T10:00:00+00:00",
        clients=lambda service, region: Bucket(),
    )  # fmt: skip
    stage = folder / "work" / "stages" / "0-state"
    stage.mkdir(parents=True)
    for status, copies in (("tainted", 0), (None, 1)):
        made = {"type": "aws_s3_bucket", "instances": [{"status": status} if status else {}]}
        (stage / "terraform.tfstate").write_text(json.dumps({"resources": [made]}))
        with pytest.raises(DeploymentError):
            life.apply(STAGES[0], Planned(stage / "apply.tfplan", {}))
        assert len(kept) == copies


def test_a_bucket_that_is_somebody_elses_is_not_taken_for_an_empty_account(tmp_path: Path) -> None:
    from botocore.exceptions import ClientError

    class Refusing:
        code = "AccessDenied"

        def get_object(self, **_: Any) -> Any:
            raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, "GetObject")

    deployment, folder = begun(tmp_path, name="nexus-x", environment=None, **WHERE)
    life = StackLife(deployment, folder, {}, lambda: "", clients=lambda service, region: Refusing())
    with pytest.raises(StorageError, match="not allowed: s3:GetObject of nexus-x-state-123456789012"):
        life.fetch_state()
    Refusing.code = "NoSuchBucket"
    assert life.fetch_state() is False


def test_the_terraform_that_is_applied_ships_with_the_package() -> None:
    assert {one.name for one in (infra_folder() / "stages").iterdir()} >= {"0-state", "1-platform"}
