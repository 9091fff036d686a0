from __future__ import annotations

from typing import Any

import pytest
import typer

from nexus_llm.cli.cost_calibrate import calibrate, server_measure
from nexus_llm.errors import NexusError, ServingError, UsageError


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command("calibrate")(calibrate)
    app.command("other")(lambda: None)
    return app(["calibrate", *arguments], standalone_mode=False)


def test_a_dry_run_counts_the_requests_and_sends_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("http://127.0.0.1:9", "--dry-run", "--concurrency", "1,2", "--repeats", "5") == 0
    told = capsys.readouterr().out
    assert "6 points to fit, 6 to predict" in told
    assert "5 times" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--concurrency", "1,x"), "--concurrency '1,x' is no list"),
        (("--input-tokens", "0"), "--input-tokens '0' is no list"),
        (("--out", "/nowhere/at/all.json"), "there is no folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_sent(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run("http://127.0.0.1:9", *arguments)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ServingError, match="nothing answers"):
        run("http://127.0.0.1:9")


def test_an_address_with_a_password_in_it_is_refused_and_not_repeated() -> None:
    with pytest.raises(NexusError) as caught:
        server_measure("http://me:hunter2@127.0.0.1:9", None, api_key="none")
    assert "hunter2" not in f"{caught.value.what}{caught.value.fix}"
