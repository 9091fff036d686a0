"""A Hugging Face model folder, checked and brought to one shape: one bfloat16 safetensors file, one template file."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nexus_llm import chat, gguf_format, weights
from nexus_llm.errors import ModelError
from nexus_llm.model import vocabulary

# Stored beside the weights by some models, but computed or shared, so never read.
_IGNORED_TENSORS = ("rotary_emb.inv_freq", "lm_head.weight")


def read_hf(source: Path, folder: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> None:
    """Writes the model in `source` into `folder`. `on_bytes` hears how many bytes of weights were read.

    Raises:
        ModelError: a part is missing, broken, of an unknown architecture, or does not fit the rest.
    """
    config = read_json(source / "config.json")
    shapes = gguf_format.tensor_shapes(config)
    stored = weights.Weights.open(source)
    _check_tensors(source, stored, shapes)
    tokenizer_config = read_json(source / "tokenizer_config.json")
    template = _template(source, tokenizer_config)
    if not (source / "tokenizer.json").is_file():
        raise ModelError(f"{source} has no tokenizer.json", fix="use a model with a fast (tokenizers) tokenizer")
    config.pop("dtype", None)  # transformers 5 writes `dtype`, all others read `torch_dtype`
    write_json(folder / "config.json", {**config, "torch_dtype": "bfloat16"})
    write_json(folder / "tokenizer_config.json", {k: v for k, v in tokenizer_config.items() if k != "chat_template"})
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", folder / "generation_config.json")
    for license_file in sorted(source.glob("LICENSE*"))[:1]:
        shutil.copyfile(license_file, folder / "LICENSE")

    def bits(name: str) -> weights.Bits16:
        on_bytes(stored.bytes(name))
        return stored.bits(name)

    weights.write_bfloat16(folder / weights.SINGLE_FILE, shapes, bits)


def complete_folder(folder: Path, *, license_id: str, place: str, add_tokens: Sequence[str] = ()) -> dict[str, Any]:
    """Adds what every model folder needs, whatever it came from, and returns the facts that it found.

    All stop tokens go into `generation_config.json`: eos, what the chat template writes behind an answer, what ends a
    document, and those that the base names itself. The pad token is one that ends nothing; where the vocabulary has
    none, one is added. `tokenizer_class` becomes the one that takes `tokenizer.json` as it is: transformers 5 rebuilds
    the pre-tokenizer of some named classes, and then cuts digits in other places.

    Raises:
        ModelError: the tokenizer cannot be read, has tokens beyond the embedding, or has one of `add_tokens` already.
    """
    config = read_json(folder / "config.json")
    tokenizer_config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**tokenizer_config, "tokenizer_class": "PreTrainedTokenizerFast"})
    tokenizer = chat.ChatTokenizer.load(folder)
    if tokenizer.vocabulary_size > config["vocab_size"]:
        raise ModelError(
            f"{place}: the tokenizer has {tokenizer.vocabulary_size} tokens, the embedding {config['vocab_size']} rows",
            fix="take weights and tokenizer from the same model",
        )
    added = vocabulary.add_tokens(folder, add_tokens)
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    stops = sorted({*tokenizer.stop_token_ids, *_listed(generation), *_listed(config)})
    pad_facts = _set_pad(folder, stops=stops)
    if config.get("bos_token_id") is not None:
        generation.setdefault("bos_token_id", config["bos_token_id"])
    write_json(generation_file, {**generation, "eos_token_id": stops, "pad_token_id": pad_facts["pad_token_id"]})
    if not (folder / "LICENSE").exists():
        (folder / "LICENSE").write_text(
            f"The weights in this folder come from {place} under the licence {license_id!r}.\n", encoding="utf-8"
        )
    config = read_json(folder / "config.json")
    shapes = gguf_format.tensor_shapes(config)
    return {
        "parameters": sum(map(math.prod, shapes.values())),
        "vocabulary": config["vocab_size"],
        "context_tokens": config["max_position_embeddings"],
        "stop_token_ids": stops,
        "turn_end_ids": tokenizer.turn_end_ids,
        "added_tokens": added,
        **pad_facts,
        "has_chat_template": tokenizer.template is not None,
        "license": license_id,
    }


def _set_pad(folder: Path, *, stops: list[int]) -> dict[str, Any]:
    """Names a pad token that ends nothing in every file that names one, and returns which and why."""
    tokenizer = chat.ChatTokenizer.load(folder)
    before = tokenizer.named_token_id("pad_token")
    pad = vocabulary.spare_token(tokenizer, stops=stops)
    origin = "reserved"
    if pad is None:
        pad, origin = vocabulary.new_pad_token(tokenizer), "added"
        vocabulary.add_tokens(folder, [pad])
        tokenizer = chat.ChatTokenizer.load(folder)
    pad_id = tokenizer.token_id(pad)
    for name, field, value in (("tokenizer_config", "pad_token", pad), ("config", "pad_token_id", pad_id)):
        write_json(folder / f"{name}.json", {**read_json(folder / f"{name}.json"), field: value})
    return {
        "pad_token": pad,
        "pad_token_id": pad_id,
        "pad_token_origin": "base" if pad_id == before else origin,
    }


def _listed(config: dict[str, Any]) -> list[int]:
    """`eos_token_id` may be one id, a list of them, or nothing."""
    named = config.get("eos_token_id")
    return named if isinstance(named, list) else [] if named is None else [int(named)]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it is absent or not a JSON object.
    """
    if not path.is_file():
        raise ModelError(
            f"{path.parent} has no {path.name}", fix="give a whole Hugging Face model folder, or fetch the model again"
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error})", fix="fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object", fix="fetch the model again")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object with sorted keys, so that the same value gives the same bytes."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _template(source: Path, tokenizer_config: dict[str, Any]) -> str | None:
    file = source / "chat_template.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else chat.default_template(tokenizer_config)


def _check_tensors(source: Path, stored: weights.Weights, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if name not in stored:
            raise ModelError(
                f"{source} has no tensor {name}, which its config.json asks for", fix="fetch the model again"
            )
        if stored.shape(name) != shape:
            raise ModelError(
                f"{source}: tensor {name} has shape {stored.shape(name)} where config.json says {shape}",
                fix="take weights and config.json from the same model",
            )
    extra = [name for name in stored.names if name not in shapes and not name.endswith(_IGNORED_TENSORS)]
    if extra:
        raise ModelError(
            f"{source} has a tensor {extra[0]}, which a {len(shapes)}-tensor model of this architecture has not",
            fix="use a plain, unquantised model without adapters",
        )
