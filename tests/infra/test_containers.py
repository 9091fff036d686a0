"""What the images' recipes promise: nobody is root without a reason, nothing floats, nothing secret lies inside."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"
DOCKERFILES = sorted(CONTAINERS.glob("*/Dockerfile"))
ROOT_IS_EXPLAINED = re.compile(r"^# checkov:skip=CKV_DOCKER_3:.{30,}$", re.MULTILINE)
SECRET = re.compile(r"(?i)^(ARG|ENV)\b.*(password|secret|token|api_key|access_key|credential)", re.MULTILINE)


def instructions(text: str, word: str) -> list[str]:
    joined = text.replace("\\\n", " ")
    return re.findall(rf"^{word} (.+)$", joined, re.MULTILINE)


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile."""
    found = []
    arguments = dict(one.split("=", 1) for one in instructions(text, "ARG") if "=" in one)
    stages = {one.partition(" AS ")[2] for one in instructions(text, "FROM")}
    for image in (one.partition(" AS ")[0] for one in instructions(text, "FROM")):
        resolved = re.sub(r"\$\{(\w+)\}", lambda name: arguments.get(name[1], ""), image)
        if resolved not in stages and not re.search(r"(:(?!latest)[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})$", resolved):
            found.append(f"{resolved} is no fixed version")
    last = text[text.rindex("\nFROM ") :]
    users = instructions(last, "USER")
    if not (users and re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1])) and not ROOT_IS_EXPLAINED.search(text):
        found.append("root, or a user without a number, and no reason for it")
    entry = instructions(last, "ENTRYPOINT")
    if not entry or not isinstance(json.loads(entry[-1]) if entry[-1].startswith("[") else None, list):
        found.append("the entry point is no list of words: a shell would keep the signals")
    found += [f"{one}: a secret would stay in the image" for one in SECRET.findall(text)]
    found += [f"COPY {one}: everything that lies there" for one in instructions(text, "COPY") if one.startswith(". ")]
    if instructions(text, "ADD"):
        found.append("ADD fetches and unpacks what nobody has looked at: COPY")
    return found


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_is_fixed_not_root_and_without_secrets(file: Path) -> None:
    assert faults(file.read_text(encoding="utf-8")) == []


def test_each_fault_of_an_image_is_found() -> None:
    sound = (CONTAINERS / "serve" / "Dockerfile").read_text(encoding="utf-8")
    for before, after in (
        ("3.11-slim-bookworm", "latest"),
        ("USER 10001:10001", "USER root"),
        ("USER 10001:10001", ""),
        ('ENTRYPOINT ["python", "-m", "nexus_llm.cli"]', "ENTRYPOINT python -m nexus_llm.cli"),
        ("WORKDIR /scratch", "ENV HF_TOKEN=x"),
        ("COPY src /source/src", "COPY . /source"),
        ("COPY src /source/src", "ADD https://example.com/a.tar.gz /source"),
    ):
        assert before in sound
        assert faults(sound.replace(before, after)) != [], after


def test_the_train_image_has_what_the_pipeline_s_steps_ask_for() -> None:
    from nexus_llm.cli.processing_job import STAGES
    from nexus_llm.cli.train_job import COMMAND
    from nexus_llm.cloud.sagemaker_pipeline import pipeline_definition
    from nexus_llm.recipe import Recipe

    text = (CONTAINERS / "train" / "Dockerfile").read_text(encoding="utf-8")
    last = text[text.rindex("\nFROM ") :]
    (extras,) = [one.partition("=")[2].split(",") for one in instructions(last, "ARG") if one.startswith("EXTRAS=")]
    assert json.loads(instructions(last, "ENTRYPOINT")[0])[1:] == list(COMMAND[1:3])  # the word comes with the job
    jobs = {"bucket": "b", "role_arn": "arn:aws:iam::123456789012:role/r", "image_uri": "train:1"}
    source = {"type": "files", "path": "s3://b/text/", "name": "own"}
    recipe = {"name": "demo", "data": {"sources": [source]}, "train": {"launcher": "sagemaker", "sagemaker": jobs}}
    steps = pipeline_definition(Recipe.model_validate(recipe))["Steps"]
    words = [one["Arguments"]["AppSpecification"]["ContainerArguments"] for one in steps if one["Type"] == "Processing"]
    assert sorted(words) == sorted([one] for one in STAGES)
    # Which extra's packages each step imports; the data step reads s3:// by itself.
    asked = {"data": {"aws"}, "package": {"train"}, "evaluate": {"train"}, "train": {"train"}}
    assert set(asked) == {"train", *STAGES}
    assert set().union(*asked.values()) <= set(extras)


def package(name: str, version: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "version": version, **more}}


def test_the_list_of_packages_is_sorted_and_the_same_each_time() -> None:
    made = runpy.run_path(str(CONTAINERS / "sbom.py"))["bill_of_materials"]
    hashed = {"download_info": {"archive_info": {"hashes": {"sha256": "ab" * 32}}}}
    packages = [
        package("PyYAML", "6.0.2", license="MIT"),
        package("flit_core", "3.12.0", license="Copyright\nall of it", license_expression="BSD-3-Clause") | hashed,
    ]
    document = made(packages, name="nexus/serve", version="1")
    assert document == made(reversed(packages), name="nexus/serve", version="1")
    first, second = document["components"]
    assert first["purl"] == "pkg:pypi/flit-core@3.12.0"
    assert first["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert first["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert (second["name"], second["licenses"]) == ("pyyaml", [{"license": {"name": "MIT"}}])


def test_pips_own_words_become_a_list_that_holds_our_package_and_what_it_needs() -> None:
    said = subprocess.run([sys.executable, "-m", "pip", "inspect"], capture_output=True, text=True, check=True)
    words = [sys.executable, str(CONTAINERS / "sbom.py"), "nexus/serve", "1"]
    done = subprocess.run(words, input=said.stdout, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["bomFormat"] == "CycloneDX"
    assert {"nexus-llm-platform", "pydantic", "numpy"} <= {one["name"] for one in document["components"]}
    references = [one["bom-ref"] for one in document["components"]]
    assert len(references) == len(set(references))
