"""The package stage: one folder that transformers, vLLM and the serving engine read, and proof that they agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, ArtifactStore, Draft, Estimate, Stage, artifact_key
from nexus_llm.package.card import model_card
from nexus_llm.package.gguf_write import read_metadata, write_gguf
from nexus_llm.package.merge import merge
from nexus_llm.package.template_parity import check_parity
from nexus_llm.ports import Ports
from nexus_llm.recipe import PackageRecipe, Recipe
from nexus_llm.weights import SINGLE_FILE

GGUF_FILE = "model-q8_0.gguf"
CARD_FILE = "README.md"
# Taken over from the base model as they are; a base without a template has no such file.
_UNCHANGED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "LICENSE",
)


def package_base(model: Artifact, ports: Ports, *, provenance: Mapping[str, Any]) -> tuple[Artifact, bool]:
    """An untrained base model, packaged so that it can be served, and whether it was in the cache already.

    Raises:
        PackagingError: the serving engine could not read it faithfully.
    """
    recipe = Recipe(name="base")
    part = _recipe_part(recipe)
    key = artifact_key(STAGE.kind, stage_version=STAGE.version, recipe=part, inputs={"model": model.key})
    store, inputs = ArtifactStore(ports.cache / "artifacts"), {"model": model.id}
    if found := store.find(STAGE.kind, key, inputs=inputs):
        return found, True
    with store.draft(
        STAGE.kind, key, stage_version=STAGE.version, recipe=part, inputs=inputs, provenance=dict(provenance)
    ) as draft:
        name = str(model.manifest.facts["base"])
        facts = _package(draft.folder, name=name, recipe=recipe.package, inputs={"model": model}, ports=ports)
        return draft.finish(facts=facts), False


def _recipe_part(recipe: Recipe) -> dict[str, Any]:
    # The name stands in the model card and in the GGUF file.
    return {"name": recipe.name, "package": recipe.package.model_dump(mode="json")}


def _outside_inputs(_recipe: Recipe, _ports: Ports) -> dict[str, str]:
    return {}


def _estimate(_recipe: Recipe) -> Estimate:
    # Measured with SmolLM2-135M on 2 cores, 2026-11: 8 s and 0.9 GB.
    return Estimate(seconds=15, memory_bytes=1 << 30)


def _run(recipe: Recipe, inputs: Mapping[str, Artifact], draft: Draft, ports: Ports) -> Artifact:
    facts = _package(draft.folder, name=recipe.name, recipe=recipe.package, inputs=inputs, ports=ports)
    return draft.finish(facts=facts)


def _package(
    folder: Path, *, name: str, recipe: PackageRecipe, inputs: Mapping[str, Artifact], ports: Ports
) -> dict[str, Any]:
    """Fills `folder` from the artifacts `model` and, if there, `data` and `train`; returns the facts."""
    base, trained = inputs["model"], inputs.get("train")
    facts = {kind: artifact.manifest.facts for kind, artifact in inputs.items()}
    license_id = str(facts["model"]["license"])
    with storage.explained(str(folder)):
        for file in _UNCHANGED:
            if (base.folder / file).exists():
                shutil.copyfile(base.folder / file, folder / file)
        _set_sampling(folder / "generation_config.json", recipe)
        weight_bytes = 2 * int(facts["model"]["parameters"])
        ports.progress.start("merge", total=weight_bytes, unit="B")
        merged = merge(
            base.folder, trained.folder if trained else None, folder / SINGLE_FILE, on_bytes=ports.progress.advance
        )
        ports.progress.finish()
        ports.progress.start("quantise to Q8_0", total=weight_bytes, unit="B")
        gguf = folder / GGUF_FILE
        write_gguf(folder, gguf, name=name, license_id=license_id, on_bytes=ports.progress.advance)
        ports.progress.finish()
        ports.progress.start("compare chat templates", total=None, unit="conversations")
        parity = check_parity(base.folder, folder, read_metadata(gguf))
        ports.progress.finish(f"{parity['conversations']} conversations, {1 + len(parity['equal_to'])} readers agree")
        package = {"merge": merged, "template_parity": parity}
        card = model_card(
            name=name, model=facts["model"], data=facts.get("data"), train=facts.get("train"), package=package
        )
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        sizes = {file: (folder / file).stat().st_size for file in (SINGLE_FILE, GGUF_FILE)}
    return {**package, "bytes": sizes, "base": facts["model"]["base"], "license": license_id}


def _set_sampling(path: Path, recipe: PackageRecipe) -> None:
    chosen = {name: value for name in ("temperature", "top_p") if (value := getattr(recipe, name)) is not None}
    if chosen:
        values = json.loads(path.read_text(encoding="utf-8")) | chosen | {"do_sample": recipe.temperature != 0}
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


STAGE = Stage(
    kind="package",
    version=2,  # 2: the GGUF file names what ends a turn
    needs=("model", "data", "train"),
    recipe_part=_recipe_part,
    outside_inputs=_outside_inputs,
    run=_run,
    estimate=_estimate,
)
