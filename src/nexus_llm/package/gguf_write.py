"""A Hugging Face model folder as one GGUF file, which the serving engines read.

F16 is 16 bits a weight; Q8_0 keeps blocks of 32 values as one float16 scale and 32 signed bytes: 8.5 bits a weight, and
no value moves by more than half a step of its block; Q4_K_M is a mixture of about 5 bits (`tensor_types`). Vectors
(norms, biases) stay float32. The same folder always gives the same bytes.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nexus_llm import gguf_format, gguf_tokenizer
from nexus_llm.chat import ChatTokenizer
from nexus_llm.package.ggml_quantise import quantised_rows
from nexus_llm.package.merge import check_shapes
from nexus_llm.package.tensor_types import FILE_TYPES, GgufFormat, TensorType, tensor_type
from nexus_llm.weights import Weights

ROPE_TENSOR = "rope_freqs.weight"
_PLAIN: dict[TensorType, str] = {"F32": "<f4", "F16": "<f2"}


def write_gguf(
    folder: Path,
    file: Path,
    *,
    name: str,
    license_id: str,
    format: GgufFormat = "gguf-q8_0",
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes the model in `folder` to `file`. `on_bytes` hears how many bytes of weights were read.

    Raises:
        PackagingError: no engine could read it faithfully (rope scaling that is not Llama 3's, an unknown tokenizer,
            rows that are no multiple of 32), or a tensor is missing.
        MissingExtraError: Q4_K_M needs llama.cpp's wheel.
    """
    from gguf import GGUFWriter

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metadata = {
        **gguf_format.metadata_from_config(config),
        "general.type": "model",
        "general.name": name,
        "general.license": license_id,
        "general.file_type": FILE_TYPES[format],
        "general.quantization_version": 2,
        **_tokenizer_metadata(folder, config),
    }
    weights = Weights.open(folder)
    shapes = gguf_format.tensor_shapes(config)
    check_shapes(folder, weights, shapes)
    types = _types(config, shapes, format)
    scaling = rope_tensor(config)
    writer = GGUFWriter(str(file), metadata.pop("general.architecture"))
    for key, value in metadata.items():
        _add(writer, key, value)
    order = sorted(shapes, key=lambda tensor: str(gguf_format.gguf_name(tensor)))
    for tensor in order:
        _announce(writer, tensor, shapes[tensor], types[tensor])
    if scaling is not None:
        writer.add_tensor_info(ROPE_TENSOR, scaling.shape, scaling.dtype, scaling.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for tensor in order:
            writer.write_tensor_data(_values(weights, tensor, config, types[tensor]))
            on_bytes(2 * int(np.prod(shapes[tensor])))
        if scaling is not None:
            writer.write_tensor_data(scaling)
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


def rope_tensor(config: Mapping[str, Any]) -> npt.NDArray[np.float32] | None:
    """Llama 3's rope scaling as llama.cpp reads it; None where there is none."""
    if gguf_format.rope_scaling(config) is None:
        return None
    return np.asarray(gguf_format.rope_divisors(config), dtype=np.float32)


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


def _types(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], format: GgufFormat
) -> dict[str, TensorType]:
    layers, is_tied = int(config["num_hidden_layers"]), "lm_head.weight" not in shapes
    return {name: tensor_type(name, shape, format, layers=layers, is_tied=is_tied) for name, shape in shapes.items()}


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


def _announce(writer: Any, tensor: str, shape: tuple[int, ...], kind: TensorType) -> None:
    """Tells the writer a tensor's place, so that the values can follow one at a time."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    name = gguf_format.gguf_name(tensor)
    if kind in _PLAIN:
        plain = np.dtype(_PLAIN[kind])
        writer.add_tensor_info(name, shape, plain, plain.itemsize * int(np.prod(shape)))
        return
    number = GGMLQuantizationType[kind]
    stored = quant_shape_to_byte_shape(shape, number)
    writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=number)


def _values(weights: Weights, tensor: str, config: Mapping[str, Any], kind: TensorType) -> Any:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    values = weights.float32(tensor)
    if heads := gguf_format.swapped_heads(tensor, config):
        values = gguf_format.to_gguf_rows(values, heads=heads)
    if kind in _PLAIN:
        return np.ascontiguousarray(values, dtype=_PLAIN[kind])
    if kind == "Q8_0":
        return quantize(np.ascontiguousarray(values), GGMLQuantizationType.Q8_0)
    return quantised_rows(values, kind)
