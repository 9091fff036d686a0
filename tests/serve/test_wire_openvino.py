"""What the OpenVINO engine says that it can do, it does: schemas, scored prompts, embeddings; with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.model_folder import read_model
from nexus_llm.serve.server import engine_command
from running_server import RunningServer, running_server

MESSAGES: list[Any] = [{"role": "user", "content": "Describe Anna, who is 7."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Anna", "Bert"]}, "age": {"type": "integer", "minimum": 3, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ALLOWED = [
    json.dumps({"name": name, "age": age}, separators=(",", ":")) for name in ("Anna", "Bert") for age in range(3, 10)
]


@pytest.fixture(scope="module")
def tiny_server(tiny_folder: Path) -> Iterator[RunningServer]:
    pytest.importorskip("openvino_genai")
    model, recipe = read_model(tiny_folder, name="tiny"), ServeRecipe(kv_cache_gib=0.5)
    with running_server(model, engine_command(model, recipe), recipe=recipe, limits=SupervisorLimits()) as server:
        yield server


def wanted(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}


def test_random_weights_keep_a_schema_and_a_bad_one_harms_nobody(tiny_server: RunningServer) -> None:
    client = tiny_server.client()
    pid = tiny_server.engine_pid
    for seed in range(3):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="tiny", messages=MESSAGES, response_format=wanted({"type": "string", "pattern": f"({seed}"})
            )
        assert caught.value.code == "invalid_json_schema"
        answer = client.chat.completions.create(
            model="tiny", messages=MESSAGES, response_format=wanted(SCHEMA), seed=seed, temperature=1, max_tokens=200
        ).choices[0]
        said = "".join((answer.message.content or "").split())
        # White space may fill the room that there is.
        assert said in ALLOWED if answer.finish_reason == "stop" else any(one.startswith(said) for one in ALLOWED)
        assert said
    assert tiny_server.engine_pid == pid


@pytest.mark.parametrize("round_", [1, 2])
def test_a_prompt_scores_the_same_whether_its_prefix_is_cached_or_not(tiny_server: RunningServer, round_: int) -> None:
    pid = tiny_server.engine_pid
    prompt = "one two three four five six seven eight nine ten " * 4
    answer = tiny_server.client().completions.create(
        model="tiny", prompt=prompt, max_tokens=1, echo=True, logprobs=2, temperature=0
    )
    told = answer.choices[0].logprobs
    assert len(told.token_logprobs) == answer.usage.prompt_tokens + 1
    assert told.token_logprobs[0] is None
    assert all(value < 0 for value in told.token_logprobs[1:])
    zero = tiny_server.client().completions.create(model="tiny", prompt=prompt, max_tokens=0, echo=True, logprobs=2)
    assert zero.choices[0].logprobs.token_logprobs == told.token_logprobs[:-1]
    assert tiny_server.engine_pid == pid  # a request whose engine dies is tried again, so nothing else would tell


def test_scores_and_embeddings_are_those_of_transformers(tiny_server: RunningServer, tiny_folder: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = tiny_server.model.tokenizer.encode_text("A text of some words, and some more of them.")
    with torch.no_grad():
        seen = reference(torch.tensor([ids]), output_hidden_states=True)
    expected = torch.log_softmax(seen.logits[0], -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    answer = tiny_server.client().completions.create(model="tiny", prompt=ids, max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].logprobs.token_logprobs[1:] == pytest.approx(expected.tolist(), abs=0.1)
    mean = seen.hidden_states[-1][0].mean(0)
    made = tiny_server.client().embeddings.create(model="tiny", input=ids, encoding_format="float").data[0].embedding
    assert torch.dot(torch.tensor(made), mean / mean.norm()).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat", {"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ("chat", {"logit_bias": {"5": 1}}, "logit_bias"),
        ("completion", {"logprobs": 2}, "logprobs"),
        ("completion", {"logprobs": 2, "echo": True, "max_tokens": 5}, "logprobs"),
    ],
)
def test_what_openvino_cannot_do_is_refused_by_name(
    tiny_server: RunningServer, path: str, body: dict[str, Any], param: str
) -> None:
    client = tiny_server.client()
    with pytest.raises(openai.BadRequestError) as caught:
        if path == "chat":
            client.chat.completions.create(model="tiny", messages=MESSAGES, **body)
        else:
            client.completions.create(model="tiny", prompt="x", **body)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
