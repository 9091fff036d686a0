"""Every module and stage of infra/ keeps the house's rules and passes its own tests with a mocked provider."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from terraform_here import INFRA, TESTED, binary, copy_of_infra, run

FOLDERS = sorted(
    str(one.parent.relative_to(INFRA)) for one in INFRA.glob("*/*/versions.tf") if "tests" not in one.parts[-3]
)
MAX_VARIABLES = 15
# test_platform.py runs this one's suite, for the state that its controls look at.
ELSEWHERE = "stages/1-platform"
BLOCK = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary()
    return copy_of_infra(tmp_path_factory.mktemp("modules"))


@pytest.mark.timeout(1200)  # minutes on a busy machine
@pytest.mark.parametrize("folder", [one for one in TESTED if one != ELSEWHERE])
def test_a_module_passes_its_own_tests(copy: Path, folder: str) -> None:
    done = run(copy / folder, "test", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_module_is_small_described_and_tested(folder: str) -> None:
    text = "\n".join(one.read_text(encoding="utf-8") for one in sorted((INFRA / folder).glob("*.tf")))
    blocks = BLOCK.findall(text)
    assert folder.startswith("stages/") or sum(kind == "variable" for kind, _, _ in blocks) <= MAX_VARIABLES
    assert [
        name for _, name, body in blocks if not re.search(r'^  description = (".{10,}"|<<-\w+$)', body, re.MULTILINE)
    ] == []
    assert is_tested(folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_is_left_to_chance_and_no_provider_is_configured_in_a_module(folder: str) -> None:
    for file in (INFRA / folder).glob("*.tf"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\b(random_\w+|name_prefix|bucket_prefix|timestamp\(\)|uuid\(\))", text), file.name
        assert folder.startswith("stages/") or "\nprovider " not in f"\n{text}", file.name


def is_tested(folder: str) -> bool:
    """Whether a module has tests of its own, or a suite of several modules runs it; stages are planned elsewhere."""
    suites = "".join(one.read_text(encoding="utf-8") for one in sorted((INFRA / "tests").rglob("*.tftest.hcl")))
    return folder in TESTED or folder.startswith("stages/") or f'{folder}"' in suites


def test_infra_is_formatted() -> None:
    command = [binary(), "fmt", "-check", "-recursive", str(INFRA)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == ""
