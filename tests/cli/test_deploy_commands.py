"""`nexus deploy` and `nexus rollback` as a user types them, against a real gateway."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_artifacts import write_artifact
from nexus_llm.cli import run_command
from nexus_llm.cli.admin_token import AdminToken, admin_headers
from nexus_llm.cli.console import SignalInterrupt
from nexus_llm.deploy.rollout_driver import RolloutFolder
from nexus_llm.package.gguf_write import write_gguf
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.commands import engine_command
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.model_folder import WEIGHTS, read_model
from running_server import RunningServer, running_server
from tiny_model import write_tiny_model

TOKEN = "the-servers-own"


@dataclass(frozen=True)
class Said:
    """What a command line came to."""

    code: int
    out: str
    err: str


Nexus = Callable[..., Said]


@pytest.fixture
def nexus(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Nexus:
    monkeypatch.setattr(SignalInterrupt, "install", lambda _: None)  # signals are the test runner's

    def run(*words: str) -> Said:
        code = run_command(words)
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny", max_position_embeddings=512)
    write_gguf(made, made / WEIGHTS, name="tiny", license_id="other")
    return made


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    pytest.importorskip("xllamacpp", reason="the [llama] extra is not installed")
    pytest.importorskip("scipy", reason="the [eval] extra is not installed")
    monkeypatch.setenv("NEXUS_API_KEY", TOKEN)
    recipe = ServeRecipe(engine="llama.cpp", kv_cache_gib=0.05)
    model = read_model(folder, name="tiny", engine="llama.cpp")
    limits = SupervisorLimits()
    with running_server(model, engine_command(model, recipe), recipe=recipe, limits=limits, admin_token=TOKEN) as one:
        yield one


def task(place: Path, items: int) -> str:
    lines = ["task: letters", 'prompt: "{{ question }}"', "max_new_tokens: 2", "scorer: {type: contains}", "items:"]
    lines += [f"  - {{question: Say {number}., target: nobody says this}}" for number in range(items)]
    place.write_text("\n".join(lines) + "\n")
    return str(place)


@contextmanager
def command_that_ends_when_it_is_asked_back(root: Path) -> Iterator[None]:
    """As a `nexus deploy` that is just through its last step, or killed: it turns nothing back any more."""
    (place,) = (root / "runs" / "deploy").iterdir()
    folder, holds = RolloutFolder(place), threading.Event()

    def drive() -> None:
        with folder.locked():
            holds.set()
            until = time.monotonic() + 30
            while not folder.is_asked_back() and time.monotonic() < until:
                time.sleep(0.01)

    thread = threading.Thread(target=drive)
    thread.start()
    holds.wait(30)
    yield
    thread.join()


def test_a_model_is_deployed_checked_and_turned_back(
    server: RunningServer, folder: Path, tmp_path: Path, nexus: Nexus
) -> None:
    second = Path(shutil.copytree(folder, tmp_path / "second"))
    words = ["--url", server.url, "--root", str(tmp_path), "--json"]
    quick = ["--canary-seconds", "0", "--bake-seconds", "0"]
    first = nexus("deploy", str(folder), *quick, "--check", task(tmp_path / "many.yaml", 50), *words)
    assert first.code == 0, first.err
    done = json.loads(first.out)
    assert done["status"] == "done"
    assert done["steps"]["check"]["verdict"] == "pass"
    assert done["cold_start"]["load_seconds"] > 0
    # Five items decide nothing: the old model stays, and the exit code says that nobody knows.
    unsure = nexus("deploy", str(second), *quick, "--check", task(tmp_path / "few.yaml", 5), *words)
    assert unsure.code == 4, unsure.err
    assert json.loads(unsure.out)["status"] == "rolled_back"
    assert unsure.err.splitlines()[-2].startswith(f"error: {second} was turned back: green's answers")
    sure = nexus("deploy", str(second), *quick, "--check", task(tmp_path / "many.yaml", 50), *words)
    assert sure.code == 0, sure.err
    with command_that_ends_when_it_is_asked_back(tmp_path):
        back = nexus("rollback", *words)
    assert back.code == 0, back.err
    assert json.loads(back.out)["steps"]["rollback"]["how"] == "blue was loaded again"
    again = nexus("rollback", *words)
    assert again.code == 2
    assert "no rollout" in json.loads(again.out)["error"]["what"]


def test_another_template_than_the_packages_never_gets_traffic(
    server: RunningServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nexus: Nexus
) -> None:
    from nexus_llm.package import template_parity

    spelled = template_parity.trained_prompt
    monkeypatch.setattr(template_parity, "trained_prompt", lambda *given: (found := spelled(*given)) and [*found, 1])
    words = ["--url", server.url, "--root", str(tmp_path), "--json"]
    done = nexus("deploy", str(folder), *words)
    assert done.code == 3, done.err
    assert "token ids of 'one question'" in json.loads(done.out)["reason"]


def test_what_costs_money_is_agreed_to_and_wrong_words_are_named(tmp_path: Path, nexus: Nexus) -> None:
    assert nexus("deploy", "m", "--to", "mars").code == 2
    lacking = nexus("deploy", "m", "--to", "ecs", "--root", str(tmp_path))
    assert "runs/aws/nexus-small/platform.json cannot be read" in lacking.err
    misspelt = nexus("deploy", "m", "--check", str(tmp_path / "no.yaml"), "--root", str(tmp_path), "--dry-run")
    assert misspelt.code != 0
    assert "no.yaml" in misspelt.err
    platform = tmp_path / "runs" / "aws" / "nexus-small"
    platform.mkdir(parents=True)
    told = {"region": "eu-central-1", "models_bucket": "models"}
    (platform / "platform.json").write_text(json.dumps(told))
    asked = nexus("deploy", "m", "--to", "sagemaker", "--endpoint", "chat", "--root", str(tmp_path), "--json")
    assert asked.code == 2
    assert "nobody agreed" in json.loads(asked.out)["error"]["what"]
    words = ["--to", "sagemaker", "--endpoint", "chat", "--root", str(tmp_path), "--dry-run", "--json"]
    planned = json.loads(nexus("deploy", "m", *words).out)
    assert planned["steps"][0] == "stage"
    assert planned["checks"] == ["golden-questions"]
    assert not (tmp_path / "runs" / "deploy").exists()


@pytest.mark.parametrize(
    ("place", "option"),
    [("ecs", "--canary-percent"), ("ecs", "--max-error-share"), ("sagemaker", "--first-token-seconds")],
)
def test_an_option_that_would_do_nothing_there_is_refused(
    place: str, option: str, tmp_path: Path, nexus: Nexus
) -> None:
    told = nexus("deploy", "m", "--to", place, option, "1", "--root", str(tmp_path))
    assert told.code == 2
    assert told.err.startswith(f"error: {option} does nothing with --to {place}\n  fix: leave it out")


def test_without_credentials_two_lines_say_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nexus: Nexus
) -> None:
    pytest.importorskip("s3fs", reason="needs the aws extra")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    platform = tmp_path / "runs" / "aws" / "nexus-small"
    platform.mkdir(parents=True)
    (platform / "platform.json").write_text('{"region": "eu-central-1", "models_bucket": "models"}')
    made = write_artifact(
        tmp_path, "package", {}, files=lambda place: {"from": str(shutil.copytree(folder, place, dirs_exist_ok=True))}
    )
    words = ["--to", "sagemaker", "--endpoint", "chat", "--root", str(tmp_path), "--yes"]
    told = nexus("deploy", str(made.folder), *words)
    assert told.code == 1
    what, fix = told.err.splitlines()
    assert what.startswith("error: s3:PutObject of s3://models: AWS does not know who asks")
    assert fix.startswith("  fix: renew the credentials")


def test_the_token_is_for_its_user_alone_and_goes_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path))
    token = AdminToken()
    token.leave("http://127.0.0.1:8123")
    (file,) = (tmp_path / "serve").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert admin_headers(8123) == {"authorization": f"Bearer {token.value}"}
    token.remove()
    assert admin_headers(8123) == {}
    monkeypatch.setenv("NEXUS_CACHE", "/proc/nowhere")  # as in a container whose disk is read-only
    AdminToken().leave("http://127.0.0.1:8123")
