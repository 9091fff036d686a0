"""A platform's life on the emulator: made, killed half-way, locked, changed behind our back, taken down to a receipt.

The stages are tiny, the code is the one of `nexus aws up|status|down`. The real stages live and die in
`make proof-aws`, which takes minutes. One test is one life, with one provider: each start of it costs seconds.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from terraform_here import attached_environment, binary
from tiny_infra import tiny_infra

pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")

from nexus_llm.cli import run_command
from nexus_llm.cli.aws_up import pricing
from nexus_llm.cloud import stack_life, terraform
from nexus_llm.cloud.emulator import ACCOUNT, REGION, Emulator, running_emulator, without_aws
from nexus_llm.cloud.leftovers import rescan
from nexus_llm.cloud.stack_life import StackLife, begun, regional_clients
from nexus_llm.cloud.terraform import Terraform
from nexus_llm.cloud.terraform_refusals import LockedError
from nexus_llm.deploy.ledger import Condition
from nexus_llm.deploy.stack import STAGES

pytestmark = [pytest.mark.xdist_group("emulated"), pytest.mark.timeout(900)]

STATE, PLATFORM = STAGES[0], STAGES[1]
BUCKETS = (f"nexus-tiny-state-{ACCOUNT}", f"nexus-tiny-data-{ACCOUNT}")
ZONES = (f"{REGION}a", f"{REGION}b")
WHERE = ("--name", "nexus-tiny", "--account", ACCOUNT, "--region", REGION, "--zones", ",".join(ZONES))


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    binary()
    with running_emulator(wrap=one_topic_may_wait) as running:
        yield running


TOPIC_MAY_BE_MADE = threading.Event()
TOPIC_MAY_BE_MADE.set()


def one_topic_may_wait(app: Any) -> Any:
    """So that terraform cannot end before it is killed, however fast the machine is."""

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if b"Action=CreateTopic" in body and b"nexus-tiny-0" in body:
            assert TOPIC_MAY_BE_MADE.wait(600), "nobody killed terraform"
        return app(environ | {"wsgi.input": io.BytesIO(body)}, start_response)

    return answer


@pytest.fixture
def account(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Emulator:
    """This process sees the emulator and no other AWS; infra/ is the tiny one."""
    from nexus_llm.cloud.emulator import forget

    forget()
    for name in set(os.environ) - set(without_aws(os.environ)):
        monkeypatch.delenv(name)
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    if not os.environ.get("NEXUS_PROOF"):
        for name, value in attached_environment(emulator.environment).items():
            monkeypatch.setenv(name, value)
        kept = tuple(one for one in terraform._FOREIGN if one != "TF_REATTACH_PROVIDERS")
        monkeypatch.setattr(terraform, "_FOREIGN", kept)
    infra = tiny_infra(tmp_path)
    monkeypatch.setattr(stack_life, "infra_folder", lambda: infra)
    monkeypatch.chdir(tmp_path)
    return emulator


def life(tmp_path: Path, name: str = "nexus-tiny") -> StackLife:
    deployment, folder = begun(
        tmp_path / "runs" / "aws", name=name, environment="small", account=ACCOUNT, region=REGION, zones=ZONES
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


def buckets() -> list[str]:
    return [one["Name"] for one in regional_clients("s3", REGION).list_buckets()["Buckets"]]


def kill_terraform_before_the_last_topic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TF_STATE_PERSIST_INTERVAL", "3600")  # a slow machine would have stored some of it by then
    told, made = Terraform._tell, set[str]()
    TOPIC_MAY_BE_MADE.clear()

    def killing(self: Terraform, event: Any, found: Any) -> None:
        told(self, event, found)
        if event.get("type") == "apply_complete" and self.folder.name == PLATFORM.name:
            made.add(event["hook"]["resource"]["addr"])
        if len(made) == 5:  # all but the topic that waits
            monkeypatch.setattr(Terraform, "_tell", told)
            os.kill(life(tmp_path).ledger.entries()[-1].process, signal.SIGKILL)
            TOPIC_MAY_BE_MADE.set()

    monkeypatch.setattr(Terraform, "_tell", killing)


def test_a_platform_lives_through_a_kill_a_lock_another_machine_and_a_theft_and_ends_with_a_receipt(
    account: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody agreed, so nothing is made.
    assert run_command(["aws", "up", *WHERE, "--json"]) == 2
    assert "nobody agreed" in said(capsys)["error"]["what"]
    assert buckets() == []

    # terraform is killed in the middle of 1-platform. What it made last is in no state, its lock lies in the bucket.
    kill_terraform_before_the_last_topic(monkeypatch, tmp_path)
    assert run_command(["aws", "up", *WHERE, "--yes", "--json"]) == 75
    assert "somebody killed terraform apply (SIGKILL)" in said(capsys)["error"]["what"]
    assert run_command(["aws", "status", "--name", "nexus-tiny", "--json"]) == 0
    rows = said(capsys)["stages"]
    assert [row["condition"] for row in rows] == ["made", "half made", "not made", "not made"]
    assert life(tmp_path).addresses(PLATFORM) == []

    # The same command finishes, and makes nothing twice.
    assert run_command(["aws", "up", *WHERE, "--yes", "--json"]) == 0
    made = said(capsys)
    assert made["stages"][0]["changes"] == {}
    assert made["usd_per_month"] == pytest.approx(1 + 0.005 * 730, abs=0.01)  # a key, a public address
    assert life(tmp_path).conditions()["1-platform"] is Condition.MADE
    assert len(life(tmp_path).addresses(PLATFORM)) == 6
    topics = regional_clients("sns", REGION).list_topics()["Topics"]
    addresses = regional_clients("ec2", REGION).describe_addresses()["Addresses"]
    assert (len(topics), len(addresses)) == (4, 1)
    platform = json.loads((tmp_path / "runs" / "aws" / "nexus-tiny" / "platform.json").read_text())
    assert platform == {"name": "nexus-tiny", "data_bucket": BUCKETS[1]}

    # The second of two people is told who holds the state.
    lock = {
        "ID": "8f0c", "Operation": "OperationTypeApply", "Info": "", "Who": "ann@another-machine", "Version": "1.11.4",
        "Created": "2026-11-22T10:00:00.5Z", "Path": f"{BUCKETS[0]}/1-platform.tfstate",
    }  # fmt: skip
    place = {"Bucket": BUCKETS[0], "Key": "1-platform.tfstate.tflock"}
    regional_clients("s3", REGION).put_object(**place, Body=json.dumps(lock).encode())
    with pytest.raises(LockedError) as told:
        life(tmp_path).plan(PLATFORM)
    assert "ann@another-machine holds the state since 2026-11-22 10:00:00" in told.value.what
    assert "--break-lock 8f0c" in told.value.fix
    life(tmp_path).unlock(PLATFORM, "8f0c")

    # Another machine finds the states in the account. A topic was deleted behind our back: only that differs.
    regional_clients("sns", REGION).delete_topic(TopicArn=f"arn:aws:sns:{REGION}:{ACCOUNT}:nexus-tiny-first")
    (tmp_path / "runs").rename(tmp_path / "the first machine")
    assert run_command(["aws", "up", *WHERE, "--yes", "--json"]) == 0
    assert [row["changes"] for row in said(capsys)["stages"]] == [{}, {"create": 1}]

    # Data goes only when that was said. What somebody made by hand is found, priced, and no good end.
    regional_clients("s3", REGION).put_object(Bucket=BUCKETS[1], Key="corpus", Body=b"text")
    stray = regional_clients("ec2", REGION).allocate_address(
        TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": [{"Key": "platform", "Value": "nexus-tiny"}]}]
    )
    assert run_command(["aws", "down", "--name", "nexus-tiny", "--yes", "--json"]) == 1
    assert f"bucket {BUCKETS[1]}: data in it would be lost" in said(capsys)["error"]["what"]
    assert len(life(tmp_path).addresses(PLATFORM)) == 6
    assert run_command(["aws", "down", "--name", "nexus-tiny", "--yes", "--yes-delete-data", "--json"]) == 7
    receipt = said(capsys)
    assert receipt["destroyed"] == {"0-state": 3, "1-platform": 6}
    assert receipt["emptied"][f"bucket {BUCKETS[1]}"] == 1
    left = [(row["kind"], row["id"], row["usd_per_hour"]) for row in receipt["left"]]
    assert left == [("public address", stray["AllocationId"], 0.005)]
    assert receipt["not_asked"] == []
    assert len(receipt["pending_deletion"]) == 1  # the key of the states waits 30 days, and costs nothing
    assert buckets() == []
    regional_clients("ec2", REGION).release_address(AllocationId=stray["AllocationId"])
    assert run_command(["aws", "down", "--name", "nexus-tiny", "--yes", "--json"]) == 0
    assert said(capsys)["left"] == []


def test_a_budget_that_is_too_small_stops_everything_before_the_first_resource(
    account: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "prices.csv"
    shipped = Path(stack_life.__file__).parent.parent / "cost" / "prices" / "table.csv"
    table.write_text(shipped.read_text().replace(",us-east-1,", f",{REGION},"))
    only = ("--stage", "0-state", "--budget", "0.5", "--prices", str(table))
    assert run_command(["aws", "up", *WHERE, *only, "--yes", "--json"]) == 5
    assert "would cost 1.00 USD a month, the budget is 0.50" in said(capsys)["error"]["what"]
    assert buckets() == []


@pytest.mark.skipif(not os.environ.get("NEXUS_PROOF"), reason="minutes: make proof-aws runs it")
@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGKILL])
def test_terraform_writes_its_state_whatever_happens_to_us_and_the_same_command_continues(
    account: Emulator, tmp_path: Path, with_signal: signal.Signals
) -> None:
    code = (
        "import sys; from pathlib import Path; from nexus_llm.cloud import stack_life;"
        f"stack_life.infra_folder = lambda: Path({str(tmp_path / 'infra')!r});"
        "from nexus_llm.cli import main; main(sys.argv[1:])"
    )
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    only = [*WHERE, "--stage", "0-state", "--yes"]
    with (tmp_path / "said").open("w") as out:
        command = [sys.executable, "-c", code, "aws", "up", *only]
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=tmp_path)
    log = tmp_path / "runs" / "aws" / "nexus-tiny" / "work" / "stages" / "0-state" / "apply.jsonl"
    until = time.monotonic() + 400
    while not (log.exists() and '"apply_start"' in log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(with_signal)
    # 0: all was made before it heard.
    assert running.wait(400) in {0, 75, -signal.SIGKILL}, (tmp_path / "said").read_text()
    terraform = life(tmp_path).ledger.entries()[-1].process
    while terraform and Path(f"/proc/{terraform}").exists() and time.monotonic() < until:
        time.sleep(0.2)  # it goes on without us, and ends its work
    assert run_command(["aws", "up", *only]) == 0
    assert len(life(tmp_path).addresses(STATE)) == 3
    kms = regional_clients("kms", REGION)
    keys = [kms.describe_key(KeyId=one["KeyId"])["KeyMetadata"] for one in kms.list_keys()["Keys"]]
    assert with_signal == signal.SIGINT or len(keys) == 1
    # Stopped in the middle of making the key, Terraform's provider makes another and may never hear of the first: that
    # one is on its way out, or the search at the end finds it.
    found = rescan("nexus-tiny", [REGION], regional_clients, pricing(None, REGION))
    told = {one.id for one in (*found.left, *found.pending) if one.kind == "KMS key"}
    assert told == {one["Arn"] for one in keys}
