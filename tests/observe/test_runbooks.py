"""Every page's commands of AWS exist, and those that a laptop can run do what they say against a real gateway.

That its `nexus` commands are taken by the command line: tests/docs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from documented_commands import commands
from nexus_llm.observe.contract import broken, recorded_by, shipped
from nexus_llm.observe.objectives import prometheus_rules
from nexus_llm.observe.runbooks import Block, Runbook, code_blocks, looks, read_runbook

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
PAGES = [path for path in sorted(RUNBOOKS.glob("*.md")) if path.stem != "index"]
SECTIONS = ("Symptom", "Look", "Act", "Check")
# What a reader finds in a part, besides words.
EXAMPLES = {"Look": {"bash", "promql", "logs"}, "Act": {"bash"}, "Check": {"bash"}}
# The AWS command line's own, beside what its services' models have.
GLOBAL = {"region", "output", "query", "profile", "no-paginate", "max-items", "page-size"}


def page(path: Path) -> Runbook:
    return read_runbook(path)


def emitted() -> Any:
    found = shipped()
    found["prometheus"] |= recorded_by(prometheus_rules())
    return found


def blocks(path: Path) -> list[Block]:
    return list(code_blocks(path.read_text(encoding="utf-8")))


ALL = [
    (path, words)
    for path in (RUNBOOKS / "index.md", RUNBOOKS.parent / "recovery.md", *PAGES)
    for block in blocks(path)
    for words in commands(block.text, "aws")
    if words[:2] != ["aws", "s3"]  # its own commands, which no model describes
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_has_its_four_parts_and_names_what_is_emitted(path: Path) -> None:
    one = page(path)
    assert one.sections == SECTIONS
    assert broken(looks(one), emitted()) == []
    assert {block.language for block in one.blocks} <= {"bash", "promql", "logs"}
    text = path.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(one.blocks), "an example without a language is looked at by nobody"
    parts = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    for name, languages in EXAMPLES.items():
        assert any(block.language in languages for block in code_blocks(parts[name])), f"{name} shows nothing to type"
    for block in one.blocks:
        if block.language == "logs":
            assert re.search(r'event = "[a-z.]+_?[a-z]*"', block.text), f"{path.name}:{block.line} picks no event"


@pytest.mark.parametrize(
    ("language", "query", "said"),
    [
        ("promql", "rate(vlm:request_queue_time_seconds_bucket[5m])", "vlm:request_queue_time_seconds_bucket, which"),
        ("promql", "sum by (colour) (nexus_engine_up offset 1h)", "colour"),
        ("logs", 'filter event = "engine.dead"', "engine.dead, which nothing emits"),
        ("logs", 'filter event = "engine.died" | stats count(*) as n by errorCode', "errorCode"),
    ],
)
def test_a_query_that_looks_at_nothing_is_told(language: str, query: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"---\nalarms: []\n---\n## Look\n\n```{language}\n{query}\n```\n")
    (told,) = broken(looks(page(tmp_path / "page.md")), emitted())
    assert said in told


def test_a_metric_that_any_page_names_in_words_is_emitted() -> None:
    known = emitted()["prometheus"]
    for path in RUNBOOKS.parent.rglob("*.md"):
        for name in re.findall(r"\b(?:vllm:|nexus_(?!llm))\w+", path.read_text(encoding="utf-8")):
            assert any(one.startswith(name) for one in known), f"{path.name}: {name}"


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([a-z-]+)\.md\)", (RUNBOOKS / "index.md").read_text(encoding="utf-8")))
    assert linked == {path.stem for path in PAGES}


def test_there_are_commands_to_check() -> None:
    assert len(ALL) > 20


@pytest.mark.parametrize(("path", "words"), ALL, ids=lambda value: getattr(value, "stem", None) or " ".join(value)[:60])
def test_an_aws_command_is_an_operation_with_its_parameters(path: Path, words: list[str]) -> None:
    botocore_session = pytest.importorskip("botocore.session", reason="needs the aws extra")
    from botocore import xform_name

    aliases = {"deploy": "codedeploy", "s3api": "s3"}
    model = botocore_session.Session().get_service_model(aliases.get(words[1], words[1]))
    operations = {xform_name(name, "-"): name for name in model.operation_names}
    assert words[2] in operations, f"{path.name}: aws {words[1]} has no {words[2]}"
    shape = model.operation_model(operations[words[2]]).input_shape
    members = {xform_name(name, "-") for name in shape.members}
    given = {word[2:] for word in words[3:] if word.startswith("--")}
    unknown = {one for one in given if one not in members | GLOBAL and one.removeprefix("no-") not in members}
    assert unknown == set(), f"{path.name}: {' '.join(words)}"
    for name, member in shape.members.items():
        values = words[words.index(f"--{xform_name(name, '-')}") + 1 :] if xform_name(name, "-") in given else []
        known = getattr(getattr(member, "member", member), "enum", None)
        if known and values:
            assert values[0] in known, f"{path.name}: {values[0]} is none of {known}"
    missing = {xform_name(name, "-") for name in shape.required_members} - given
    assert missing == set(), f"{path.name}: {' '.join(words)}"


def test_what_a_laptop_can_run_runs_against_a_real_gateway(echo_model: Any, tmp_path: Path) -> None:
    from nexus_llm.recipe import KeysRecipe, ServeRecipe
    from nexus_llm.serve.access.database import open_database
    from nexus_llm.serve.access.key_store import create_key
    from nexus_llm.serve.engines.process import EngineCommand
    from running_server import running_server

    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    place = str(tmp_path / "keys.db")
    key, _ = create_key(open_database(place), "on-call", is_admin=True)
    script = ["set -euo pipefail", f'nexus() {{ "{sys.executable}" -m nexus_llm.cli "$@"; }}']
    script.append(f'python() {{ "{sys.executable}" "$@"; }}')
    seen = set()  # a block that stands on several pages runs once
    for path in (RUNBOOKS / "index.md", *PAGES):
        for block in blocks(path):
            if block.language == "bash" and block.why_not_run is None and block.text not in seen:
                seen.add(block.text)
                script.append(f'echo "== {path.name}:{block.line}" >&2\n{block.text}')
    recipe = ServeRecipe(keys=KeysRecipe(database=place))
    with running_server(echo_model, EngineCommand("fake", {"end_token_id": 2}), recipe=recipe) as server:
        environment = {**os.environ, "GATEWAY": server.url, "NEXUS_DATABASE": place}
        environment |= {"NEXUS_API_KEY": key, "OPENAI_API_KEY": key}
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 'nexus_requests_total{model_name="echo",outcome="other"}' in done.stdout
    assert "revoked leaked" in done.stdout
    assert "no 5xx, no stream that breaks off" in done.stdout
