"""A server is asked with patience, and what it does wrong is told for the item that it did it to."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_llm.errors import EvaluationError, UsageError
from nexus_llm.evaluate.asking import answers_to, kept_file
from nexus_llm.evaluate.over_http import HttpCompleter, HttpLimits, http_completer
from nexus_llm.ports import Ports
from nexus_llm.records import Continuation, Question

Respond = Callable[[dict[str, Any]], httpx.Response]
KEY = "sk-very-secret"


@contextmanager
def served(respond: Respond, *, slept: list[float] | None = None, **limits: Any) -> Iterator[HttpCompleter]:
    """A completer whose server answers by `respond`."""

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m", "max_model_len": 512}]})
        return respond(json.loads(request.content))

    sleep = (slept if slept is not None else []).append
    with http_completer(
        "http://server", key=KEY, transport=httpx.MockTransport(handle), sleep=sleep, limits=HttpLimits(**limits)
    ) as completer:
        yield completer


def chat(text: str) -> httpx.Response:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


def echo(body: dict[str, Any], **changes: Any) -> httpx.Response:
    """A completion that repeats its prompt word by word, each with log probability -1, and says one word more."""
    words = [" " * (place > 0) + word for place, word in enumerate(body["prompt"].split(" "))]
    tokens = [*words, " more"]
    offsets = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
    told = {
        "tokens": tokens,
        "token_logprobs": [None] + [-1.0] * (len(tokens) - 1),
        "text_offset": offsets,
        "top_logprobs": [None] + [{token: -1.0} for token in tokens[1:]],
        **changes,
    }
    usage = {"prompt_tokens": len(words), "completion_tokens": 1}
    return httpx.Response(200, json={"choices": [{"text": "", "logprobs": told}], "usage": usage})


PAIR = Continuation("1", "one two ", "three four")


def ask(number: str) -> Question:
    return Question(number, messages=({"role": "user", "content": number},), stop=("<end>",))


def test_servers_that_call_their_models_alike_are_told_apart_unless_their_weights_are_known(tmp_path: Path) -> None:
    models = httpx.MockTransport(lambda _: httpx.Response(200, json={"data": [{"id": "default"}]}))

    def kept(url: str, weights: str | None = None) -> Path:
        with http_completer(url, transport=models, weights_sha256=weights) as completer:
            return kept_file(tmp_path, completer.describe(), [ask("1")])

    assert kept("http://one:8000") == kept("http://one:8000/v1/")
    assert len({kept("http://one:8000"), kept("http://one:8001"), kept("http://one:8000/two")}) == 3
    assert kept("http://one:8000", "abc") == kept("http://one:8001", "abc") != kept("http://one:8001", "abd")


def test_as_many_are_asked_at_once_as_may_be() -> None:
    together = threading.Barrier(4, timeout=20)

    def respond(body: dict[str, Any]) -> httpx.Response:
        together.wait()  # passes only where four requests are under way
        return chat(f"said {body['messages'][0]['content']}<end> and on")

    with served(respond, concurrency=4) as completer:
        found = list(completer.generate([ask(str(number)) for number in range(8)]))
    assert {one.id: one.text for one in found} == {str(number): f"said {number}" for number in range(8)}
    assert completer.describe().context_tokens == 512
    assert (found[0].finish_reason, found[0].prompt_tokens, found[0].tokens) == ("stop", 3, 2)
    assert {one.at_once for one in found} == {4}


def test_a_silent_request_holds_back_no_other_answer() -> None:
    others_are_there = threading.Event()

    def respond(body: dict[str, Any]) -> httpx.Response:
        said = body["messages"][0]["content"]
        assert said != "0" or others_are_there.wait(timeout=20)
        return chat(said)

    with served(respond, concurrency=2) as completer:
        answers = completer.generate([ask(str(number)) for number in range(5)])
        assert {next(answers).id for _ in range(4)} == {"1", "2", "3", "4"}
        others_are_there.set()
        assert next(answers).id == "0"


def streamed(*events: Any) -> httpx.Response:
    told = "".join(f"data: {json.dumps(one)}\n\n" for one in events) + "data: [DONE]\n\n"
    return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, text=told)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


OVER = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def test_a_streamed_answer_is_whole_and_tells_when_it_began() -> None:
    events = (delta(role="assistant"), delta(content="It"), delta(content=" is<end> so"), OVER, USAGE)
    with served(lambda body: streamed(*events) if body["stream_options"] else chat("")) as completer:
        (found,) = completer.generate([ask("1")])
    assert (found.text, found.finish_reason, found.prompt_tokens, found.tokens) == ("It is", "stop", 3, 2)
    assert found.first_token_seconds is not None
    assert 0 < found.first_token_seconds <= found.seconds
    words = [{"choices": [{"text": word, "finish_reason": None}]} for word in ("4", " apples")]
    with served(lambda _: streamed(*words, OVER)) as completer:
        (found,) = completer.generate([Question("1", text="How many?")])
    assert (found.text, found.tokens) == ("4 apples", None)


def test_streamed_calls_are_put_together() -> None:
    def part(index: int, **function: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, "id": f"c{index}", "function": function}])

    events = (part(0, name="add", arguments=""), part(0, arguments='{"a": '), part(1, name="f", arguments="{}"))
    with served(lambda _: streamed(*events, part(0, arguments="1}"), OVER)) as completer:
        (found,) = completer.generate([ask("1")])
    assert found.finish_reason == "tool_calls"
    assert [one["function"] for one in found.tool_calls] == [
        {"name": "add", "arguments": '{"a": 1}'}, {"name": "f", "arguments": "{}"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((delta(content="It"),), "the stream ended before the answer did"),
        ((delta(content="It"), {"error": {"message": "engine died"}}), "engine died"),
        (([],), "has no attribute"),
    ],
)
def test_a_stream_that_breaks_is_an_error_and_never_half_an_answer(events: Any, why: str) -> None:
    with served(lambda _: streamed(*events)) as completer:
        (found,) = completer.generate([ask("1")])
    assert (found.text, found.finish_reason) == ("", "error")
    assert why in str(found.error)


@pytest.mark.parametrize(
    "document",
    [{"choices": ["x"]}, {"choices": [{"message": "x"}]}, {"choices": [{"message": {"tool_calls": ["f"]}}]}, ["x"], {}],
)
def test_a_document_of_another_shape_is_an_error_of_its_item(document: Any) -> None:
    with served(lambda _: httpx.Response(200, json=document)) as completer:
        (found,) = completer.generate([ask("1")])
    assert found.error == "the answer is no completion"


def test_log_probabilities_of_another_shape_are_an_error_of_their_item() -> None:
    with served(lambda body: echo(body, token_logprobs=7)) as completer:
        (found,) = completer.log_likelihood([PAIR])
    assert found.error == "the answer is no completion"


def test_halves_of_a_sign_are_joined_and_one_alone_can_be_stored(tmp_path: Path) -> None:
    with served(lambda _: streamed(delta(content="a \ud83d"), delta(content="\ude00 b \ud83d"), OVER)) as completer:
        (found,) = answers_to([ask("1")], completer, tmp_path / "answers.jsonl", Ports())
    assert found.text == "a 😀 b \ufffd"


def test_a_server_that_counts_no_streamed_tokens_is_asked_without() -> None:
    def respond(body: dict[str, Any]) -> httpx.Response:
        if "stream_options" in body:
            return httpx.Response(400, json={"error": {"message": "unknown field stream_options"}})
        return streamed(delta(content="yes"), OVER)

    with served(respond) as completer:
        (found,) = completer.generate([ask("1")])
    assert (found.text, found.tokens) == ("yes", None)


def test_a_busy_server_is_asked_again_when_it_says_and_given_up_with_a_reason() -> None:
    slept: list[float] = []
    busy = httpx.Response(429, headers={"retry-after": "7"}, json={"error": {"message": "slow down"}})
    answers = iter([busy, busy, chat("now")])
    with served(lambda _: next(answers), slept=slept, concurrency=1) as completer:
        (found,) = completer.generate([ask("1")])
    assert (found.text, slept) == ("now", [7.0, 7.0])
    with served(lambda _: busy, attempts=3) as completer:
        (found,) = completer.generate([ask("1")])
    assert (found.finish_reason, found.error) == ("error", "status 429, 3 times")


def test_silence_is_told_for_its_item_and_the_others_are_answered() -> None:
    def respond(body: dict[str, Any]) -> httpx.Response:
        if body["messages"][0]["content"] == "2":
            raise httpx.ReadTimeout("silent")
        return chat("yes")

    with served(respond, attempts=2, timeout_seconds=9) as completer:
        found = {one.id: one for one in completer.generate([ask("1"), ask("2"), ask("3")])}
    assert [found[number].text for number in "123"] == ["yes", "", "yes"]
    assert found["2"].error == "no sign within 9 s, 2 times"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_all_ends_the_evaluation_and_does_not_repeat_the_key(status: int) -> None:
    def respond(_: dict[str, Any]) -> httpx.Response:
        return httpx.Response(status, json={"error": {"message": f"wrong key {KEY}"}})

    with served(respond) as completer, pytest.raises(EvaluationError, match=str(status)) as caught:
        list(completer.generate([ask("1")]))
    assert KEY not in str(caught.value) + caught.value.fix


def test_nobody_there_ends_the_evaluation() -> None:
    def respond(_: dict[str, Any]) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with served(respond) as completer, pytest.raises(EvaluationError, match="nobody answers"):
        list(completer.generate([ask("1")]))
    with pytest.raises(UsageError, match="password"), http_completer("http://a:b@server"):
        pass


def test_the_likelihood_is_that_of_the_tokens_behind_the_context() -> None:
    with served(echo) as completer:
        (found,) = completer.log_likelihood([PAIR])
    assert (found.log_probability, found.tokens, found.is_greedy, found.error) == (-2.0, 2, True, None)


def test_a_token_that_the_model_would_not_have_said_is_not_greedy() -> None:
    def respond(body: dict[str, Any]) -> httpx.Response:
        return echo(body, top_logprobs=[None, {" two": -1.0}, {" three": -1.0}, {" five": -0.5}, {" more": -1.0}])

    with served(respond) as completer:
        (found,) = completer.log_likelihood([PAIR])
    assert (found.is_greedy, found.tokens) == (False, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_logprobs": [None, -1.0, None, -1.0, -1.0]}, "log probabilities of the continuation"),
        ({"top_logprobs": []}, "missing beside"),
        ({"text_offset": [0, 3, 5, 9, 18]}, "other tokens"),
        (
            {"tokens": ["a"], "token_logprobs": [-1.0], "text_offset": [0], "top_logprobs": [None]},
            "usage counts 4 tokens",
        ),
    ],
)
def test_log_probabilities_that_do_not_fit_are_told_and_never_summed(changes: dict[str, Any], words: str) -> None:
    with served(lambda body: echo(body, **changes)) as completer:
        (found,) = completer.log_likelihood([PAIR])
    assert math.isnan(found.log_probability)
    assert words in str(found.error)


def test_a_server_without_log_probabilities_is_told_at_once() -> None:
    with (
        served(lambda _: httpx.Response(200, json={"choices": [{"text": "x", "logprobs": None}]})) as completer,
        pytest.raises(EvaluationError, match="gives no log probabilities"),
    ):
        list(completer.log_likelihood([PAIR]))
