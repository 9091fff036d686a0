"""The model card: README.md with the front matter that model hubs read. The same facts give the same text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from nexus_llm.records import SPLITS

Facts = Mapping[str, Any]


def model_card(*, name: str, model: Facts, data: Facts | None, train: Facts | None, package: Facts) -> str:
    """The card's text. The arguments are the facts of the artifacts; without `data` and `train` it is a bare base."""
    parts = [_front_matter(model, is_tuned=train is not None), f"# {name}", _origin(model, is_tuned=train is not None)]
    if data is not None:
        parts.append(_data(data))
    if train is not None:
        parts.append(_training(train, package))
    parts += [_checks(package), _serving(), _limits(model)]
    return "\n\n".join(parts) + "\n"


def _front_matter(model: Facts, *, is_tuned: bool) -> str:
    fields = {
        "license": model["license"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["nexus-llm", "gguf"],
    }
    if is_tuned:
        fields["base_model"] = model.get("repository") or model["base"]
    return f"---\n{yaml.safe_dump(fields, sort_keys=True, allow_unicode=True)}---"


def _origin(model: Facts, *, is_tuned: bool) -> str:
    verb = "Fine-tuned from" if is_tuned else "An unchanged copy of"
    return (
        f"{verb} `{model['base']}`, read from `{model['source']}`: {model['parameters']:,} parameters, a context of "
        f"{model['context_tokens']:,} tokens.\n"
        f"Licence of the base model: {model['license']}; its text lies in `LICENSE`."
    )


def _data(data: Facts) -> str:
    duplicates = data.get("duplicates", {})
    rows = [("documents read", data["read"])]
    rows += [(f"rejected: {rule.replace('_', ' ')}", count) for rule, count in sorted(data.get("rejected", {}).items())]
    rows += [("exact duplicates", duplicates.get("exact", 0)), ("near duplicates", duplicates.get("near", 0))]
    rows.append(("**kept**", data["kept"]))
    funnel = _table(("step", "documents"), [(label, f"{count:,}") for label, count in rows])
    splits = _table(
        ("split", "documents", "tokens"),
        [(split, f"{data['documents'][split]:,}", f"{data['tokens'][split]:,}") for split in SPLITS],
    )
    broken = data.get("quarantined", 0)
    note = f"\n\n{broken:,} broken records were set aside before that." if broken else ""
    return f"## Data\n\n{funnel}{note}\n\nA group of near-duplicates never straddles two splits.\n\n{splits}"


def _training(train: Facts, package: Facts) -> str:
    merged = package["merge"]
    method = f"LoRA of rank {merged['rank']}, merged" if merged["method"] == "lora" else "all weights"
    rows: list[tuple[str, ...]] = [
        ("method", method),
        ("trained parameters", f"{train['trainable_parameters']:,}"),
        ("optimizer steps", f"{train['steps']:,}"),
        ("tokens", f"{train['tokens']:,}"),
        ("training loss, first → last", f"{train['first_loss']:.4f} → {train['last_loss']:.4f}"),
    ]
    losses = train.get("validation_losses") or []
    if losses:
        rows.append(("validation loss", ", ".join(f"{one['loss']:.4f} (step {one['step']})" for one in losses)))
    return f"## Training\n\n{_table(('', ''), rows)}"


def _checks(package: Facts) -> str:
    parity = package["template_parity"]
    return (
        "## Checks\n\n"
        f"{parity['conversations']} golden conversations give the base model's own token ids when read from: "
        f"{', '.join(parity['equal_to'])}."
    )


def _serving() -> str:
    return (
        "## Use\n\n```sh\nnexus serve .    # an OpenAI-compatible API and a chat page\n```\n\n"
        "`model.safetensors` (bfloat16) is for transformers and vLLM, `model-q8_0.gguf` for OpenVINO GenAI and "
        "llama.cpp."
    )


def _limits(model: Facts) -> str:
    return (
        "## Limits\n\nA language model states falsehoods in the same tone as facts. It knows nothing newer than the "
        "text that it was trained on, inherits the biases of that text, and was not checked for safety here. "
        f"Beyond {model['context_tokens']:,} tokens of context it does not work."
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
