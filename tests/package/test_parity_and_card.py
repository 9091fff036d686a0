"""The packaged folder encodes as the trainer did, and the card says what happened."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus_llm.errors import PackagingError
from nexus_llm.evaluate.comparison import Comparison, compare
from nexus_llm.evaluate.gate import gate_json, judge_domain, judge_tasks
from nexus_llm.evaluate.results import ItemResult, TaskResult
from nexus_llm.package.card import model_card
from nexus_llm.package.gguf_write import read_metadata, write_gguf
from nexus_llm.package.template_parity import GOLDEN, GOLDEN_CALLS, check_parity
from nexus_llm.recipe import GateRecipe, TaskRule
from nexus_llm.records import CompleterFacts, DocumentScore
from tiny_model import write_tiny_model
from tool_templates import HERMES


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def metadata(trainer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(trainer, file, name="tiny", license_id="mit")
    return read_metadata(file)


@pytest.fixture
def packaged(trainer: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trainer, tmp_path / "packaged"))


def change_template(folder: Path, before: str, after: str) -> None:
    file = folder / "chat_template.jinja"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_an_unchanged_folder_passes_every_reader(trainer: Path, packaged: Path, metadata: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    facts = check_parity(trainer, packaged, metadata)
    assert facts == {
        "conversations": len(GOLDEN),
        "has_chat_template": True,
        "knows_tools": False,
        "equal_to": ["the packaged folder", "the GGUF file", "transformers"],
    }


def test_one_lost_newline_in_the_template_is_found(trainer: Path, packaged: Path) -> None:
    change_template(packaged, "<|im_end|>\n", "<|im_end|>")
    with pytest.raises(PackagingError, match=r"'one question'.*first difference is at token \d+") as caught:
        check_parity(trainer, packaged, None)
    assert "the packaged folder encodes" in caught.value.what


def test_a_template_that_trims_is_found_by_outer_spaces(trainer: Path, packaged: Path) -> None:
    change_template(packaged, "message['content']", "message['content'] | trim")
    with pytest.raises(PackagingError, match=r"'code'|'outer spaces'"):
        check_parity(trainer, packaged, None)


def test_a_template_that_refuses_a_system_message_is_found(trainer: Path, packaged: Path) -> None:
    file = packaged / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    file.write_text(refusal + file.read_text())
    with pytest.raises(PackagingError, match=r"'system'.*only the trainer can encode it"):
        check_parity(trainer, packaged, None)


def test_numbers_that_are_cut_otherwise_are_found(trainer: Path, packaged: Path) -> None:
    def no_digits(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
        content["model"]["vocab"]["12"] = len(content["model"]["vocab"])
        content["model"]["merges"].append(["1", "2"])

    change_tokenizer(packaged, no_digits)
    with pytest.raises(PackagingError, match="encodes the conversation 'code'"):
        check_parity(trainer, packaged, None)


def test_a_control_token_that_became_ordinary_is_found(trainer: Path, packaged: Path) -> None:
    change_tokenizer(packaged, lambda content: content["added_tokens"].pop())
    with pytest.raises(PackagingError):
        check_parity(trainer, packaged, None)


def test_a_gguf_file_with_another_template_is_found(trainer: Path, packaged: Path, metadata: dict[str, Any]) -> None:
    other = metadata | {"tokenizer.chat_template": metadata["tokenizer.chat_template"] + " "}
    with pytest.raises(PackagingError, match="the GGUF file encodes"):
        check_parity(trainer, packaged, other)


def test_transformers_reading_the_folder_in_another_way_is_found(trainer: Path, packaged: Path) -> None:
    """transformers 5 rebuilds the pre-tokenizer of a class that it knows by name."""
    pytest.importorskip("transformers")
    config = json.loads((packaged / "tokenizer_config.json").read_text())
    (packaged / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))

    def learn_number(content: dict[str, Any]) -> None:
        content["model"]["vocab"]["12"] = len(content["model"]["vocab"])
        content["model"]["merges"].append(["1", "2"])

    for folder in (packaged, trainer_copy := Path(shutil.copytree(trainer, packaged.parent / "trainer"))):
        change_tokenizer(folder, learn_number)
    with pytest.raises(PackagingError, match="transformers encodes"):
        check_parity(trainer_copy, packaged, None)


def test_a_base_without_a_template_is_compared_on_running_text(trainer: Path, packaged: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(trainer, tmp_path / "bare"))
    for folder in (bare, packaged):
        (folder / "chat_template.jinja").unlink()
    assert check_parity(bare, packaged, None)["has_chat_template"] is False
    with pytest.raises(PackagingError, match="only the trainer can encode it"):
        check_parity(trainer, packaged, None)


@pytest.fixture
def hermes(trainer: Path, tmp_path: Path) -> Path:
    """The tiny model with a template that knows tools."""
    folder = Path(shutil.copytree(trainer, tmp_path / "hermes"))
    (folder / "chat_template.jinja").write_text(HERMES, encoding="utf-8")
    return folder


def test_tools_calls_and_results_are_compared_where_the_template_knows_them(hermes: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    file = tmp_path / "hermes.gguf"
    write_gguf(hermes, file, name="tiny", license_id="mit")
    facts = check_parity(hermes, hermes, read_metadata(file))
    assert (facts["knows_tools"], facts["conversations"]) == (True, len(GOLDEN) + len(GOLDEN_CALLS))
    assert facts["equal_to"] == ["the packaged folder", "the GGUF file", "transformers"]


def test_a_template_that_writes_calls_in_another_way_is_found(hermes: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(hermes, tmp_path / "other"))
    change_template(other, "'arguments':", "'parameters':")
    with pytest.raises(PackagingError, match="the packaged folder encodes the conversation 'a call and its result'"):
        check_parity(hermes, other, None)


MODEL = {
    "base": "tiny",
    "repository": "org/tiny",
    "source": "hf:org/tiny@c0ffee",
    "license": "mit",
    "parameters": 1_234_567,
    "context_tokens": 128,
}
DATA = {
    "read": 100,
    "kept": 60,
    "duplicates": {"exact": 5, "near": 15},
    "rejected": {"too_short": 20},
    "quarantined": 3,
    "documents": {"train": 50, "validation": 4, "test": 6},
    "tokens": {"train": 5000, "validation": 400, "test": 600},
}
TRAIN = {
    "steps": 24,
    "tokens": 24_576,
    "first_loss": 2.5,
    "last_loss": 2.25,
    "trainable_parameters": 4_884_480,
    "validation_losses": [{"step": 24, "loss": 2.3}],
}
PACKAGE = {
    "merge": {"method": "lora", "rank": 16, "scale": 2.0, "changed_tensors": 210},
    "template_parity": {"conversations": 11, "equal_to": ["the packaged folder", "the GGUF file"]},
    "formats": {"gguf-q8_0": {"tensors": {"F32": 61, "Q8_0": 211}, "max_error_share": 0.0057}},
}


def test_the_card_holds_the_data_funnel_and_the_training(tmp_path: Path) -> None:
    card = model_card(name="mine", model=MODEL, data=DATA, train=TRAIN, package=PACKAGE)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "org/tiny"
    assert yaml.safe_load(front)["license"] == "mit"
    for line in (
        "| documents read | 100 |",
        "| rejected: too short | 20 |",
        "| near duplicates | 15 |",
        "| **kept** | 60 |",
        "| train | 50 | 5,000 |",
        "LoRA of rank 16",
        "2.5000 → 2.2500",
        "3 broken records",
        "| gguf-q8_0 | 61 F32, 211 Q8_0 | 0.0057 |",
    ):
        assert line in body
    assert card == model_card(name="mine", model=MODEL, data=DATA, train=TRAIN, package=PACKAGE)


def test_the_card_tells_every_rule_of_the_gate_also_where_nobody_knows_an_interval() -> None:
    who = CompleterFacts(model="m", road="scripted")

    def result(*scores: float) -> TaskResult:
        items = tuple(ItemResult(str(place), {"exact": one}) for place, one in enumerate(scores))
        return TaskResult("support", "1", "exact", "", 0, who, items)

    def comparison(documents: int) -> Comparison:
        scores = [
            DocumentScore(str(place), tokens=9, negative_log_likelihood=9.0 + place) for place in range(documents)
        ]
        return compare("domain", scores, scores, confidence=0.95, seed=0)

    gate = GateRecipe(tasks={"support": TaskRule(min_score=0.5)})
    tasks = judge_tasks([(result(*[0.0] * 40), result(*[1.0] * 40))], gate, seed=0)
    few = judge_tasks([(result(0.0, 0.5), result(1.0, 0.5))], gate, seed=0)
    judged = gate_json([judge_domain(comparison(3), min_improvement=0.0), *tasks, *few])
    card = model_card(name="mine", model=MODEL, data=DATA, train=TRAIN, package=PACKAGE, gate=judged)
    assert "| domain | 3.04 → 3.04 | +0.0% (no interval) | 3 | inconclusive |" in card
    assert re.search(r"\| support \| exact, min score \| 1.000 \| \+0.500 \(.* at 95%\) \| 40 \| pass \|", card)
    assert "| support | exact, min score | 0.750 | +0.250 (no interval) | 2 | inconclusive |" in card


def test_the_card_of_a_bare_base_claims_no_training() -> None:
    package = {**PACKAGE, "merge": {"method": "none", "changed_tensors": 0}}
    card = model_card(name="tiny", model=MODEL, data=None, train=None, package=package)
    assert "base_model" not in card
    assert "## Training" not in card
    assert "unchanged copy" in card
