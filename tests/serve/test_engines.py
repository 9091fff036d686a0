"""One contract, two engines: the fake one that gateway tests rely on, and OpenVINO with a tiny random model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.serve.engines.fake import FakeEngine, FakeSettings
from nexus_llm.serve.engines.openvino import OpenVinoEngine, OpenVinoSettings
from nexus_llm.serve.engines.port import Engine, EngineDelta, EngineRequest
from nexus_llm.serve.model_folder import WEIGHTS

PROMPT = [40, 41, 42, 43, 44, 45, 46, 47]
MAX_STEPS = 2_000


@pytest.fixture(scope="module", params=["fake", "openvino"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "fake":
        yield FakeEngine.load(FakeSettings())[0]
    else:
        pytest.importorskip("openvino_genai")
        folder: Path = request.getfixturevalue("tiny_folder")
        yield OpenVinoEngine.load(OpenVinoSettings(str(folder / WEIGHTS), kv_cache_gib=0.5))[0]


_ids = iter(range(1, 10_000))


def ask(**changes: Any) -> EngineRequest:
    return EngineRequest(**{"id": next(_ids), "token_ids": PROMPT, "max_tokens": 6, **changes})


def run(engine: Engine, *requests: EngineRequest) -> list[list[EngineDelta]]:
    """All deltas of each request, once all have finished."""
    for request in requests:
        engine.add(request)
    deltas: dict[int, list[EngineDelta]] = {request.id: [] for request in requests}
    open_ids = set(deltas)
    for _ in range(MAX_STEPS):
        for delta in engine.step().deltas:
            assert delta.id in open_ids, "a delta after the end"
            deltas[delta.id].append(delta)
            if delta.finish:
                open_ids.remove(delta.id)
        if not open_ids:
            return list(deltas.values())
    raise AssertionError(f"requests never finished: {open_ids}")


def tokens(deltas: list[EngineDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def test_exactly_the_asked_number_of_tokens_comes_and_the_last_delta_says_why(engine: Engine) -> None:
    (deltas,) = run(engine, ask(max_tokens=5))
    assert len(tokens(deltas)) == 5
    assert [delta.finish for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]


def test_a_stop_token_is_delivered_and_ends_the_answer(engine: Engine) -> None:
    whole = tokens(run(engine, ask(max_tokens=6))[0])
    stop = next(token for token in whole[1:] if token != whole[0])
    deltas = run(engine, ask(max_tokens=6, stop_token_ids=(stop, 999)))[0]
    assert tokens(deltas) == whole[: whole.index(stop) + 1]
    assert deltas[-1].finish == "stop"


def test_greedy_answers_are_the_same_alone_and_in_company(engine: Engine) -> None:
    alone = tokens(run(engine, ask())[0])
    together = run(engine, ask(token_ids=[50, 51, 52]), ask(), ask(temperature=1.0, seed=3))
    assert tokens(together[1]) == alone


def test_a_seed_decides_a_sampled_answer_whatever_runs_beside_it(engine: Engine) -> None:
    first = tokens(run(engine, ask(temperature=1.0, seed=5, max_tokens=12))[0])
    again, other = run(engine, ask(temperature=1.0, seed=5, max_tokens=12), ask(temperature=1.0, seed=6, max_tokens=12))
    assert tokens(again) == first
    assert tokens(other) != first


def test_log_probabilities_come_with_each_token_and_only_on_request(engine: Engine) -> None:
    (told,) = run(engine, ask(logprobs=True))
    assert all(len(delta.logprobs) == len(delta.token_ids) for delta in told)
    assert all(value <= 0 for delta in told for value in delta.logprobs)
    assert any(value < 0 for delta in told for value in delta.logprobs)


def test_a_cancelled_request_says_nothing_more_and_others_go_on(engine: Engine) -> None:
    endless, other = ask(max_tokens=400), ask(max_tokens=30)
    engine.add(endless)
    for _ in range(3):
        engine.step()
    engine.cancel(endless.id)
    assert len(tokens(run(engine, other)[0])) == 30
    assert engine.step().deltas == []
    assert engine.step().cache_share == 0


def test_cancelling_what_is_unknown_or_finished_changes_nothing(engine: Engine) -> None:
    done = ask()
    run(engine, done)
    engine.cancel(done.id)
    engine.cancel(10**6)
    assert len(tokens(run(engine, ask())[0])) == 6


def test_a_request_that_does_not_fit_is_refused_without_harm(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"sampling|room"):
        engine.add(ask(max_tokens=0))
    assert len(tokens(run(engine, ask())[0])) == 6


def test_a_prompt_longer_than_one_step_is_read_in_pieces_and_answered(engine: Engine) -> None:
    (deltas,) = run(engine, ask(token_ids=[60 + n % 200 for n in range(500)], max_tokens=3))
    assert len(tokens(deltas)) == 3


def test_forty_requests_at_once_are_all_answered(engine: Engine) -> None:
    answers = run(engine, *(ask(token_ids=[50 + n, 51, 52], max_tokens=8) for n in range(40)))
    assert [len(tokens(deltas)) for deltas in answers] == [8] * 40


def test_a_sequence_that_outgrows_the_cache_is_reported(tiny_folder: Path) -> None:
    fake = FakeEngine.load(FakeSettings(capacity_tokens=64))[0]
    genai = pytest.importorskip("openvino_genai")
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = 2  # of 32 tokens
    pipeline = genai.ContinuousBatchingPipeline(str(tiny_folder / WEIGHTS), scheduler, "CPU", {}, {}, {})
    for engine in (fake, OpenVinoEngine(pipeline, tiny_folder / WEIGHTS)):
        (deltas,) = run(engine, ask(max_tokens=300))
        assert deltas[-1].finish == "capacity"
        assert len(tokens(deltas)) < 64


def test_openvino_tells_how_much_its_cache_holds(tiny_folder: Path) -> None:
    pytest.importorskip("openvino_genai")
    facts = OpenVinoEngine.load(OpenVinoSettings(str(tiny_folder / WEIGHTS), kv_cache_gib=1))[1]
    # 2 layers × (keys + values) × 2 heads × 16 values of 8 bits each, and their scales: 128 to 256 bytes a token.
    assert 2**30 / 256 < facts.capacity_tokens < 2**30 / 128
