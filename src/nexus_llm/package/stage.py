"""The package stage: one folder that transformers, vLLM and the serving engines read, and proof that they agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, ArtifactStore, Draft, Estimate, Stage, artifact_key
from nexus_llm.chat import ChatTokenizer
from nexus_llm.package import reference
from nexus_llm.package.card import model_card
from nexus_llm.package.divergence import Float32, log_softmax
from nexus_llm.package.equivalence import Predictions, Rows, check_equivalence, heard, held_out_rows
from nexus_llm.package.formats import PLACES, reader_of, write_format
from nexus_llm.package.gguf_write import read_metadata
from nexus_llm.package.merge import merge
from nexus_llm.package.served import ServedModel, check_served_template, check_served_text
from nexus_llm.package.template_parity import check_parity
from nexus_llm.ports import Ports
from nexus_llm.recipe import PackageRecipe, Recipe
from nexus_llm.recipe.package import Compared
from nexus_llm.weights import SINGLE_FILE

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
        facts = _package(draft, name=name, recipe=recipe.package, inputs={"model": model}, ports=ports)
        return draft.finish(facts=facts), False


def _recipe_part(recipe: Recipe) -> dict[str, Any]:
    # The name stands in the model card and in the GGUF file.
    return {"name": recipe.name, "package": recipe.package.model_dump(mode="json")}


def _outside_inputs(_recipe: Recipe, _ports: Ports) -> dict[str, str]:
    return {}


def _estimate(recipe: Recipe) -> Estimate:
    # Measured with SmolLM2-135M on 2 cores, 2026-11: 8 s and 0.9 GB for one format; the proof of one takes 15 s and as
    # much memory as the model in float32, and its predictions.
    formats = len(recipe.package.formats)
    proof = 10 * (1 + formats) if recipe.package.equivalence.tokens else 0
    return Estimate(seconds=8 + 7 * formats + proof, memory_bytes=2 << 30)


def _run(recipe: Recipe, inputs: Mapping[str, Artifact], draft: Draft, ports: Ports) -> Artifact:
    return draft.finish(facts=_package(draft, name=recipe.name, recipe=recipe.package, inputs=inputs, ports=ports))


def _package(
    draft: Draft, *, name: str, recipe: PackageRecipe, inputs: Mapping[str, Artifact], ports: Ports
) -> dict[str, Any]:
    """Fills the draft's folder from the artifacts `model` and, if there, `data` and `train`; returns the facts."""
    folder, base, trained = draft.folder, inputs["model"], inputs.get("train")
    facts = {kind: artifact.manifest.facts for kind, artifact in inputs.items()}
    license_id = str(facts["model"]["license"])
    with storage.explained(str(folder)):
        for file in _UNCHANGED:
            if (base.folder / file).exists():
                shutil.copyfile(base.folder / file, folder / file)
        _set_sampling(folder / "generation_config.json", recipe)
        weight_bytes = 2 * int(facts["model"]["parameters"])
        advance = ports.progress.advance
        ports.progress.start("merge", total=weight_bytes, unit="B")
        merged = merge(base.folder, trained.folder if trained else None, folder / SINGLE_FILE, on_bytes=advance)
        ports.progress.finish()
        formats = {}
        for format in recipe.formats:
            ports.progress.start(f"write {format}", total=weight_bytes, unit="B")
            formats[format] = write_format(
                folder, format, name=name, license_id=license_id, work=draft.work, on_bytes=advance
            )
            ports.progress.finish("every tensor is the merged one")
        package = {"merge": merged, "formats": formats, "template_parity": _parity(base.folder, folder, ports)}
        if trained is not None:
            package |= _prove(draft, recipe, inputs, ports)
        card = model_card(
            name=name,
            model=facts["model"],
            data=facts.get("data"),
            train=facts.get("train"),
            package=package,
            recipe=trained.manifest.recipe.get("train") if trained else None,
        )
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
    sizes = {"safetensors": (folder / SINGLE_FILE).stat().st_size}
    sizes |= {format: written["bytes"] for format, written in formats.items()}
    return {**package, "bytes": sizes, "base": facts["model"]["base"], "license": license_id}


def _parity(trainer: Path, folder: Path, ports: Ports) -> dict[str, Any]:
    ports.progress.start("compare chat templates", total=None, unit="conversations")
    written = [folder / place for place in PLACES.values() if place.endswith(".gguf") and (folder / place).exists()]
    parity = check_parity(trainer, folder, read_metadata(written[0]) if written else None)
    ports.progress.finish(f"{parity['conversations']} conversations, {1 + len(parity['equal_to'])} readers agree")
    return parity


def _prove(draft: Draft, recipe: PackageRecipe, inputs: Mapping[str, Artifact], ports: Ports) -> dict[str, Any]:
    """The facts `equivalence` and, where a server can be started here, `served`.

    Raises:
        PackagingError: something that reads the package does not read the trained model.
    """
    rows = held_out_rows(inputs["data"].folder, tokens=recipe.equivalence.tokens)
    if reason := _why_not_proved(recipe, rows, inputs):
        return {"equivalence": {"not_measured": reason}}
    known, facts = _compare_predictions(draft.folder, recipe, rows, inputs, ports)
    engines = [reader_of(format, draft.folder) for format in recipe.formats]
    engine = "openvino" if "openvino" in engines else next(iter(engines), None)
    if engine is None or ports.package_reader.why_not("server") or ports.package_reader.why_not(engine):
        return {"equivalence": facts}
    tokenizer = ChatTokenizer.load(inputs["model"].folder)
    ports.progress.start("ask the server", total=None, unit="rows")
    with ports.package_reader.server(draft.folder, engine) as url, ServedModel(url) as server:
        conversations = check_served_template(server, tokenizer)
        text = check_served_text(server, known, rows, tokenizer, recipe.equivalence.served)
    ports.progress.finish(f"{conversations} conversations and {len(rows)} texts agree")
    return {"equivalence": facts, "served": {"engine": engine, "conversations": conversations, **text}}


def _why_not_proved(recipe: PackageRecipe, rows: Rows, inputs: Mapping[str, Artifact]) -> str | None:
    if not recipe.equivalence.tokens:
        return "package.equivalence.tokens is 0"
    if not rows:
        return "the data has no held-out documents"
    return reference.why_not(int(inputs["model"].manifest.facts["parameters"]))


def _compare_predictions(
    folder: Path, recipe: PackageRecipe, rows: Rows, inputs: Mapping[str, Artifact], ports: Ports
) -> tuple[list[Float32], dict[str, Any]]:
    """The trained model's predictions, and how far those of the merged and of each format are from them."""
    reader, skipped, others = ports.package_reader, dict[str, str](), dict[Compared, Predictions]()
    others["merged"] = lambda: reference.predictions(folder, rows)
    for format in recipe.formats:
        engine = reader_of(format, folder)
        if why := reader.why_not(engine):
            skipped[format] = why
        else:
            others[format] = lambda weights=folder / PLACES[format], engine=engine: map(  # type: ignore[misc]
                log_softmax, reader.predictions(engine, weights, rows)
            )
    total = sum(map(len, rows)) * (1 + len(others))
    ports.progress.start("compare with the trained model", total=total, unit="tokens")
    trained = reference.predictions(inputs["model"].folder, rows, trained=inputs["train"].folder)
    known = list(heard(trained, rows, ports.progress.advance))
    facts = check_equivalence(known, others, rows, recipe.equivalence, on_tokens=ports.progress.advance)
    ports.progress.finish(", ".join(f"{name} {one['mean_kl']:.2g}" for name, one in facts.items()) + " nats")
    return known, {**facts, **{format: {"not_measured": why} for format, why in skipped.items()}}


def _set_sampling(path: Path, recipe: PackageRecipe) -> None:
    chosen = {name: value for name in ("temperature", "top_p") if (value := getattr(recipe, name)) is not None}
    if chosen:
        values = json.loads(path.read_text(encoding="utf-8")) | chosen | {"do_sample": recipe.temperature != 0}
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


STAGE = Stage(
    kind="package",
    version=3,  # 2: the GGUF file names what ends a turn; 3: the proof of equivalence stands in facts and card
    needs=("model", "data", "train"),
    recipe_part=_recipe_part,
    outside_inputs=_outside_inputs,
    run=_run,
    estimate=_estimate,
)
