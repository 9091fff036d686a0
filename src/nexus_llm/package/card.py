"""The model card: README.md with the front matter that model hubs read. The same facts give the same text.

The card inside a package is written before anybody judged the model, and tells no times, so that the same inputs give
the same files. The registry's card tells both: `nexus model show`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from nexus_llm.records import SPLITS

Facts = Mapping[str, Any]


def model_card(
    *,
    name: str,
    model: Facts,
    data: Facts | None,
    train: Facts | None,
    package: Facts,
    recipe: Facts | None = None,
    gate: Facts | None = None,
    costs: Mapping[str, Facts] | None = None,
) -> str:
    """The card's text. The arguments are the facts of the artifacts; without `data` and `train` it is a bare base.

    `recipe` is the training's part of the recipe, `gate` the evaluation's verdict and comparisons, `costs` what each
    stage took: stage → `seconds`, and what else its manifest tells.
    """
    is_tuned = train is not None
    parts = [_front_matter(model, package, is_tuned=is_tuned), f"# {name}", _origin(model, is_tuned=is_tuned)]
    if data is not None:
        parts.append(_data(data))
    if train is not None:
        parts.append(_training(train, package, recipe))
    if gate is not None:
        parts.append(_metrics(gate))
    parts.append(_checks(package))
    if costs is not None:
        parts.append(_costs(costs))
    parts += [_serving(package), _limits(model)]
    return "\n\n".join(parts) + "\n"


def _front_matter(model: Facts, package: Facts, *, is_tuned: bool) -> str:
    fields = {
        "license": model["license"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["nexus-llm", *sorted({format.partition("-")[0] for format in package["formats"]})],
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


def _training(train: Facts, package: Facts, recipe: Facts | None) -> str:
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
    rows += [(f"`train.{field}`", str(recipe[field])) for field in _TOLD_FIELDS if recipe and field in recipe]
    return f"## Training\n\n{_table(('', ''), rows)}"


_TOLD_FIELDS = (
    "objective",
    "learning_rate",
    "max_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "dtype",
)


def _metrics(gate: Facts) -> str:
    texts: list[tuple[str, ...]] = []
    tasks: list[tuple[str, ...]] = []
    for one in gate["comparisons"]:
        if "base_perplexity" in one:
            scores = f"{one['base_perplexity']:.2f} → {one['tuned_perplexity']:.2f}"
            texts.append((one["name"], scores, _change(one, "+.1%"), f"{one['documents']:,}", one["verdict"]))
        else:
            scores = " → ".join(f"{one[side]:.3f}" for side in ("base_score", "tuned_score") if one[side] is not None)
            rule = f"{one['metric']}, {one['rule'].replace('_', ' ')}"
            tasks.append((one["name"], rule, scores, _change(one, "+.3f"), f"{one['items']:,}", one["verdict"]))
    parts = [f"The gate says **{gate['verdict']}**."]
    if texts:
        parts.append(_table(("text", "perplexity, base → this model", "change", "documents", "verdict"), texts))
    if tasks:
        parts.append(_table(("task", "metric, rule", "base → this model", "change", "items", "verdict"), tasks))
    return "## Metrics\n\n" + "\n\n".join(parts)


def _change(one: Facts, form: str) -> str:
    """The change with its interval; numbers that do not exist are null in an evaluation's facts."""
    if one["change"] is None:
        return "unknown"
    low, high = one["low"], one["high"]
    interval = "no interval" if None in (low, high) else f"{low:{form}} to {high:{form}} at {one['confidence']:.0%}"
    return f"{one['change']:{form}} ({interval})"


def _costs(costs: Mapping[str, Facts]) -> str:
    rows = []
    for stage, cost in costs.items():
        others = ", ".join(f"{name} {value}" for name, value in sorted(cost.items()) if name != "seconds")
        rows.append((stage, f"{cost.get('seconds', 0):,.0f}", others))
    return f"## Costs\n\n{_table(('stage', 'seconds', ''), rows)}\n\nTimes are of the runs that made these artifacts."


def _checks(package: Facts) -> str:
    parity, equivalence = package["template_parity"], package.get("equivalence")
    served = package.get("served")
    readers = [*parity["equal_to"], *(["the running server"] if served else [])]
    parts = [
        f"{parity['conversations']} golden conversations give the base model's own token ids when read from: "
        f"{', '.join(readers)}."
    ]
    if package["formats"]:
        rows = [
            (
                name,
                ", ".join(f"{count} {kind}" for kind, count in one["tensors"].items()),
                f"{one['max_error_share']:.2g}",
            )
            for name, one in package["formats"].items()
        ]
        parts.append(
            "Every tensor was multiplied out again and held against the merged weights:\n\n"
            + _table(("format", "tensors", "largest error, as a share of the tensor"), rows)
        )
    if equivalence is not None:
        parts.append(_equivalence(equivalence))
    if served is not None:
        parts.append(
            f"Our own server ({served['engine']}), asked for {served['rows']} of these texts: "
            f"{served['mean_log_probability_error']} nats from the trained model a token on average, the same next "
            f"token after {served['next_token_share']:.0%} of them."
        )
    return "## Checks\n\n" + "\n\n".join(parts)


def _equivalence(facts: Facts) -> str:
    if why := facts.get("not_measured"):
        return f"How far these files are from the model as it was trained was **not measured**: {why}."
    rows: list[tuple[str, ...]] = []
    for name, one in facts.items():
        if why := one.get("not_measured"):
            rows.append((name, f"not measured: {why}", "", "", ""))
            continue
        change = f"{one['perplexity_change_share']:+.2%}"
        rows.append((name, f"{one['mean_kl']:g}", f"{one['max_kl']:g}", f"{one['top_1_share']:.1%}", change))
    return "Held against the model as it was trained, on held-out text, over the whole vocabulary:\n\n" + _table(
        ("", "mean KL, nats a token", "at worst", "same likeliest token", "perplexity"), rows
    )


_READERS = {
    "gguf-f16": "llama.cpp",
    "gguf-q8_0": "OpenVINO GenAI and llama.cpp",
    "gguf-q4_k_m": "llama.cpp",
    "openvino-f16": "OpenVINO GenAI",
    "openvino-int8": "OpenVINO GenAI",
}


def _serving(package: Facts) -> str:
    files = ["- `model.safetensors` (bfloat16): transformers and vLLM"]
    files += [f"- {name}: {_READERS[name]}" for name in package["formats"]]
    listed = "\n".join(files)
    return f"## Use\n\n```sh\nnexus serve .    # an OpenAI-compatible API and a chat page\n```\n\n{listed}"


def _limits(model: Facts) -> str:
    return (
        "## Limits\n\nA language model states falsehoods in the same tone as facts. It knows nothing newer than the "
        "text that it was trained on, inherits the biases of that text, and was not checked for safety here. "
        f"Beyond {model['context_tokens']:,} tokens of context it does not work."
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
