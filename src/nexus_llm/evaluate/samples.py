"""What a model answers to a few questions: greedily, so that the same model gives the same answer again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError

# Prompts in one batch: their attention caches are small beside the weights.
_BATCH_PROMPTS = 16


def answers(
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: Sequence[str],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """One answer a prompt, in order: the user asks, the assistant speaks until a stop token or the limit.

    `advance` is told how many prompts were just answered.
    """
    texts: list[str] = []
    for start in range(0, len(prompts), _BATCH_PROMPTS):
        batch = prompts[start : start + _BATCH_PROMPTS]
        rows = [tokenizer.encode_prompt([{"role": "user", "content": prompt}]) for prompt in batch]
        texts += [
            tokenizer.decode(until_stop(row, stop_ids)).strip()
            for row in _generate(model, rows, stop_ids, max_new_tokens)
        ]
        advance(len(batch))
    return texts


def stop_ids_of(folder: Path, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids that end an answer: all that `generation_config.json` names, and the tokenizer's eos.

    Raises:
        ModelError: the file is no JSON object, or no stop token is known at all.
    """
    path = folder / "generation_config.json"
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.exists() else None
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is no JSON object", fix="make the artifact again, or mend the file") from error
    listed = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({*map(int, listed), tokenizer.eos_token_id})


def until_stop(token_ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """The tokens before the first stop token.

    >>> until_stop([5, 6, 2, 2], [2])
    [5, 6]
    """
    end = next((place for place, token in enumerate(token_ids) if token in stop_ids), len(token_ids))
    return list(token_ids[:end])


def _generate(
    model: Any, rows: Sequence[Sequence[int]], stop_ids: Sequence[int], max_new_tokens: int
) -> list[list[int]]:
    import torch

    width = max(map(len, rows))
    # On the left, so that every prompt ends where its answer begins.
    token_ids_BT = torch.full((len(rows), width), stop_ids[0], dtype=torch.long)
    mask_BT = torch.zeros_like(token_ids_BT)
    for place, row in enumerate(rows):
        token_ids_BT[place, width - len(row) :] = torch.tensor(row)
        mask_BT[place, width - len(row) :] = 1
    with torch.inference_mode():
        generated_BT = model.generate(
            input_ids=token_ids_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            do_sample=False,
            # A checkpoint's own settings for sampling would only draw warnings.
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
        )
    answered: list[list[int]] = generated_BT[:, width:].tolist()
    return answered
