"""A LoRA adapter in PEFT's layout as the GGUF file that llama.cpp reads.

Layout as in llama.cpp's `src/llama-adapter.cpp` (2026-10): `general.type` is `adapter`, `adapter.type` is `lora`, each
changed weight has NAME.lora_a of shape (rank, inputs) and NAME.lora_b of shape (outputs, rank), and llama.cpp scales
their product by `adapter.lora.alpha` / rank. Rows of B follow the order of the model's rows.
"""

from __future__ import annotations

import json
from pathlib import Path

from nexus_llm import gguf_format
from nexus_llm.errors import ModelError
from nexus_llm.lora import read_adapter


def write_gguf_adapter(folder: Path, model: Path, file: Path) -> None:
    """Writes the adapter in `folder` to `file`; `model` is the folder of the base model, with its `config.json`.

    Raises:
        ModelError: it is no plain LoRA adapter, or does not fit the model.
    """
    from gguf import GGUFWriter

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    adapter = read_adapter(folder, gguf_format.tensor_shapes(config))
    writer = GGUFWriter(file, gguf_format.architecture_of(config).name)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.scale * adapter.rank)
    for layer in adapter.layers:
        name, up = gguf_format.gguf_name(layer), adapter.matrix(layer, "B")
        if name is None:
            raise ModelError(
                f"the adapter in {folder} changes {layer}, which llama.cpp cannot", fix="package it merged"
            )
        heads = gguf_format.swapped_heads(layer, config)
        writer.add_tensor(f"{name}.lora_a", adapter.matrix(layer, "A"))
        writer.add_tensor(f"{name}.lora_b", up if heads is None else gguf_format.to_gguf_rows(up, heads=heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
