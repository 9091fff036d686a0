"""Stop strings, answers, admission and error places: the pure parts of serving."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.chat import ChatTokenizer
from nexus_llm.serve.client import read_event
from nexus_llm.serve.engines import wire
from nexus_llm.serve.engines.port import EngineDelta, EngineRequest, EngineStep
from nexus_llm.serve.stop_strings import StopStrings
from nexus_llm.serve.text import Answer, AnswerWishes

PIECES = st.lists(st.text(alphabet="abc", max_size=4), max_size=8)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


def cut(text: str, stops: list[str]) -> str:
    """What must be left: text up to the stop string that is complete first, of two ending together the longer."""
    for end in range(len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)]
    return text


@given(pieces=PIECES, stops=STOPS)
def test_stop_strings_cut_alike_however_the_text_comes_in_pieces(pieces: list[str], stops: list[str]) -> None:
    scanner = StopStrings(stops)
    out = "".join(scanner.push(piece) for piece in pieces)
    if not scanner.found:
        out += scanner.flush()
    assert out == cut("".join(pieces), stops)


@given(pieces=PIECES, stops=STOPS)
def test_no_text_that_was_let_out_is_taken_back(pieces: list[str], stops: list[str]) -> None:
    scanner, out = StopStrings(stops), ""
    for piece in pieces:
        out += scanner.push(piece)
        assert cut("".join(pieces), stops).startswith(out)


@given(text=st.text(max_size=30), sizes=st.lists(st.integers(1, 5), min_size=1), stop=st.text(min_size=1, max_size=3))
def test_an_answer_is_the_decoded_text_up_to_the_stop_string(text: str, sizes: list[int], stop: str) -> None:
    tokenizer = answer_tokenizer()
    ids = tokenizer.encode_text(text)
    answer, out, finish = Answer(tokenizer, AnswerWishes(stop=[stop])), "", None
    position = 0
    while finish is None:
        size = sizes[position % len(sizes)]
        part, position = ids[position : position + size], position + size
        delta = answer.push(EngineDelta(1, part, [], "length" if position >= len(ids) else None))
        out, finish = out + delta.text, delta.finish_reason
    assert out == cut(tokenizer.decode(ids), [stop])
    assert finish == ("stop" if stop in tokenizer.decode(ids) else "length")


def answer_tokenizer() -> ChatTokenizer:
    return TOKENIZERS[0]


TOKENIZERS: list[ChatTokenizer] = []


@pytest.fixture(autouse=True, scope="module")
def _keep_tokenizer(tokenizer: ChatTokenizer) -> None:
    """Hypothesis wants no fixtures in its examples."""
    TOKENIZERS.append(tokenizer)


@given(
    request=st.builds(
        EngineRequest,
        id=st.integers(1),
        token_ids=st.lists(st.integers(0, 10**6), min_size=1),
        max_tokens=st.integers(1),
        stop_token_ids=st.lists(st.integers(0)).map(tuple),
        temperature=st.floats(0, 2),
        seed=st.integers(0, 2**63 - 1),
        logprobs=st.booleans(),
        logit_bias=st.dictionaries(st.integers(0, 10**6), st.floats(-100, 100)),
        json_schema=st.none() | st.just('{"type": "object"}'),
    ),
    top=st.lists(st.lists(st.tuples(st.integers(0), st.floats(max_value=0, allow_infinity=False)))),
    size=st.integers(1, 50),
)
def test_messages_survive_the_wire_however_it_cuts_them(request: EngineRequest, top: Any, size: int) -> None:
    step = EngineStep([EngineDelta(request.id, request.token_ids, [-0.5], "stop", top, [-1.5], top[:1], [0.25])], 0.25)
    data = wire.encode(wire.add_message(request)) + wire.encode(wire.step_message(step))
    splitter, messages = wire.LineSplitter(), []
    for begin in range(0, len(data), size):
        messages += splitter.feed(data[begin : begin + size])
    assert wire.read_request(messages[0]) == request
    assert wire.read_step(messages[1]) == step


def test_events_of_other_servers_are_read_too() -> None:
    assert read_event(": keep-alive") is None
    assert read_event("data: [DONE]") is None
    usage = read_event('data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}')
    assert usage is not None
    assert usage.completion_tokens == 5
    broken = read_event('data: {"error":{"message":"no"}}')
    assert broken is not None
    assert broken.error == "no"
