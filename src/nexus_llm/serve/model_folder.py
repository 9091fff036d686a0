"""A packaged model folder as the server reads it: checked before anything heavy starts."""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ServingError
from nexus_llm.serve.receipt import Receipt, read_receipt

WEIGHTS = "model-q8_0.gguf"
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
IR_FILE = "openvino_model.xml"
# What an engine reads, the first that is there; the other engines read the Hugging Face layout. OpenVINO GenAI 2026.4.1
# rounds the rotary frequencies of an F16 GGUF file to float16: it is llama.cpp's alone.
_WEIGHTS = {
    "openvino": (WEIGHTS, "openvino-int8", "openvino-f16"),
    "llama.cpp": (WEIGHTS, "model-q4_k_m.gguf", "model-f16.gguf"),
}
_KNOWS_ROPE_SCALING = ("llama.cpp", "transformers", "vllm")
# OpenVINO GenAI 2026.4 reads a GGUF with scaled rotary embeddings as if they were not scaled, without a word.
_ROPE_SCALING_MARKS = (b"rope_freqs.weight", b".rope.scaling.factor")
_HEADER_BYTES = 64 << 20  # metadata and tensor names; the largest vocabulary known takes 16 MB


@dataclass(frozen=True)
class SamplingDefaults:
    """What holds where a request says nothing; from generation_config.json, else OpenAI's."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class ServedModel:
    """All that the gateway needs to know of a model; the engine reads the weights."""

    name: str
    """What clients call it."""
    weights: Path
    """What the engine reads: a GGUF file, a folder with OpenVINO files, or the whole folder where it reads the Hugging
    Face layout."""
    tokenizer: ChatTokenizer
    context_tokens: int
    stop_token_ids: tuple[int, ...]
    sampling: SamplingDefaults
    fingerprint: str | None
    """Id of the artifact, so that an answer can be traced back; None for a folder that is none."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters that answer under names of their own."""
    receipt: Receipt | None = None
    """Which weights these are, where a manifest tells."""


def read_model(folder: Path, *, name: str, engine: str = "openvino") -> ServedModel:
    """The model in a packaged folder, as that engine reads it.

    Raises:
        ServingError: a file is missing or unreadable, or the engine would misread the weights.
        ModelError: the tokenizer cannot be read.
    """
    for needed in _NEEDED:
        if not (folder / needed).is_file():
            raise _not_packaged(folder, needed)
    config = _read_json(folder / "config.json")
    weights = folder
    if engine in _WEIGHTS:
        found = weights_in(folder, engine)
        if found is None:
            raise _not_for(engine, folder) if any(folder.glob("model-*.gguf")) else _not_packaged(folder, WEIGHTS)
        weights = found
    elif not any(folder.glob("*.safetensors")):
        raise ServingError(
            f"{folder} has no *.safetensors, which the {engine} engine reads",
            fix="package the model again, or serve its GGUF file with: --engine llama.cpp",
        )
    if engine not in _KNOWS_ROPE_SCALING and weights.is_file():
        _refuse_rope_scaling(weights)
    generation_path = folder / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.exists() else {}
    manifest = _read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    tokenizer = ChatTokenizer.load(folder)
    return ServedModel(
        name=name,
        weights=weights,
        tokenizer=tokenizer,
        context_tokens=_context_tokens(folder, config),
        stop_token_ids=_stop_token_ids(generation, config) or (tokenizer.eos_token_id,),
        sampling=_sampling_defaults(generation),
        fingerprint=str(manifest.get("id")) if manifest else None,
        receipt=read_receipt(manifest, engine=engine, weights=_weight_file(folder, weights)),
    )


def weights_in(folder: Path, engine: str) -> Path | None:
    """The file, or OpenVINO's folder, that `engine` reads; None where there is none, or it reads the whole folder.

    A model with scaled rotary embeddings goes to OpenVINO by its own files alone: there the scaling is in the graph.
    """
    present = [folder / name for name in _WEIGHTS.get(engine, ()) if (folder / name).exists()]
    if present and engine not in _KNOWS_ROPE_SCALING and _rope_kind(folder) != "default":
        present = [one for one in present if one.is_dir()] or present
    return present[0] if present else None


def _not_packaged(folder: Path, missing: str) -> ServingError:
    return ServingError(
        f"{folder} has no {missing}, so it is not a packaged model",
        fix="give a run folder (runs/NAME) or the folder of a package artifact",
    )


def _not_for(engine: str, folder: Path) -> ServingError:
    found = ", ".join(one.name for one in sorted(folder.glob("model-*.gguf")))
    return ServingError(
        f"{folder} has {found}, which the engine {engine} does not read as it was trained",
        fix="serve it with --engine llama.cpp, or package it with package.formats=[openvino-f16]",
    )


def _weight_file(folder: Path, weights: Path) -> str | None:
    """The file with the weights as the manifest names it; None: all `*.safetensors`."""
    if weights == folder:
        return None
    file = weights / Path(IR_FILE).with_suffix(".bin") if weights.is_dir() else weights
    return file.relative_to(folder).as_posix()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ServingError(f"{path} is not readable JSON", fix="package the model again") from error
    if not isinstance(values, dict):
        raise ServingError(f"{path} is not a JSON object", fix="package the model again")
    return values


def _context_tokens(folder: Path, config: dict[str, Any]) -> int:
    value = config.get("max_position_embeddings")
    if not isinstance(value, int) or value < 2:
        raise ServingError(
            f"{folder / 'config.json'}: max_position_embeddings is {value!r}, so the context is not known",
            fix="package the model again",
        )
    return value


def _stop_token_ids(generation: dict[str, Any], config: dict[str, Any]) -> tuple[int, ...]:
    """`eos_token_id` may be one id or a list of them."""
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    return tuple(value) if isinstance(value, list) else () if value is None else (int(value),)


def _sampling_defaults(generation: dict[str, Any]) -> SamplingDefaults:
    if generation.get("do_sample") is False:
        return SamplingDefaults(temperature=0.0)
    return SamplingDefaults(
        temperature=float(generation.get("temperature") or 1.0),
        top_p=float(generation.get("top_p") or 1.0),
        top_k=int(generation.get("top_k") or 0),
    )


def _rope_kind(folder: Path) -> str:
    config = _read_json(folder / "config.json")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _refuse_rope_scaling(weights: Path) -> None:
    kind = _rope_kind(weights.parent)
    with weights.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ServingError(f"{weights} is not a GGUF file", fix="package the model again")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            is_marked = any(content.find(mark, 0, _HEADER_BYTES) >= 0 for mark in _ROPE_SCALING_MARKS)
    if kind != "default" or is_marked:
        raise ServingError(
            f"{weights} has scaled rotary embeddings ({kind}), which this engine would silently ignore",
            fix="serve this model with an engine that knows them: --engine llama.cpp (or vllm)",
        )
