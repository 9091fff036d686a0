"""A GGUF file as the files of a Hugging Face model folder, through numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm import gguf_format, gguf_tokenizer, weights
from nexus_llm.errors import ModelError
from nexus_llm.model.hf_read import write_json


def read_gguf(file: Path, folder: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Writes config, tokenizer, chat template and bfloat16 weights of `file` into `folder`; returns its metadata.

    Quantised weights are multiplied out, so the folder holds exactly what the file's own quantisation left. `on_bytes`
    hears how many bytes of the file were read.

    Raises:
        ModelError: the file is truncated or not GGUF, or holds a model that cannot be read faithfully.
    """
    reader = _open(file)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {}
    for tensor in reader.tensors:
        name = gguf_format.hf_name(tensor.name)
        if name is None:
            raise ModelError(
                f"{file} has a tensor {tensor.name}, which no known architecture has (rope scaling, experts)",
                fix="pull the model's Hugging Face version: nexus model pull hf:ORG/NAME",
            )
        tensors[name] = tensor
    config = gguf_format.config_from_metadata(metadata, tied_embeddings="lm_head.weight" not in tensors)
    shapes = gguf_format.tensor_shapes(config)
    _check_shapes(file, shapes, tensors)
    write_json(folder / "tokenizer.json", gguf_tokenizer.tokenizer_from_metadata(metadata))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(metadata, config))
    write_json(folder / "config.json", config)
    if template := metadata.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")

    def tensor_bits(name: str) -> weights.Bits16:
        on_bytes(int(tensors[name].n_bytes))
        return _bits(tensors[name], heads=gguf_format.swapped_heads(name, config), shape=shapes[name])

    weights.write_bfloat16(folder / weights.SINGLE_FILE, shapes, tensor_bits)
    return metadata


def _open(file: Path) -> Any:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(file))
        complete = all(tensor.data.nbytes == tensor.n_bytes for tensor in reader.tensors)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        # The reader maps the file and trips over whatever is not there.
        raise ModelError(
            f"{file} is truncated or not GGUF ({error})", fix="delete it and fetch it again, or check the path"
        ) from error
    if not complete:
        raise ModelError(f"{file} ends before its last tensor", fix="delete it and fetch it again")
    return reader


def _check_shapes(file: Path, shapes: dict[str, tuple[int, ...]], tensors: dict[str, Any]) -> None:
    for name in sorted(shapes.keys() | tensors.keys()):
        found = tuple(int(size) for size in reversed(tensors[name].shape)) if name in tensors else None
        if found != shapes.get(name):
            raise ModelError(
                f"{file}: tensor {name} has shape {found} where its configuration says {shapes.get(name)}",
                fix="fetch the file again; if it stays so, the file is not a plain model of its architecture",
            )


def _bits(tensor: Any, *, heads: int | None, shape: tuple[int, ...]) -> weights.Bits16:
    from gguf.quants import dequantize

    values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(shape)
    bits = weights.to_bfloat16(values)
    return gguf_format.from_gguf_rows(bits, heads=heads) if heads else bits


def _tokenizer_config(metadata: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {
        field: tokens[metadata[f"tokenizer.ggml.{key}_token_id"]]
        for field, key in gguf_tokenizer.NAMED_TOKENS.items()
        if f"tokenizer.ggml.{key}_token_id" in metadata
    }
    return {**named, "clean_up_tokenization_spaces": False, "model_max_length": config["max_position_embeddings"]}
