"""A model in memory judges and answers, and tells what it cannot."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.evaluate.in_process import InProcessCompleter, Prompt, batched
from nexus_llm.evaluate.likelihood import LikelihoodReader, RowScore, TokenRow
from nexus_llm.records import Continuation, Question
from tiny_architectures import KINDS, tiny
from tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def completer(folder: Path) -> InProcessCompleter:
    return InProcessCompleter.load(folder)


def rows_of_all_kinds() -> list[TokenRow]:
    """Contexts that share a long beginning and contexts that share none; endings of one token and of several."""
    draw = random.Random(3)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 320) for _ in range(count))

    examples = tokens(40)
    behind = [examples + tokens(draw.randrange(1, 9)) for _ in range(5)]
    apart = [tokens(draw.randrange(1, 30)) for _ in range(5)]
    return [TokenRow(context, tokens(draw.choice((1, 1, 2, 7)))) for context in (*behind, *apart) for _ in range(4)]


def in_order(scored: Iterator[tuple[int, RowScore]]) -> list[RowScore]:
    """Each row's score; none twice."""
    places, scores = zip(*scored, strict=True)
    assert sorted(places) == list(range(len(places)))
    return [score for _, score in sorted(zip(places, scores, strict=True), key=lambda one: one[0])]


@pytest.mark.parametrize("chosen", [slice(0, 20), slice(20, 40), slice(0, 40)], ids=["shared", "apart", "both"])
def test_what_is_read_once_gives_what_reading_each_alone_gives(completer: InProcessCompleter, chosen: slice) -> None:
    rows = rows_of_all_kinds()[chosen]
    reader = LikelihoodReader(completer.model)
    alone = in_order(reader._one_by_one(rows))
    for _ in range(2):  # the second time with the beginning that it remembers
        together = in_order(reader.score(rows))
        assert [one.log_probability for one in together] == pytest.approx(
            [one.log_probability for one in alone], abs=2e-4
        )
        assert [one.is_greedy for one in together] == [one.is_greedy for one in alone]


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_reads_trees_as_it_reads_rows(kind: str, tmp_path: Path) -> None:
    model = tiny(tmp_path, kind).eval()
    known, reader = model.config.vocab_size, LikelihoodReader(model)
    rows = [
        TokenRow(*(tuple(one % known for one in part) for part in (row.context, row.continuation)))
        for row in rows_of_all_kinds()
    ]
    alone, together = in_order(reader._one_by_one(rows)), in_order(reader.score(rows))
    assert [one.log_probability for one in together] == pytest.approx([one.log_probability for one in alone], abs=2e-4)


def test_rows_behind_a_lent_beginning_share_trees_and_the_model_reads_each_token_once(
    completer: InProcessCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, ...]] = []
    forward = completer.model.forward

    def counted(*args: Any, **given: Any) -> Any:
        read.append(tuple(given["input_ids"].shape))
        return forward(*args, **given)

    examples = tuple(range(3, 43))
    rows = [TokenRow((*examples, question, 50), (choice,)) for question in (60, 61, 62) for choice in (7, 8, 9, 10)]
    reader = LikelihoodReader(completer.model)
    monkeypatch.setattr(completer.model, "forward", counted)
    in_order(reader.score(rows))
    assert read == [(1, 40), (1, 6)]
    read.clear()
    endings = [TokenRow((100 + start, 50), (1, 2, start, 3 + end)) for start in (0, 1) for end in range(4)]
    in_order(reader.score(endings))
    assert read == [(2, 5)]  # each context with 1, 2, start; what is only predicted is not read


def test_what_one_pass_has_read_is_told_before_the_next_one_is_made(
    completer: InProcessCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    forward = completer.model.forward
    monkeypatch.setattr(completer.model, "forward", lambda *args, **given: passes.append(1) or forward(*args, **given))
    given = [Continuation(str(n), f"{n} is it? " * (n % 7 + 2), f" It is {n}.") for n in range(256)]
    seen = [len(passes) for _ in completer.log_likelihood(given)]
    assert (seen[0], seen[-1]) == (1, len(passes))
    assert len(passes) > 3


def test_a_context_that_is_too_long_loses_its_beginning_and_says_how_much(completer: InProcessCompleter) -> None:
    long, short = "What is it? " * 80, "is it? " * 20
    given = [Continuation("1", long, "It is"), Continuation("2", short, "It is"), Continuation("3", "a", long),
             Continuation("4", "a", "")]  # fmt: skip
    cut, whole, refused, nothing = sorted(completer.log_likelihood(given), key=lambda one: one.id)
    assert cut.cut_tokens > 100
    assert math.isfinite(cut.log_probability)
    assert whole.cut_tokens == 0
    assert refused.error is not None
    assert "128" in refused.error
    assert nothing.error == "the continuation is no token"
    assert math.isnan(refused.log_probability)


def test_a_model_that_predicts_nan_is_told_for_each_item(folder: Path) -> None:
    broken = InProcessCompleter.load(folder)
    broken.model.lm_head.weight.data[:] = math.nan
    (judged,) = broken.log_likelihood([Continuation("1", "What is", " it")])
    (said,) = broken.generate([Question("1", text="What is", max_new_tokens=4)])
    assert judged.error == "the model predicts nan"
    assert (said.finish_reason, said.error) == ("error", "the model predicts NaN")


def test_an_answer_ends_at_a_stop_string_and_is_the_same_in_any_batch(completer: InProcessCompleter) -> None:
    texts = ["What is it?", "The quick brown fox", "def f(x)", "jumps"]
    questions = [Question(str(number), text=text, max_new_tokens=24) for number, text in enumerate(texts)]
    together = list(completer.generate(questions))
    alone = [next(completer.generate([one])) for one in questions]
    assert [one.text for one in together] == [one.text for one in alone]
    assert {one.finish_reason for one in together} <= {"stop", "length"}
    assert all(0 < (one.first_token_seconds or 0) < one.seconds for one in together)
    assert [one.at_once for one in together] == [4] * 4
    first = together[0].text
    stop = first[len(first) // 2 : len(first) // 2 + 3]
    (stopped,) = completer.generate([Question("1", text=texts[0], max_new_tokens=24, stop=("<never>", stop))])
    assert stopped.text == first[: first.index(stop)]
    assert stopped.finish_reason == "stop"
    assert (stopped.tokens or 0) < (together[0].tokens or 0)


def test_long_prompts_are_answered_with_fewer_others() -> None:
    lengths = [*[10] * 20, 8_000, 8_000, 8_000, 100_000, 5]
    prompts = [Prompt(Question(str(place)), [0] * length, 0) for place, length in enumerate(lengths)]
    assert [[len(one.token_ids) for one in batch] for batch in batched(prompts)] == [
        [10] * 16, [10] * 4, [8_000, 8_000], [8_000], [100_000], [5]
    ]  # fmt: skip


def test_a_question_that_cannot_be_asked_is_counted_with_its_reason(completer: InProcessCompleter) -> None:
    wide = Question("1", text="a", max_new_tokens=128)
    long = Question("2", text="What is it? " * 80, max_new_tokens=8)
    chat = Question("3", messages=({"role": "user", "content": "What is it?"},), max_new_tokens=8)
    refused, cut, asked = completer.generate([wide, long, chat])
    assert (refused.finish_reason, refused.error) == ("error", "128 new tokens leave no room in 128")
    assert cut.cut_tokens > 0
    assert asked.error is None
    assert asked.prompt_tokens == len(completer._tokenizer.encode_prompt(chat.messages))


def test_sampling_depends_on_its_seed_alone(completer: InProcessCompleter) -> None:
    def said(seed: int) -> Any:
        return next(
            completer.generate([Question("1", text="What", temperature=1.0, seed=seed, max_new_tokens=12)])
        ).text

    assert said(1) == said(1)
    assert said(1) != said(2)
