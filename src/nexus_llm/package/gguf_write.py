"""A Hugging Face model folder as one GGUF file with Q8_0 weights, which the serving engine reads.

Q8_0 keeps blocks of 32 values as one float16 scale and 32 signed bytes: 8.5 bits a weight, and no value moves by more
than half a step of its block. Vectors (norms, biases) stay float32. The same folder always gives the same bytes.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm import gguf_format, gguf_tokenizer
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import PackagingError
from nexus_llm.weights import Weights

Q8_0_BLOCK_VALUES = 32  # ggml-quants.h: QK8_0
_FILE_TYPE_Q8_0 = 7  # gguf.md, general.file_type: MOSTLY_Q8_0


def write_gguf(
    folder: Path, file: Path, *, name: str, license_id: str, on_bytes: Callable[[int], None] = lambda _: None
) -> None:
    """Writes the model in `folder` to `file`. `on_bytes` hears how many bytes of weights were read.

    Raises:
        PackagingError: the engine could not read it faithfully (rope scaling, an unknown tokenizer, rows that are no
            multiple of 32), or a tensor is missing.
    """
    from gguf import GGUFWriter

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metadata = {
        **gguf_format.metadata_from_config(config),
        "general.type": "model",
        "general.name": name,
        "general.license": license_id,
        "general.file_type": _FILE_TYPE_Q8_0,
        "general.quantization_version": 2,
        **_tokenizer_metadata(folder, config),
    }
    weights = Weights.open(folder)
    shapes = _shapes(folder, config, weights)
    writer = GGUFWriter(str(file), metadata.pop("general.architecture"))
    for key, value in metadata.items():
        _add(writer, key, value)
    order = sorted(shapes, key=lambda tensor: str(gguf_format.gguf_name(tensor)))
    for tensor in order:
        _announce(writer, tensor, shapes[tensor])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for tensor in order:
            writer.write_tensor_data(_values(weights, tensor, config))
            on_bytes(2 * int(np.prod(shapes[tensor])))
    except OSError as error:
        if error.errno is None:  # numpy reports a short write without its reason
            raise OSError(errno.ENOSPC, "no space left on the disk", str(file)) from error
        raise
    finally:
        writer.close()


def read_metadata(file: Path) -> dict[str, Any]:
    """Every field of a GGUF file that is no tensor, read back from the disk."""
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(str(file)).fields.items()}


def _tokenizer_metadata(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    chat = ChatTokenizer.load(folder)
    metadata = gguf_tokenizer.metadata_from_tokenizer(tokenizer, vocabulary=int(config["vocab_size"]))
    for field, key in gguf_tokenizer.NAMED_TOKENS.items():
        if (token_id := chat.named_token_id(field)) is not None:
            metadata[f"tokenizer.ggml.{key}_token_id"] = token_id
    if chat.turn_end_ids:
        # llama.cpp stops there too, where it is not eos (Llama 3: <|eot_id|> and <|end_of_text|>).
        metadata["tokenizer.ggml.eot_token_id"] = chat.turn_end_ids[0]
    metadata["tokenizer.ggml.add_bos_token"] = bool(chat.document_start_ids)
    if template := chat.template:
        metadata["tokenizer.chat_template"] = template
    return metadata


def _shapes(folder: Path, config: Mapping[str, Any], weights: Weights) -> dict[str, tuple[int, ...]]:
    shapes = gguf_format.tensor_shapes(config)
    for tensor, shape in shapes.items():
        found = weights.shape(tensor) if tensor in weights else None
        if found != shape:
            raise PackagingError(
                f"{folder}: tensor {tensor} has shape {found} where config.json says {shape}",
                fix="make the weights again: they do not belong to this configuration",
            )
        if len(shape) == 2 and shape[1] % Q8_0_BLOCK_VALUES:
            raise PackagingError(
                f"{folder}: tensor {tensor} has rows of {shape[1]} values, and Q8_0 needs a multiple of 32",
                fix="use a model whose hidden and intermediate sizes are multiples of 32",
            )
    return shapes


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)


def _announce(writer: Any, tensor: str, shape: tuple[int, ...]) -> None:
    """Tells the writer a tensor's place, so that the values can follow one at a time."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    name = gguf_format.gguf_name(tensor)
    if len(shape) == 1:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        return
    kind = GGMLQuantizationType.Q8_0
    stored = quant_shape_to_byte_shape(shape, kind)
    writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)


def _values(weights: Weights, tensor: str, config: Mapping[str, Any]) -> Any:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    values = weights.float32(tensor)
    if values.ndim == 1:
        heads = gguf_format.swapped_heads(tensor, config)
        return gguf_format.to_gguf_rows(values, heads=heads) if heads else values
    if heads := gguf_format.swapped_heads(tensor, config):
        values = gguf_format.to_gguf_rows(values, heads=heads)
    return quantize(np.ascontiguousarray(values), GGMLQuantizationType.Q8_0)
