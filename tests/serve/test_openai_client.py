"""The official client notices no difference."""

from __future__ import annotations

import asyncio

import openai
import pytest

from running_server import RunningServer, StartServer

QUESTION = [{"role": "user", "content": "Was kostet ein Brötchen? 🥐"}]
ECHO = "user\nWas kostet ein Brötchen? 🥐"
"""What the echo engine answers up to the first end of a turn: control tokens are no text."""


def test_models_are_listed_and_found(echo_server: RunningServer) -> None:
    client = echo_server.client()
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("echo").owned_by == "nexus-llm"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-7")
    assert caught.value.code == "model_not_found"


def test_a_chat_answers_with_usage_and_a_finish_reason(echo_server: RunningServer) -> None:
    answer = echo_server.client().chat.completions.create(model="echo", messages=QUESTION)
    assert answer.choices[0].message.content == ECHO
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint == "0123456789abcdef"
    assert answer.id.startswith("chatcmpl-")


def test_a_stream_says_the_same_as_the_whole_answer_and_never_splits_a_character(echo_server: RunningServer) -> None:
    stream = echo_server.client().chat.completions.create(model="echo", messages=QUESTION, stream=True)
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == ECHO
    assert not any("\ufffd" in piece for piece in pieces)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_comes_in_the_last_chunk_only_and_without_choices(echo_server: RunningServer) -> None:
    chunks = list(
        echo_server.client().chat.completions.create(
            model="echo", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0


def test_a_stream_without_the_option_has_no_usage_at_all(echo_server: RunningServer) -> None:
    chunks = list(echo_server.client().chat.completions.create(model="echo", messages=QUESTION, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_length_limit_is_kept_and_told(echo_server: RunningServer, name: str) -> None:
    answer = echo_server.client().chat.completions.create(model="echo", messages=QUESTION, **{name: 7})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7


def test_a_stop_string_cuts_exactly_before_itself_across_tokens(echo_server: RunningServer) -> None:
    for stream in (False, True):
        created = echo_server.client().chat.completions.create(
            model="echo", messages=QUESTION, stop=["ein Br", "never"], stream=stream
        )
        if stream:
            chunks = list(created)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            text, reason = created.choices[0].message.content, created.choices[0].finish_reason
        assert (text, reason) == ("user\nWas kostet ", "stop")


def test_several_choices_come_with_their_index(echo_server: RunningServer) -> None:
    asked = {"model": "echo", "messages": QUESTION, "n": 3, "seed": 5, "temperature": 1.0, "max_tokens": 9}
    whole = echo_server.client().chat.completions.create(**asked)
    texts = {choice.index: choice.message.content for choice in whole.choices}
    assert sorted(texts) == [0, 1, 2]
    assert len(set(texts.values())) == 3
    streamed = dict.fromkeys(range(3), "")
    for chunk in echo_server.client().chat.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_the_same_seed_gives_the_same_answer(echo_server: RunningServer) -> None:
    def answer(seed: int | None) -> str:
        created = echo_server.client().completions.create(
            model="echo", prompt="abcdefghijklmnopqrstuvwxyz", temperature=1.0, max_tokens=5, seed=seed
        )
        return created.choices[0].text

    assert answer(3) == answer(3) != answer(4)
    assert len({answer(None) for _ in range(6)}) > 1  # without a seed, answers differ


def test_log_probabilities_come_one_per_token(echo_server: RunningServer) -> None:
    answer = echo_server.client().chat.completions.create(model="echo", messages=QUESTION, logprobs=True, max_tokens=4)
    told = answer.choices[0].logprobs.content
    assert len(told) == 4
    assert all(token.logprob < 0 for token in told)


def test_completions_take_text_token_ids_and_several_prompts(echo_server: RunningServer) -> None:
    client = echo_server.client()
    assert client.completions.create(model="echo", prompt="abc", max_tokens=3).choices[0].text == "abc"
    ids = echo_server.model.tokenizer.encode_text("xyz")
    assert client.completions.create(model="echo", prompt=ids, max_tokens=3).choices[0].text == "xyz"
    both = client.completions.create(model="echo", prompt=["abc", "xyz"], max_tokens=3, n=2)
    assert [choice.text for choice in both.choices] == ["abc", "abc", "xyz", "xyz"]
    pieces = client.completions.create(model="echo", prompt="abc", max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == "abc"


def test_content_may_be_a_list_of_text_parts(echo_server: RunningServer) -> None:
    parts = [{"type": "text", "text": "Was "}, {"type": "text", "text": "nun?"}]
    answer = echo_server.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "user\nWas nun?"


def test_a_spelled_out_control_token_does_not_end_the_turn(echo_server: RunningServer) -> None:
    question = [{"role": "user", "content": "say <|im_end|> twice"}]
    answer = echo_server.client().chat.completions.create(model="echo", messages=question)
    assert answer.choices[0].message.content == "user\nsay <|im_end|> twice"


def test_fields_without_effect_are_accepted(echo_server: RunningServer) -> None:
    echo_server.client().chat.completions.create(
        model="echo", messages=QUESTION, max_tokens=1, user="u", store=True, metadata={"a": "b"}, logit_bias={},
        response_format={"type": "text"}, tools=[], parallel_tool_calls=False, service_tier="auto",
    )  # fmt: skip


def test_thirty_two_streams_at_once_each_get_their_own_answer(start: StartServer) -> None:
    server = start(end_token_id=2, step_seconds=0.002)

    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        stream = await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": f"I am number {number}."}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with server.async_client() as client:
            return await asyncio.gather(*(one(client, number) for number in range(32)))

    assert asyncio.run(all_of_them()) == [f"user\nI am number {number}." for number in range(32)]
