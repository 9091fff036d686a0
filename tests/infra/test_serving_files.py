"""The files of serving and delivery as they lie: variables, image, the engine's flags."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
MODULES = sorted((INFRA / "modules").glob("serving-*")) + sorted((INFRA / "modules").glob("delivery-*"))
STAGES = [INFRA / "stages" / "2-serving", INFRA / "stages" / "3-delivery"]
BLOCK = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)
DOCKERFILE = (ROOT / "containers" / "serve" / "Dockerfile").read_text(encoding="utf-8")


def blocks(folder: Path, kind: str) -> dict[str, str]:
    text = (folder / f"{kind}s.tf").read_text(encoding="utf-8")
    return {name: body for found, name, body in BLOCK.findall(text) if found == kind}


@pytest.mark.parametrize("folder", MODULES, ids=lambda path: path.name)
def test_a_module_has_few_variables_and_explains_each(folder: Path) -> None:
    variables = blocks(folder, "variable")
    assert 1 <= len(variables) <= 15
    assert "platform" in variables
    assert any("validation {" in body for body in variables.values())
    for kind in ("variable", "output"):
        for name, body in blocks(folder, kind).items():
            assert re.search(r"^  description = (\"\S.+\"|<<-END)$", body, re.MULTILINE), name


@pytest.mark.parametrize("folder", STAGES, ids=lambda path: path.name)
def test_a_stage_explains_its_variables_and_writes_one_document(folder: Path) -> None:
    assert all("description" in body for body in blocks(folder, "variable").values())
    assert len(blocks(folder, "output")) == 1
    assert (folder / "README.md").is_file()


def test_no_name_is_random() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for folder in MODULES + STAGES for path in folder.glob("*.tf"))
    assert not re.search(r"random_|uuid\(|timestamp\(|name_prefix|bucket_prefix", text)


def test_every_skip_of_a_policy_check_has_a_reason() -> None:
    skips = [
        line.strip()
        for path in sorted([*INFRA.rglob("*.tf"), *(ROOT / "containers").glob("*/Dockerfile")])
        if ".terraform" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if "checkov:skip" in line
    ]
    assert len(skips) > 50
    assert [line for line in skips if not re.fullmatch(r"# checkov:skip=CKV2?_(AWS|DOCKER)_\d+:.{12,}", line)] == []


def test_the_image_is_not_root_and_gets_its_signals() -> None:
    task = (INFRA / "modules" / "serving-service" / "containers.tf").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert f'user = "{user}"' in task, "the task and the image name different users"
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
    assert json.loads(entry) == ["python", "-m", "nexus_llm.cli"]
    assert 'VOLUME ["/model", "/scratch"]' in DOCKERFILE
    assert not re.search(r"(?i)(secret|password|token)=", DOCKERFILE)


def test_what_the_containers_start_exists() -> None:
    task = (INFRA / "modules" / "serving-service" / "containers.tf").read_text(encoding="utf-8")
    (module,) = re.findall(r'"python", "-m", "(nexus_llm[\w.]+)"', task)
    assert importlib.util.find_spec(module)
    from nexus_llm.cli import serve

    text = Path(serve.__file__).read_text(encoding="utf-8")
    for option in ("drain_seconds", "log_level", "host", "port", "name"):
        assert f"    {option}: " in text


def test_vllm_is_started_with_the_words_of_the_serve_code() -> None:
    name = "nexus_llm.serve.engines.vllm_protocol"
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"NOT TESTED: {name} is not in this tree, so nothing says whether the flags agree")
    vllm_arguments = importlib.import_module(name).vllm_arguments
    expected = vllm_arguments(
        "/model",
        port=8001,
        served_name="<name>",
        max_running=64,
        context_tokens=8192,
        quantization="fp8",
        more=("--x",),
    )
    text = (INFRA / "modules" / "serving-service" / "engine.tf").read_text(encoding="utf-8")
    command = text[text.index("command = concat(") : text.index("# The image's own user")]
    values = {
        "tostring(local.engine_port)": "8001",
        "var.model.name": "<name>",
        "tostring(var.engine.max_running)": "64",
        "tostring(var.engine.gpu_memory_share)": "0.9",
        "tostring(var.engine.gpus)": "1",
        "tostring(var.engine.context_tokens)": "8192",
        "var.engine.quantization": "fp8",
    }
    words: list[str] = []
    for listed in re.findall(r"\[((?:\"|var|tostring)[^\]]*)\]", command):
        words += [values.get(word.strip(), word.strip().strip('"')) for word in listed.split(",")]
    assert [*words, "--x"] == expected
