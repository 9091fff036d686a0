"""Tools, schemas, log probabilities, echoes, biases and embeddings, through official clients and a real process."""

from __future__ import annotations

import base64
import itertools
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from nexus_llm.chat import ChatTokenizer
from nexus_llm.serve.engines.fake import likeliest, logprob
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import ServedModel
from running_server import RunningServer, running_server
from talking_engine import SAID, TOOL_TEMPLATE, byte_token_ids

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
QUESTION = [{"role": "user", "content": "How warm is it in Ulm?"}]
CALLED = {"city": "Ulm", "unit": "C"}


@pytest.fixture(scope="module")
def tool_model(echo_model: ServedModel) -> ServedModel:
    """The echo model with a chat template that knows tools."""
    tokenizer = ChatTokenizer(
        echo_model.tokenizer.tokenizer_json, template=TOOL_TEMPLATE, config={"eos_token": "<|im_end|>"}
    )
    return replace(echo_model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def wire_server(tool_model: ServedModel) -> Iterator[RunningServer]:
    """An engine that can do everything and always says `SAID`, or a document of the schema."""
    tokenizer = tool_model.tokenizer
    settings = {
        "end_token_id": 2,
        "script": tokenizer.encode_text(SAID),
        "byte_token_ids": byte_token_ids(tokenizer),
    }
    with running_server(tool_model, EngineCommand("fake", settings)) as server:
        yield server


def test_a_call_comes_out_of_the_answer_whole_and_streamed(wire_server: RunningServer) -> None:
    asked: dict[str, Any] = {"model": "echo", "messages": QUESTION, "tools": [WEATHER]}
    choice = wire_server.client().chat.completions.create(**asked).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    (call,) = choice.message.tool_calls or []
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "weather", CALLED)
    chunks = list(wire_server.client().chat.completions.create(**asked, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    streamed = [part for delta in deltas for part in delta.tool_calls or []]
    assert [(part.index, part.function.name) for part in streamed] == [(0, "weather")]
    assert json.loads(streamed[0].function.arguments) == CALLED
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    # Text before the call went out before the call was there.
    contents = [number for number, delta in enumerate(deltas) if delta.content]
    assert contents[-1] < next(number for number, delta in enumerate(deltas) if delta.tool_calls)
    assert len(contents) > 3


def test_calls_and_results_of_earlier_turns_reach_the_template(start: Any, tool_model: ServedModel) -> None:
    server = start(model=tool_model, end_token_id=2)
    call = {"id": "abc", "type": "function", "function": {"name": "weather", "arguments": json.dumps(CALLED)}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "abc", "content": "21 °C"},
    ]
    answer = server.client().chat.completions.create(model="echo", messages=messages, tools=[WEATHER])
    template = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc", "content": "21 °C"},
    ]
    ids = tool_model.tokenizer.encode_prompt(template, tools=[WEATHER])
    assert answer.usage.prompt_tokens == len(ids)


def test_tool_choice_none_hides_the_tools(wire_server: RunningServer) -> None:
    client = wire_server.client()
    hidden = client.chat.completions.create(model="echo", messages=QUESTION, tools=[WEATHER], tool_choice="none")
    without = client.chat.completions.create(model="echo", messages=QUESTION)
    assert hidden.usage == without.usage
    assert hidden.choices[0].message.content == SAID
    assert hidden.choices[0].message.tool_calls is None


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_keeps_the_schema_of_its_parameters(
    wire_server: RunningServer, choice: Any, stream: bool
) -> None:
    other = {"type": "function", "function": {"name": "zoo"}}
    tools = [WEATHER, other] if choice == "required" else [other, WEATHER]
    asked: dict[str, Any] = {"model": "echo", "messages": QUESTION, "tools": tools, "tool_choice": choice}
    created = wire_server.client().chat.completions.create(**asked, stream=stream)
    if stream:
        chunks = list(created)
        calls = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
        finish = chunks[-1].choices[0].finish_reason
        assert not any(chunk.choices[0].delta.content for chunk in chunks)
    else:
        calls, finish = created.choices[0].message.tool_calls, created.choices[0].finish_reason
        assert created.choices[0].message.content is None
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", {"city": "x", "unit": "C"})
    ]
    assert finish == "tool_calls"


def test_an_answer_without_parallel_calls_ends_with_its_first(start: Any, tool_model: ServedModel) -> None:
    twice = tool_model.tokenizer.encode_text(SAID + SAID[len("I look.") :])
    server = start(model=tool_model, end_token_id=2, script=twice)
    asked: dict[str, Any] = {"model": "echo", "messages": QUESTION, "tools": [WEATHER]}
    both = server.client().chat.completions.create(**asked)
    assert len(both.choices[0].message.tool_calls) == 2
    assert len({call.id for call in both.choices[0].message.tool_calls}) == 2
    one = server.client().chat.completions.create(**asked, parallel_tool_calls=False)
    assert len(one.choices[0].message.tool_calls) == 1
    assert one.choices[0].finish_reason == "tool_calls"
    assert one.usage.completion_tokens < both.usage.completion_tokens


def test_a_strict_tool_that_nothing_enforces_is_refused(wire_server: RunningServer) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
    with pytest.raises(openai.BadRequestError) as caught:
        wire_server.client().chat.completions.create(model="echo", messages=QUESTION, tools=[strict])
    assert caught.value.param == "tools[0].function.strict"
    wire_server.client().chat.completions.create(
        model="echo", messages=QUESTION, tools=[strict], tool_choice="required"
    )


class Person(pydantic.BaseModel):
    """What the official client turns into a schema, and back."""

    name: str
    age: int
    likes: list[str]


def test_the_official_client_parses_an_answer_into_a_model(wire_server: RunningServer) -> None:
    answer = wire_server.client().chat.completions.parse(model="echo", messages=QUESTION, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="x", age=1, likes=[])


def test_json_mode_gives_an_object(wire_server: RunningServer) -> None:
    answer = wire_server.client().chat.completions.create(
        model="echo", messages=QUESTION, response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content) == {}


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": "integer", "multipleOf": 5}, "multipleOf"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "properties.a.not"),
        ({"type": "text"}, "type"),
        ({"type": "string", "format": "colour"}, "format"),
        ({"anyOf": []}, "anyOf"),
        ({"$ref": "http://127.0.0.1/x"}, "$ref"),
        ({"properties": 5}, "properties"),
        ({"oneOf": [{"type": "string"}]}, "oneOf"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "allOf"),
        # Their grammars would take minutes, or gigabytes, or for ever.
        ({"type": "string", "pattern": "^((a{1,300}){1,300}){1,300}$"}, "pattern"),
        ({"type": "string", "pattern": "^(a|b|ab)*(a{0,5000}b{0,5000}){0,50}$"}, "pattern"),
        ({"type": "object", "properties": {f"p{number}": True for number in range(301)}}, "properties"),
        ({"items": {"anyOf": [{"pattern": f"{n}a{{0,700}}"} for n in range(20)]}}, "items.anyOf[14].pattern"),
        ({"anyOf": [{"maxLength": 10_000 + number} for number in range(30)]}, "anyOf[20].maxLength"),
        (
            {"anyOf": [{"minLength": 300, "maxLength": 300}] * 30 + [{"minLength": 9_000 + n} for n in range(30)]},
            "anyOf[49].minLength",
        ),
        ({"anyOf": [{"enum": list(range(5_000))}, {"enum": list(range(5_000))}]}, "anyOf[1].enum"),
    ],
)
def test_a_schema_that_would_not_be_kept_is_refused_with_its_place(
    wire_server: RunningServer, schema: dict[str, Any], param: str
) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        wire_server.client().chat.completions.create(model="echo", messages=QUESTION, response_format=wanted)
    assert (caught.value.param, caught.value.code) == (
        f"response_format.json_schema.schema.{param}",
        "invalid_json_schema",
    )


def test_a_schema_that_the_engine_cannot_compile_is_a_400_that_names_it(wire_server: RunningServer) -> None:
    schema = {"type": "string", "pattern": "("}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        wire_server.client().chat.completions.create(model="echo", messages=QUESTION, response_format=wanted)
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_json_schema")


def test_alternatives_come_with_each_token(wire_server: RunningServer) -> None:
    asked: dict[str, Any] = {"model": "echo", "messages": QUESTION, "logprobs": True, "top_logprobs": 3}
    whole = wire_server.client().chat.completions.create(**asked, max_tokens=5)
    tokens = whole.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == SAID[:5]
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert all(token.token in [one.token for one in token.top_logprobs] for token in tokens)
    assert all(one.logprob >= two.logprob for token in tokens for one, two in itertools.pairwise(token.top_logprobs))
    streamed = [
        token
        for chunk in wire_server.client().chat.completions.create(**asked, max_tokens=5, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == tokens


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_an_echo_tells_how_likely_each_token_of_the_prompt_was(wire_server: RunningServer, max_tokens: int) -> None:
    prompt = "Grüße aus Ulm"
    answer = wire_server.client().completions.create(
        model="echo", prompt=prompt, max_tokens=max_tokens, echo=True, logprobs=2, temperature=0
    )
    choice = answer.choices[0]
    assert choice.text == prompt + SAID[:max_tokens]
    ids = wire_server.model.tokenizer.encode_text(prompt)
    told = choice.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)
    assert len(told.tokens) == len(ids) + max_tokens
    assert told.token_logprobs[0] is None
    assert told.top_logprobs[0] is None
    assert all(value < 0 for value in told.token_logprobs[1:])
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), max_tokens)
    # Both tokens of a character in two bytes stand at its place.
    assert told.text_offset[:6] == [0, 1, 2, 2, 3, 3]
    assert told.text_offset[-1] == len(choice.text) - 1
    assert choice.finish_reason == "length"


def test_an_echo_streams_the_prompt_first(wire_server: RunningServer) -> None:
    chunks = wire_server.client().completions.create(
        model="echo", prompt="abc", max_tokens=3, echo=True, logprobs=0, stream=True
    )
    texts, tokens = "", []
    for chunk in chunks:
        texts += chunk.choices[0].text
        tokens += chunk.choices[0].logprobs.tokens if chunk.choices[0].logprobs else []
    assert (texts, tokens) == ("abc" + SAID[:3], ["a", "b", "c", *SAID[:3]])


def test_a_bias_forces_and_forbids_tokens(wire_server: RunningServer) -> None:
    token = wire_server.model.tokenizer.encode_text("z")[0]
    client = wire_server.client()
    forced = client.chat.completions.create(model="echo", messages=QUESTION, logit_bias={str(token): 100}, max_tokens=3)
    assert forced.choices[0].message.content == "z"  # then the end of the script
    first = wire_server.model.tokenizer.encode_text("I")[0]
    without = client.chat.completions.create(model="echo", messages=QUESTION, logit_bias={str(first): -100})
    assert without.choices[0].message.content == SAID[1:]


def test_embeddings_have_length_one_in_both_encodings(wire_server: RunningServer) -> None:
    client = wire_server.client()
    ids = wire_server.model.tokenizer.encode_text("hello")
    answer = client.embeddings.create(model="echo", input=["hello", "a longer text"], encoding_format="float")
    assert [one.index for one in answer.data] == [0, 1]
    assert sum(value * value for value in answer.data[1].embedding) == pytest.approx(1)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == len("hello") + len("a longer text")
    by_default = client.embeddings.create(model="echo", input="hello")  # the client asks for base64 and decodes it
    by_ids = client.embeddings.create(model="echo", input=ids, encoding_format="float")
    assert by_ids.data[0].embedding == answer.data[0].embedding
    assert by_default.data[0].embedding == pytest.approx(answer.data[0].embedding, rel=1e-6)
    raw = client.embeddings.with_raw_response.create(model="echo", input=[ids], encoding_format="base64")
    packed = base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(packed) // 4}f", packed)) == pytest.approx(answer.data[0].embedding, rel=1e-6)


def test_more_inputs_than_the_server_runs_at_once_are_embedded(wire_server: RunningServer) -> None:
    texts = [f"text {number}" for number in range(300)]
    answer = wire_server.client().embeddings.create(model="echo", input=texts)
    assert len(answer.data) == 300
    again = wire_server.client().embeddings.create(model="echo", input=texts[250])
    assert answer.data[250].embedding == again.data[0].embedding


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"dimensions": 5}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": "x" * 3000}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": "gpt-7"}, "model"),
    ],
)
def test_an_embedding_that_cannot_be_made_is_refused_by_name(
    wire_server: RunningServer, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        wire_server.client().embeddings.create(**{"model": "echo", "input": "x", "encoding_format": "float", **change})
    assert caught.value.param == param


def test_langchain_binds_tools_structures_answers_streams_and_embeds(wire_server: RunningServer) -> None:
    langchain_openai = pytest.importorskip("langchain_openai")
    place = {"base_url": f"{wire_server.url}/v1", "api_key": "none", "model": "echo", "max_retries": 0}
    chat = langchain_openai.ChatOpenAI(**place)
    called = chat.bind_tools([WEATHER]).invoke("How warm is it in Ulm?")
    assert called.content == "I look."
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", CALLED)]
    forced = chat.bind_tools([WEATHER], tool_choice="weather").invoke("How warm is it in Ulm?")
    assert forced.tool_calls[0]["args"] == {"city": "x", "unit": "C"}
    assert chat.with_structured_output(Person, method="json_schema").invoke("Who?").name == "x"
    assert "".join(piece.content for piece in chat.stream("Hello")) == SAID
    embeddings = langchain_openai.OpenAIEmbeddings(**place, check_embedding_ctx_length=False)
    assert len(embeddings.embed_documents(["one", "two"])) == 2


def test_lm_eval_scores_through_the_server(wire_server: RunningServer, tmp_path: Path) -> None:
    """`loglikelihood` of lm-evaluation-harness' API model gives the sums of the engine's own log probabilities."""
    api = pytest.importorskip("lm_eval.models.openai_completions")
    from lm_eval.api.instance import Instance

    tokenizer = wire_server.model.tokenizer
    (tmp_path / "tokenizer.json").write_text(tokenizer.tokenizer_json)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = api.LocalCompletionsAPI(
        model="echo",
        base_url=f"{wire_server.url}/v1/completions",
        tokenizer=str(tmp_path),
        batch_size=2,
        max_length=512,
    )
    pairs = [("A question:", " yes"), ("A question:", " no"), ("Another one:", " b2b"), ("Another one:", "d")]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    results = model.loglikelihood(requests, disable_tqdm=True)
    for (_, continuation), (total, is_greedy) in zip(pairs, results, strict=True):
        ids = tokenizer.encode_text(continuation)
        assert total == pytest.approx(sum(map(logprob, ids)))
        assert is_greedy == all(likeliest(token, 1)[0][0] == token for token in ids)
    assert {is_greedy for _, is_greedy in results} == {True, False}
