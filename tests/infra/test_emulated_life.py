"""A platform's life on the emulator: made, killed half-way, locked, changed behind our back, taken down to a receipt.

The stages are tiny, the code is the one of `nexus aws up|status|down`. The real stages live and die in
`make proof-aws`, which takes minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from terraform_here import binary
from tiny_infra import tiny_infra

pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")

from nexus_llm.cli import run_command
from nexus_llm.cloud import stack_life
from nexus_llm.cloud.emulator import ACCOUNT, REGION, Emulator, running_emulator, without_aws
from nexus_llm.cloud.stack_life import StackLife, begun, regional_clients
from nexus_llm.cloud.terraform_refusals import LockedError
from nexus_llm.deploy.ledger import Condition
from nexus_llm.deploy.stack import STAGES

pytestmark = [pytest.mark.xdist_group("emulated"), pytest.mark.timeout(900)]

STATE, PLATFORM = STAGES[0], STAGES[1]
WHERE = ("--name", "nexus-tiny", "--account", ACCOUNT, "--region", REGION, "--zones", f"{REGION}a,{REGION}b")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    binary()
    with running_emulator() as running:
        yield running


@pytest.fixture
def account(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Emulator:
    """This process sees the emulator and no other AWS; infra/ is the tiny one."""
    from nexus_llm.cloud.emulator import forget

    forget()
    for name in set(os.environ) - set(without_aws(os.environ)):
        monkeypatch.delenv(name)
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    infra = tiny_infra(tmp_path)
    monkeypatch.setattr(stack_life, "infra_folder", lambda: infra)
    monkeypatch.chdir(tmp_path)
    return emulator


def life(tmp_path: Path, name: str = "nexus-tiny") -> StackLife:
    deployment, folder = begun(
        tmp_path / "runs" / "aws", name=name, environment="small", account=ACCOUNT, region=REGION, zones=(f"{REGION}a",)
    )
    return StackLife(
        deployment,
        folder,
        dict(os.environ),
        lambda: time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        infra=tmp_path / "infra",
        clients=regional_clients,
    )


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_platform_is_made_as_it_was_shown_found_unchanged_and_taken_down_to_an_empty_receipt(
    account: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["aws", "up", *WHERE, "--json"]) == 2  # nobody agreed
    assert "nobody agreed" in said(capsys)["error"]["what"]
    assert not regional_clients("s3", REGION).list_buckets()["Buckets"]

    assert run_command(["aws", "up", *WHERE, "--yes", "--json"]) == 0
    made = said(capsys)
    assert [(row["stage"], row["changes"]) for row in made["stages"]] == [
        ("0-state", {"create": 3}),
        ("1-platform", {"create": 6}),
    ]
    assert made["usd_per_month"] == pytest.approx(1 + 0.005 * 730, abs=0.01)  # a key, a public address
    platform = json.loads((tmp_path / "runs" / "aws" / "nexus-tiny" / "platform.json").read_text())
    assert platform == {"name": "nexus-tiny", "data_bucket": f"nexus-tiny-data-{ACCOUNT}"}

    assert run_command(["aws", "up", *WHERE, "--yes", "--json"]) == 0
    assert [row["changes"] for row in said(capsys)["stages"]] == [{}, {}]

    # Behind our back: a topic goes. The state knows it, the account does not.
    regional_clients("sns", REGION).delete_topic(TopicArn=f"arn:aws:sns:{REGION}:{ACCOUNT}:nexus-tiny-first")
    assert run_command(["aws", "status", "--name", "nexus-tiny", "--drift", "--json"]) == 0
    rows = {row["stage"]: row for row in said(capsys)["stages"]}
    assert (rows["0-state"]["condition"], rows["0-state"]["drifted"]) == ("made", {})
    assert (rows["1-platform"]["condition"], rows["1-platform"]["drifted"]) == ("made", {"create": 1})

    # Data is not deleted unasked, and nothing is destroyed before it is known that all can be.
    regional_clients("s3", REGION).put_object(Bucket=platform["data_bucket"], Key="corpus", Body=b"text")
    assert run_command(["aws", "down", "--name", "nexus-tiny", "--yes", "--json"]) == 1
    assert f"bucket nexus-tiny-data-{ACCOUNT}: data in it" in said(capsys)["error"]["what"]
    assert len(life(tmp_path).addresses(PLATFORM)) == 6

    # Somebody made something by hand: it is named, priced, and the exit code says so.
    ec2 = regional_clients("ec2", REGION)
    stray = ec2.allocate_address(
        TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": [{"Key": "platform", "Value": "nexus-tiny"}]}]
    )
    assert run_command(["aws", "down", "--name", "nexus-tiny", "--yes", "--yes-delete-data", "--json"]) == 7
    receipt = said(capsys)
    assert receipt["destroyed"] == {"0-state": 3, "1-platform": 5}
    assert receipt["emptied"][f"bucket nexus-tiny-data-{ACCOUNT}"] == 1
    assert [(row["kind"], row["id"], row["usd_per_hour"]) for row in receipt["left"]] == [
        ("public address", stray["AllocationId"], 0.005)
    ]
    assert receipt["not_asked"] == []
    assert len(receipt["pending_deletion"]) == 1  # the key of the states waits 30 days, and costs nothing

    ec2.release_address(AllocationId=stray["AllocationId"])
    assert run_command(["aws", "down", "--name", "nexus-tiny", "--yes", "--json"]) == 0
    assert said(capsys)["left"] == []
    assert not regional_clients("s3", REGION).list_buckets()["Buckets"]


def test_a_budget_that_is_too_small_stops_everything_before_the_first_resource(
    account: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "prices.csv"
    shipped = Path(stack_life.__file__).parent.parent / "cost" / "prices" / "table.csv"
    table.write_text(shipped.read_text().replace(",us-east-1,", f",{REGION},"))
    assert run_command(["aws", "up", *WHERE, "--budget", "2", "--prices", str(table), "--yes", "--json"]) == 5
    assert "4.65 USD a month, the budget is 2.00" in said(capsys)["error"]["what"]
    assert not regional_clients("s3", REGION).list_buckets()["Buckets"]


def test_a_terraform_killed_in_the_middle_is_known_to_be_half_made_and_the_same_command_finishes(
    account: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexus_llm.cloud.terraform import Terraform

    def kill_at_first_topic(self: Terraform, event: Any, found: Any) -> None:
        told(self, event, found)
        if event.get("type") == "apply_complete" and ".more[" in event["hook"]["resource"]["addr"]:
            entries = life(tmp_path).ledger.entries()
            os.kill(entries[-1].process, signal.SIGKILL)

    told = Terraform._tell
    monkeypatch.setattr(Terraform, "_tell", kill_at_first_topic)
    assert run_command(["aws", "up", *WHERE, "--yes", "--json"]) == 75
    assert "somebody killed terraform apply (SIGKILL)" in said(capsys)["error"]["what"]
    monkeypatch.setattr(Terraform, "_tell", told)

    assert run_command(["aws", "status", "--name", "nexus-tiny", "--json"]) == 0
    assert [row["condition"] for row in said(capsys)["stages"]][:2] == ["made", "half made"]

    # The lock of the dead one lies in the bucket; what it made in its last seconds is in no state.
    assert run_command(["aws", "up", *WHERE, "--yes", "--json"]) == 0
    assert life(tmp_path).conditions()["1-platform"] is Condition.MADE
    assert len(life(tmp_path).addresses(PLATFORM)) == 6
    topics = regional_clients("sns", REGION).list_topics()["Topics"]
    addresses = regional_clients("ec2", REGION).describe_addresses()["Addresses"]
    assert (len(topics), len(addresses)) == (4, 1)  # none was made twice
    assert run_command(["aws", "up", *WHERE, "--yes", "--json"]) == 0
    said(capsys)


def test_the_second_of_two_people_is_told_who_holds_the_state_and_since_when(
    account: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["aws", "up", *WHERE, "--stage", "0-state", "--yes"]) == 0
    capsys.readouterr()
    lock = {
        "ID": "8f0c", "Operation": "OperationTypeApply", "Info": "", "Who": "ann@another-machine", "Version": "1.11.4",
        "Created": "2026-11-22T10:00:00.5Z", "Path": f"nexus-tiny-state-{ACCOUNT}/1-platform.tfstate",
    }  # fmt: skip
    place = {"Bucket": f"nexus-tiny-state-{ACCOUNT}", "Key": "1-platform.tfstate.tflock"}
    regional_clients("s3", REGION).put_object(**place, Body=json.dumps(lock).encode())
    with pytest.raises(LockedError) as told:
        life(tmp_path).plan(PLATFORM)
    assert "ann@another-machine holds the state since 2026-11-22 10:00:00" in told.value.what
    assert "--break-lock 8f0c" in told.value.fix
    assert run_command(["aws", "up", *WHERE, "--stage", "1-platform", "--break-lock", "8f0c", "--yes"]) == 0


def test_another_machine_finds_the_states_in_the_account(
    account: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["aws", "up", *WHERE, "--stage", "0-state", "--yes"]) == 0
    (tmp_path / "runs").rename(tmp_path / "the first machine")
    assert run_command(["aws", "up", *WHERE, "--stage", "0-state", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.rpartition("\n{")[2].join(["{", ""]))["stages"][0]["changes"] == {}


def test_ctrl_c_lets_terraform_write_its_state_and_the_same_command_continues(
    account: Emulator, tmp_path: Path
) -> None:
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code = (
        "import sys; from pathlib import Path; from nexus_llm.cloud import stack_life;"
        f"stack_life.infra_folder = lambda: Path({str(tmp_path / 'infra')!r});"
        "from nexus_llm.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "aws", "up", *WHERE, "--stage", "0-state", "--yes"]
    with (tmp_path / "said").open("w") as out:
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=tmp_path)
    log = tmp_path / "runs" / "aws" / "nexus-tiny" / "work" / "stages" / "0-state" / "apply.jsonl"
    until = time.monotonic() + 300
    while not (log.exists() and '"apply_start"' in log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(300) in {0, 75}, (tmp_path / "said").read_text()  # 0: all was made before it heard
    assert run_command(["aws", "up", *WHERE, "--stage", "0-state", "--yes"]) == 0
    assert len(life(tmp_path).addresses(STATE)) == 3
