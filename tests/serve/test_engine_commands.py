"""From a recipe to an engine: settings, flags, refusals; and how vLLM's wire reads."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import MissingExtraError, ServingError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines import child, llama_library
from nexus_llm.serve.engines.commands import engine_command, require_engine
from nexus_llm.serve.engines.port import EngineRequest
from nexus_llm.serve.engines.supervisor import EngineSupervisor, SupervisorLimits
from nexus_llm.serve.engines.vllm import VllmSettings
from nexus_llm.serve.engines.vllm_protocol import VllmAnswerError, completion_body, read_event, vllm_arguments
from nexus_llm.serve.model_folder import SamplingDefaults, ServedModel, read_model

REQUEST = EngineRequest(1, [5, 6], 4, stop_token_ids=(2,), logprobs=True, top_logprobs=2)


def model(tokenizer: ChatTokenizer) -> ServedModel:
    return ServedModel("m", Path("/model"), tokenizer, 512, (2,), SamplingDefaults(), None)


@pytest.mark.parametrize("name", ["openvino", "llama.cpp", "transformers", "vllm"])
def test_each_engine_of_the_recipe_has_a_child_that_takes_its_settings(name: str, tokenizer: ChatTokenizer) -> None:
    import importlib

    command = engine_command(model(tokenizer), ServeRecipe.model_validate({"engine": name}))
    module, _, settings = child.ENGINES[name]
    kind = getattr(importlib.import_module(f"nexus_llm.serve.engines.{module}"), settings)
    assert kind(**json.loads(json.dumps(command.settings)))


def test_an_engine_that_waits_for_another_is_given_the_time_for_it(tokenizer: ChatTokenizer) -> None:
    """Else it would be killed before it can tell what is wrong with its vLLM."""

    async def limits(name: str) -> SupervisorLimits:
        command = engine_command(model(tokenizer), ServeRecipe.model_validate({"engine": name}))
        return EngineSupervisor(command)._limits

    assert asyncio.run(limits("vllm")).start_seconds > VllmSettings("/model").start_seconds
    assert asyncio.run(limits("openvino")) == SupervisorLimits()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"engine": "openai"}, "upstream.url"),
        ({"adapters": {"a": "x"}}, "cannot switch adapters"),
        ({"engine": "tgi"}, "openvino"),
        ({"engine": "openai", "upstream": {"url": "https://user:secret@host/v1"}}, "pattern"),
        ({"engine": "openai", "upstream": {"url": "https://host/v1", "key": "sk-1"}}, "key"),
    ],
)
def test_a_recipe_that_no_engine_can_follow_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ServeRecipe.model_validate(values)


def test_a_missing_wheel_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="xllamacpp") as caught:
        require_engine(ServeRecipe(engine="llama.cpp"))
    assert caught.value.fix == "pip install 'nexus-llm-platform[llama]'"
    require_engine(ServeRecipe.model_validate({"engine": "openai", "upstream": {"url": "http://127.0.0.1/v1"}}))


def test_a_missing_vllm_program_is_named_with_the_recipe_s_field() -> None:
    recipe = ServeRecipe.model_validate({"engine": "vllm", "vllm": {"program": "no-such-vllm"}})
    with pytest.raises(ServingError, match="no-such-vllm") as caught:
        require_engine(recipe)
    assert "environment of its own" in (caught.value.fix or "")


def test_engines_of_the_hugging_face_layout_need_no_gguf(tiny_folder: Path, tmp_path: Path) -> None:
    for path in tiny_folder.iterdir():
        if path.suffix != ".gguf":
            (tmp_path / path.name).symlink_to(path)
    assert read_model(tmp_path, name="m", engine="transformers").weights == tmp_path
    with pytest.raises(ServingError, match=r"\.gguf"):
        read_model(tmp_path, name="m", engine="llama.cpp")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ServingError, match="safetensors"):
        read_model(tmp_path, name="m", engine="vllm")


def test_vllm_is_told_everything_that_the_gateway_relies_on() -> None:
    flags = vllm_arguments("/m", port=1, served_name="n", max_running=8, context_tokens=512, adapters={"a": "/a"})
    text = " ".join(flags)
    for flag in ("--max-num-seqs 8", "--max-model-len 512", "--logprobs-mode raw_logprobs", "--lora-modules a=/a"):
        assert flag in text
    assert "--enable-lora" not in vllm_arguments("/m", port=1, served_name="n", max_running=8)


def test_a_request_keeps_every_setting_on_its_way_to_vllm() -> None:
    request = EngineRequest(
        1, [5, 6], 4, (2,), temperature=0.5, top_p=0.9, seed=3, presence_penalty=1.0, frequency_penalty=-1.0,
        repetition_penalty=1.5, prompt_logprobs=True, logit_bias={7: -100.0}, json_schema='{"type": "object"}',
        adapter="a",
    )  # fmt: skip
    body = completion_body(request, served_name="n")
    assert (body["model"], body["prompt"], body["stop_token_ids"], body["stream"]) == ("a", [5, 6], [2], False)
    assert (body["temperature"], body["top_p"], body["top_k"], body["seed"]) == (0.5, 0.9, 0, 3)
    assert (body["presence_penalty"], body["frequency_penalty"], body["repetition_penalty"]) == (1.0, -1.0, 1.5)
    assert body["logit_bias"] == {"7": -100.0}
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["prompt_logprobs"] == 0


def test_vllm_events_become_deltas() -> None:
    logprobs = {
        "token_logprobs": [-0.5],
        "top_logprobs": [{"token_id:9": -2.5, "token_id:7": -0.5, "token_id:8": -1.0}],
    }
    choice = {"token_ids": [7], "logprobs": logprobs, "finish_reason": "length"}
    delta = read_event(b"data: " + json.dumps({"choices": [choice]}).encode(), REQUEST)
    assert delta is not None
    assert (delta.token_ids, delta.logprobs, delta.finish) == ([7], [-0.5], "length")
    assert delta.top_logprobs == [[(7, -0.5), (8, -1.0)]]
    assert read_event(b"data: [DONE]", REQUEST) is None
    assert read_event(b": ping", REQUEST) is None


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"error": {"message": "a prompt"}}', '{"choices": [{}]}',
        '{"choices": [{"token_ids": ["x"], "finish_reason": null}]}',
        '{"choices": [{"token_ids": [1], "logprobs": null, "finish_reason": null}]}',
        '{"choices": [{"token_ids": [], "finish_reason": "new"}]}',
    ],
)  # fmt: skip
def test_a_vllm_that_answers_otherwise_is_found_out_without_quoting_it(text: str) -> None:
    if text == '{"choices": [{}]}':
        assert read_event(f"data: {text}".encode(), REQUEST) is not None  # nothing new, which is no lie
        return
    with pytest.raises(VllmAnswerError) as caught:
        read_event(f"data: {text}".encode(), REQUEST)
    assert "a prompt" not in str(caught.value)


def test_another_version_of_llama_cpp_is_refused_before_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp", reason="the [llama] extra is not installed")
    monkeypatch.setattr(llama_library, "_LOADED", [])
    monkeypatch.setattr(llama_library, "_FLAG_DEFAULTS", bytes((1, 1, 1, 1, 1, 0)))
    with pytest.raises(RuntimeError, match="pinned"):
        llama_library._library()
