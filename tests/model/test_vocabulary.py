"""New tokens and pad tokens: in the tokenizer, in the configuration, in the embeddings, and nowhere twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from nexus_llm import weights
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError
from nexus_llm.model.hf_read import complete_folder
from nexus_llm.model.stage import STAGE
from nexus_llm.model.vocabulary import add_tokens, new_pad_token, spare_token
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe
from running_stages import run_stage
from tiny_model import TEMPLATE, tiny_tokenizer, write_tiny_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def full(folder: Path, **config: Any) -> Path:
    """A tiny model without spare rows: as many as its tokenizer has tokens."""
    return write_tiny_model(folder, vocab_size=313, **config)


@pytest.mark.parametrize("is_tied", [True, False])
def test_new_tokens_get_the_mean_of_all_other_rows(tmp_path: Path, is_tied: bool) -> None:
    folder = full(tmp_path / "model", tie_word_embeddings=is_tied)
    before = {name: weights.Weights.open(folder).float32(name) for name in weights.Weights.open(folder).names}
    assert add_tokens(folder, ["kubectl", "<|note|>"]) == {"kubectl": 313, "<|note|>": 314}
    after = weights.Weights.open(folder)
    assert after.names == sorted(before)
    for name, old in before.items():
        new = after.float32(name)
        if name not in (EMBEDDING, HEAD):
            np.testing.assert_array_equal(new, old)
            continue
        np.testing.assert_array_equal(new[:313], old)
        mean = weights.to_bfloat16(old.astype(np.float64).mean(axis=0).astype(np.float32))
        np.testing.assert_array_equal(new[313:], np.stack([weights.from_bfloat16(mean)] * 2))
    assert read(folder, "config.json")["vocab_size"] == 315
    assert sorted(path.name for path in folder.iterdir() if "partial" in path.name) == []


def test_a_new_token_is_one_token_wherever_it_stands(tmp_path: Path) -> None:
    folder = full(tmp_path / "model")
    ids = add_tokens(folder, ["kubectl", "日本語", "<|note|>"])
    tokenizer = ChatTokenizer.load(folder)
    text = "run kubectl in 日本語, (kubectl)."
    found = tokenizer.encode_document(text)
    assert (found.count(ids["kubectl"]), found.count(ids["日本語"])) == (2, 1)
    assert tokenizer.decode(found[:-1]) == text
    # One that looks like a control token is one: nobody types it, and decoded text does not show it.
    assert ids["<|note|>"] not in tokenizer.encode_document("a <|note|>")
    assert tokenizer.decode([ids["<|note|>"]]) == ""
    assert [one["special"] for one in read(folder, "tokenizer.json")["added_tokens"][-3:]] == [False, False, True]


def test_spare_rows_are_used_before_new_ones_are_made(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")  # 313 tokens, 320 rows
    before = weights.Weights.open(folder).float32(EMBEDDING)
    assert add_tokens(folder, ["kubectl"]) == {"kubectl": 313}
    after = weights.Weights.open(folder).float32(EMBEDDING)
    assert after.shape == before.shape
    others = np.arange(320) != 313
    np.testing.assert_array_equal(after[others], before[others])
    np.testing.assert_allclose(after[313], before[others].mean(axis=0), atol=1e-3)


def test_transformers_reads_a_folder_with_new_tokens(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = full(tmp_path / "model", tie_word_embeddings=False)
    complete_folder(folder, license_id="mit", place="here", add_tokens=["kubectl"])
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), output_loading_info=True, dtype=torch.float32
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    ours = ChatTokenizer.load(folder)
    ids = tokenizer("run kubectl now")["input_ids"]
    assert ids == ours.encode_document("run kubectl now")[:-1]
    assert model(torch.tensor([ids])).logits.shape[-1] == len(tokenizer) == 315
    assert (tokenizer.pad_token, model.config.pad_token_id, model.generation_config.pad_token_id) == (
        "<|pad|>",
        314,
        314,
    )


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["<|im_end|>"], r"'<\|im_end\|>' is a token already, with the id 2"),
        (["new", " is"], r"' is' is a token already, with the id \d+"),
        (["a"], "'a' is a token already, with the id"),
        (["new", "new"], "names 'new' twice"),
        ([""], "has an empty token, ''"),
        ([" \n"], "has an empty token"),
    ],
)
def test_a_token_that_is_no_new_one_is_refused(tmp_path: Path, tokens: list[str], message: str) -> None:
    folder = full(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ModelError, match=message) as caught:
        add_tokens(folder, tokens)
    assert caught.value.fix
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_nothing_to_add_changes_nothing(tmp_path: Path) -> None:
    folder = full(tmp_path / "model")
    before = (folder / "tokenizer.json").read_bytes()
    assert add_tokens(folder, []) == {}
    assert (folder / "tokenizer.json").read_bytes() == before


def test_the_stage_adds_them_and_its_key_tells(tmp_path: Path) -> None:
    base = str(full(tmp_path / "model"))
    ports = Ports(cache=tmp_path / "cache")
    plain = Recipe.model_validate({"name": "x", "model": {"base": base}})
    adding = {"model": {"base": base, "add_tokens": ["kubectl"]}, "train": {"method": "full"}}
    grown = Recipe.model_validate({"name": "x", **adding})
    made = run_stage(STAGE, grown, {}, tmp_path / "one", ports)
    again = run_stage(STAGE, grown, {}, tmp_path / "two", ports)
    assert made.id == again.id
    assert made.key != run_stage(STAGE, plain, {}, tmp_path / "one", ports).key
    facts = made.manifest.facts
    assert facts["added_tokens"] == {"kubectl": 313}
    assert (facts["pad_token"], facts["pad_token_id"], facts["pad_token_origin"]) == ("<|pad|>", 314, "added")
    assert facts["vocabulary"] == 315


def tokenizer_with(*special: str, pad: str, eos: str = "<|im_end|>", template: str = TEMPLATE) -> ChatTokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(tiny_tokenizer()))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    names = {"bos_token": "<|im_start|>", "eos_token": eos, "pad_token": pad}
    return ChatTokenizer(tokenizer.to_str(), template=template, config=names)


@pytest.mark.parametrize(
    ("special", "pad", "expected"),
    [
        (("<mine>", "<|reserved_special_token_0|>"), "<mine>", "<mine>"),
        (
            ("<|r|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>"),
            "<|im_end|>",
            "<|finetune_right_pad_id|>",
        ),
        (("<|r|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"), "", "<|reserved_special_token_0|>"),
        (("<repo_name>", "<empty_output>"), "<|im_end|>", "<empty_output>"),
        (("<|vision_pad|>", "<|image_pad|>"), "<|endoftext|>", "<|vision_pad|>"),
        ((), "<|im_end|>", None),
    ],
    ids=["its own", "Llama 3", "reserved", "SmolLM2", "Qwen: its own ends documents", "none"],
)
def test_the_pad_token_ends_nothing(special: tuple[str, ...], pad: str, expected: str | None) -> None:
    tokenizer = tokenizer_with(*special, pad=pad)
    assert spare_token(tokenizer, stops=tokenizer.stop_token_ids) == expected


def test_what_the_template_writes_or_the_base_stops_at_is_no_padding() -> None:
    tokenizer = tokenizer_with("<stop>", "<tool>", pad="<stop>", template=TEMPLATE + "{{ '<tool>' if tools }}")
    stops = [*tokenizer.stop_token_ids, tokenizer.control_tokens["<stop>"]]
    assert spare_token(tokenizer, stops=stops) is None


def test_a_new_pad_token_has_a_name_of_its_own() -> None:
    assert new_pad_token(tokenizer_with("<|pad|>", pad="")) == "<|pad_1|>"
