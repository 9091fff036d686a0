"""`nexus aws preflight` through the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="needs the aws extra: pip install boto3")

from nexus_llm import cli
from nexus_llm.cli.aws_preflight import report
from nexus_llm.deploy.checks import Check
from nexus_llm.errors import PreflightError

DOMAIN = Path(__file__).parents[2] / "recipes" / "domain-8b-sagemaker.yaml"
OK, WARN = (
    Check("region", "a region", "eu-central-1", "ok"),
    Check("queue", "16 vCPU", "8 vCPU", "warn", "ask for more"),
)
FAIL = Check("price", "at most 200 USD", "201 USD", "fail", "--budget 201")


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))


def test_help_loads_no_boto3() -> None:
    code = (
        "import sys; from nexus_llm import cli\n"
        "for words in (['aws', '--help'], ['aws', 'preflight', '--help']): cli.run_command(words)\n"
        "print([name for name in ('boto3', 'botocore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "preflight" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_preflight_without_credentials_is_one_document_and_exit_code_6(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["aws", "preflight", str(DOMAIN), "--region", "us-east-1", "--environment", "standard", "--json"]
    assert cli.run_command(words) == 6
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "fail"
    rows = {one["name"]: one for one in document["checks"]}
    assert set(document["checks"][0]) == {"name", "needed", "found", "verdict", "fix"}
    assert rows["credentials"]["verdict"] == "fail"
    assert rows["train job: ml.p4d.24xlarge for spot training job usage"]["verdict"] == "unknown"
    assert rows["price"]["verdict"] == "ok"  # 839 USD a month by the plan, 2,000 in environment standard
    assert rows["recipe: train job"]["fix"].startswith("--set train.sagemaker.role_arn")


def test_a_budget_that_is_too_small_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["aws", "preflight", str(DOMAIN), "--region", "us-east-1", "--budget", "100"]) == 6
    out, err = capsys.readouterr()
    assert "fail    price: 942.49 USD a month planned; needed: at most 100.00 USD a month" in out
    assert out.count("repair the failed checks above") == 1
    assert err.startswith("error: ")
    assert "credentials; " in err


def test_files_that_are_no_json_are_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "platform.json"
    broken.write_text("{")
    assert cli.run_command(["aws", "preflight", str(DOMAIN), "--platform", str(broken)]) == 2
    assert "platform.json cannot be read as JSON" in capsys.readouterr().err


def test_warnings_alone_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert report("demo", [OK, WARN], as_json=False) == 0
    assert "1 warn, 1 ok" in capsys.readouterr().out
    assert report("demo", [OK, WARN], as_json=True) == 0


def test_a_failure_is_told_once_in_words_and_once_as_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PreflightError, match="1 of 2 checks failed: price"):
        report("demo", [OK, FAIL], as_json=False)
    assert "→ --budget 201" in capsys.readouterr().out
    assert report("demo", [OK, FAIL], as_json=True) == PreflightError.exit_code == 6
