"""The terraform commands of infra's READMEs: each that plans is planned, and each of the others names what there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infrastructure_plans import ENVIRONMENTS, Command, commands, plans
from terraform_here import INFRA

READMES = sorted(one for one in INFRA.rglob("README.md") if ".terraform" not in one.parts)
COMMANDS = [(readme, command) for readme in READMES for command in commands(readme)]
FOLDERS = {
    folder.name: folder for folder in (*INFRA.glob("stages/*"), *INFRA.glob("modules/*"), *INFRA.glob("tests/*"))
}


def declared(command: Command, kind: str) -> set[str]:
    text = "\n".join(one.read_text(encoding="utf-8") for one in sorted(FOLDERS[command.stage].glob("*.tf")))
    return set(re.findall(rf'^{kind} "(\w+)"', text, re.MULTILINE))


@pytest.mark.xdist_group("infrastructure_plans")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(plans()))
def test_a_command_that_a_readme_shows_plans_something(planned: Callable[[str], dict[str, Any]], name: str) -> None:
    document = planned(name)
    assert not document.get("errored")
    assert len(document["resource_changes"]) > 5


def test_every_command_that_plans_is_planned() -> None:
    made = {(command.stage, tuple(sorted(command.options))) for command in plans().values()}
    shown = [(readme, one) for readme, one in COMMANDS if one.words[0] in ("plan", "apply", "destroy") and one.options]
    assert len(shown) == 11
    unplanned = [
        f"{readme.relative_to(INFRA)}: {one}"
        for readme, one in shown
        if (one.stage, tuple(sorted(one.options))) not in made
    ]
    assert unplanned == []


@pytest.mark.parametrize(("readme", "command"), COMMANDS, ids=lambda value: getattr(value, "stage", None))
def test_a_command_names_what_there_is(readme: Path, command: Command) -> None:
    folder = FOLDERS[command.stage]
    for option in command.options:
        name, _, value = option.removeprefix("-").partition("=")
        if name == "var":
            assert value.partition("=")[0] in declared(command, "variable")
        elif "/" in value:
            assert (folder / value).is_file()
    if command.words[0] == "output":
        assert command.words[-1] in declared(command, "output")
    if any(word.startswith("-backend-config") for word in command.words):
        assert "backend.hcl" in " ".join(command.words)
        assert 'backend "s3"' in (folder / "versions.tf").read_text(encoding="utf-8")


def test_every_environment_has_files_for_both_stages_and_a_readme_that_uses_them() -> None:
    assert {folder.name for folder in (INFRA / "environments").iterdir()} == set(ENVIRONMENTS)
    for name in ENVIRONMENTS:
        text = (INFRA / "environments" / name / "README.md").read_text(encoding="utf-8")
        for file in ("platform.tfvars", "serving.tfvars"):
            assert (INFRA / "environments" / name / file).is_file()
            assert f"../../environments/{name}/{file}" in text
