"""The formats of a package: which file each is, who reads it, and how it is made from the merged folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from nexus_llm import gguf_format
from nexus_llm.package.gguf_write import write_gguf
from nexus_llm.package.openvino_ir import write_ir
from nexus_llm.package.tensor_types import GgufFormat
from nexus_llm.package.weight_check import check_gguf
from nexus_llm.recipe.package import Format

PLACES: dict[Format, str] = {
    "gguf-f16": "model-f16.gguf",
    "gguf-q8_0": "model-q8_0.gguf",
    "gguf-q4_k_m": "model-q4_k_m.gguf",
    "openvino-f16": "openvino-f16",
    "openvino-int8": "openvino-int8",
}
"""Format → its file, or its folder, in the package. The server looks for these names."""
_MADE_FROM: dict[Format, GgufFormat] = {"openvino-f16": "gguf-f16", "openvino-int8": "gguf-q8_0"}


def reader_of(format: Format, folder: Path) -> Literal["openvino", "llama.cpp"]:
    """The engine of the server that reads this format of the model in `folder`.

    OpenVINO GenAI 2026.4.1 reads neither Q5_0 nor a GGUF file's rope scaling, and rounds an F16 one's rotary
    frequencies (docs/packaging.md).
    """
    if format.startswith("openvino"):
        return "openvino"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    is_scaled = gguf_format.rope_scaling(config) is not None
    return "openvino" if format == "gguf-q8_0" and not is_scaled else "llama.cpp"


def write_format(
    folder: Path,
    format: Format,
    *,
    name: str,
    license_id: str,
    work: Path,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes one format beside the merged weights in `folder` and checks every tensor; says what was found.

    `work` is a folder for scratch. `on_bytes` hears how many bytes of weights were read.

    Raises:
        PackagingError: the format cannot hold this model, or a tensor is not the one that was merged.
        MissingExtraError: what writes this format is not installed.
    """
    gguf = _MADE_FROM.get(format, format)
    file = folder / PLACES[gguf]
    if not file.exists():
        if format in _MADE_FROM:
            work.mkdir(parents=True, exist_ok=True)
            file = work / file.name
        write_gguf(folder, file, name=name, license_id=license_id, format=cast(GgufFormat, gguf), on_bytes=on_bytes)
    checked = check_gguf(file, folder)
    if format in _MADE_FROM:
        write_ir(file, folder, folder / PLACES[format], work / format)
    place = folder / PLACES[format]
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    return {"bytes": sum(one.stat().st_size for one in files), "read_by": reader_of(format, folder), **checked}
