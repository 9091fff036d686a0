"""Model folders so small that a test can make, break and read them in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nexus_llm import gguf_format, weights

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADAPTER_RANK, ADAPTER_ALPHA = 4, 12.0
_TEXT = ["The quick brown fox jumps over 13 lazy dogs.", "def f(x): return x ** 2", "What is it? It is what it is."] * 3


def tiny_tokenizer() -> dict[str, Any]:
    """A byte-level BPE `tokenizer.json` that cuts digits one by one, as SmolLM2's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


def tiny_config(**changes: Any) -> dict[str, Any]:
    """Two layers of a Llama whose sizes are all different, so that a mix-up shows."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "vocab_size": 320,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **changes,
    }


def write_tiny_model(folder: Path, *, seed: int = 0, **config_changes: Any) -> Path:
    """A whole Hugging Face model folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(**config_changes)
    random = np.random.default_rng(seed)
    shapes = gguf_format.tensor_shapes(config)
    values = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    weights.write_bfloat16(folder / "model.safetensors", shapes, lambda name: weights.to_bfloat16(values[name]))
    _write(folder / "config.json", config)
    _write(folder / "tokenizer.json", tiny_tokenizer())
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    _write(folder / "tokenizer_config.json", {**names, "tokenizer_class": "PreTrainedTokenizerFast"})
    _write(folder / "generation_config.json", {"eos_token_id": [0, 2]})
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "LICENSE").write_text("Do what you like.\n", encoding="utf-8")
    return folder


ADAPTER_TARGETS = [
    name for name in gguf_format.tensor_shapes(tiny_config()) if name.endswith(("q_proj.weight", "down_proj.weight"))
]


def tiny_adapter(config: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    """A LoRA adapter's tensors, random, under the names that PEFT gives them."""
    random, shapes = np.random.default_rng(1), gguf_format.tensor_shapes(config or tiny_config())
    tensors = {}
    for name in ADAPTER_TARGETS:
        outputs, inputs = shapes[name]
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = random.normal(0, 0.1, (ADAPTER_RANK, inputs)).astype(np.float32)
        tensors[f"{stem}.lora_B.weight"] = random.normal(0, 0.1, (outputs, ADAPTER_RANK)).astype(np.float32)
    return tensors


def write_tiny_adapter(folder: Path, tensors: dict[str, np.ndarray], **config_changes: Any) -> Path:
    """A LoRA adapter's folder as PEFT writes it."""
    from safetensors.numpy import save_file

    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": ADAPTER_RANK,
        "lora_alpha": ADAPTER_ALPHA,
        "target_modules": ["down_proj", "q_proj"],
        "bias": "none",
        **config_changes,
    }
    _write(folder / "adapter_config.json", config)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
