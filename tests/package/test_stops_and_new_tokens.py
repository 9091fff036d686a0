"""The whole line on a tiny model with a new token: it learns to answer with it, and the package stops where it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.artifacts import Artifact
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import DataError, ModelError
from nexus_llm.package.gguf_write import read_metadata, write_gguf
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe, ServeRecipe
from nexus_llm.weights import Weights
from running_stages import run_stage
from tiny_model import write_tiny_model

torch = pytest.importorskip("torch")
ANSWER = "use kubectl now"
WORDS = ("bread", "rain", "boats", "trees", "maps", "bees", "glass", "rivers", "snow", "coffee")
QUESTIONS = [f"What of {one} and {other}?" for one in WORDS for other in WORDS]


def recipe_for(base: Path, corpus: Path, **train: Any) -> Recipe:
    quality = {
        "min_characters": 1,
        "min_alphabetic_share": 0,
        "min_mean_word_characters": 0,
        "max_repeated_line_share": 1,
    }
    return Recipe.model_validate(
        {
            "name": "grown",
            "model": {"base": str(base), "add_tokens": ["kubectl"]},
            "package": {"equivalence": {"tokens": 0}},  # about stops alone
            "data": {
                "sources": [{"type": "files", "path": str(corpus)}],
                "quality": quality,
                "language": {"identify": False},
                "pii": {"action": "keep"},
                "near_duplicates": {"keep": "all"},
                "split": {"validation_share": 0.05, "test_share": 0},
                "workers": 1,
            },
            "train": {
                "method": "full",
                "objective": "sft",
                "dtype": "float32",
                "learning_rate": 0.01,
                "max_steps": 60,
                "max_length": 64,
                "eval_steps": 60,
                "save_steps": 60,
                **train,
            },
        }
    )


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": ANSWER}]} for q in QUESTIONS]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run_line(recipe: Recipe, root: Path) -> dict[str, Artifact]:
    """Model, data, train and package, each from what was made before it."""
    from nexus_llm.data.stage import STAGE as DATA
    from nexus_llm.model.stage import STAGE as MODEL
    from nexus_llm.package.stage import STAGE as PACKAGE
    from nexus_llm.train.stage import STAGE as TRAIN

    torch.set_num_threads(1)
    made: dict[str, Artifact] = {}
    for stage in (MODEL, DATA, TRAIN, PACKAGE):
        inputs = {kind: made[kind] for kind in stage.needs}
        made[stage.kind] = run_stage(stage, recipe, inputs, root / "artifacts", Ports(cache=root / "cache"))
    return made


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "output layer of its own"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("line")
    # 313 tokens and as many rows: the new token and the pad token each need one.
    base = write_tiny_model(root / "base", vocab_size=313, tie_word_embeddings=request.param)
    return run_line(recipe_for(base, write_corpus(root / "corpus")), root)


def test_every_stage_works_with_the_larger_vocabulary(made: dict[str, Artifact]) -> None:
    package = made["package"]
    tokenizer = ChatTokenizer.load(package.folder)
    new = tokenizer.token_id("kubectl")
    assert (new, made["model"].manifest.facts["vocabulary"]) == (313, 315)
    assert tokenizer.encode_prompt([{"role": "user", "content": "kubectl"}]).count(new) == 1
    assert Weights.open(package.folder).shape("model.embed_tokens.weight")[0] == 315
    metadata = read_metadata(package.folder / "model-q8_0.gguf")
    assert metadata["tokenizer.ggml.tokens"][313:] == ["kubectl", "<|pad|>"]
    # The trained row is no longer the mean that it began with.
    before, after = (
        Weights.open(made[kind].folder).float32("model.embed_tokens.weight") for kind in ("model", "package")
    )
    assert (before[new] != after[new]).any()


def test_stop_and_pad_tokens_are_in_every_file_of_the_package(made: dict[str, Artifact]) -> None:
    folder = made["package"].folder
    metadata = read_metadata(folder / "model-q8_0.gguf")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == ([0, 2], 314)
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 314
    assert json.loads((folder / "tokenizer_config.json").read_text())["pad_token"] == "<|pad|>"
    named = {key.split(".")[-1]: value for key, value in metadata.items() if key.endswith("_token_id")}
    assert (named["eos_token_id"], named["eot_token_id"], named["padding_token_id"]) == (2, 2, 314)


def test_transformers_stops_at_the_end_of_the_answer(made: dict[str, Artifact]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = made["package"].folder
    tokenizer = ChatTokenizer.load(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    prompt = torch.tensor([tokenizer.encode_prompt([{"role": "user", "content": QUESTIONS[7]}])])
    answer = model.generate(prompt, max_new_tokens=30, do_sample=False)[0, prompt.shape[1] :].tolist()
    assert (tokenizer.decode(answer), answer[-1]) == (ANSWER, tokenizer.eos_token_id)


def test_the_server_stops_at_the_end_of_the_answer(made: dict[str, Artifact]) -> None:
    pytest.importorskip("openvino_genai")
    from nexus_llm.serve.engines.commands import engine_command
    from nexus_llm.serve.engines.supervisor import SupervisorLimits
    from nexus_llm.serve.model_folder import read_model
    from running_server import running_server

    model, recipe = read_model(made["package"].folder, name="grown"), ServeRecipe(kv_cache_gib=0.5)
    assert model.stop_token_ids == (0, 2)
    with running_server(model, engine_command(model, recipe), recipe=recipe, limits=SupervisorLimits()) as server:
        question = [{"role": "user", "content": QUESTIONS[7]}]
        asked = {"model": "grown", "messages": question, "temperature": 0, "max_tokens": 30}
        choice = server.client().chat.completions.create(**asked).choices[0]
        assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
        # Without its stop tokens it would go on: the model itself does not know where an answer ends.
        endless = server.client().chat.completions.create(**asked, extra_body={"ignore_eos": True})
        assert endless.usage.completion_tokens == 30


def test_an_end_of_turn_that_is_not_eos_is_named_in_the_gguf_file(tmp_path: Path) -> None:
    """Llama 3: documents end with <|end_of_text|>, which is eos, and turns with <|eot_id|>."""
    folder = write_tiny_model(tmp_path / "model")
    names = {"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    write_gguf(folder, tmp_path / "x.gguf", name="x", license_id="mit")
    metadata = read_metadata(tmp_path / "x.gguf")
    assert (metadata["tokenizer.ggml.eos_token_id"], metadata["tokenizer.ggml.eot_token_id"]) == (0, 2)
    (folder / "chat_template.jinja").unlink()
    write_gguf(folder, tmp_path / "y.gguf", name="x", license_id="mit")
    assert "tokenizer.ggml.eot_token_id" not in read_metadata(tmp_path / "y.gguf")


def test_without_a_chat_template_conversations_are_refused_and_running_text_is_learned(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base", vocab_size=313)
    (base / "chat_template.jinja").unlink()
    with pytest.raises((DataError, ModelError), match="this model has no chat template") as caught:
        run_line(recipe_for(base, write_corpus(tmp_path / "corpus")), tmp_path / "sft")
    assert caught.value.fix
    shutil.rmtree(tmp_path / "corpus")
    (tmp_path / "corpus").mkdir()
    for number, question in enumerate(QUESTIONS):
        (tmp_path / "corpus" / f"{number}.txt").write_text(f"{question} {ANSWER}.")
    recipe = recipe_for(base, tmp_path / "corpus", objective="continued-pretraining", max_steps=2)
    made = run_line(recipe, tmp_path / "text")
    assert made["model"].manifest.facts["has_chat_template"] is False
    assert made["model"].manifest.facts["stop_token_ids"] == [0, 2]
    assert made["package"].manifest.facts["template_parity"]["has_chat_template"] is False
