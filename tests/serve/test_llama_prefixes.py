"""llama.cpp does not read twice what its cache still holds, and answers as if it had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.serve.engines.llama_prefixes import LEAST_TOKENS, KeptPrefixes, Prefix
from nexus_llm.serve.engines.port import EngineRequest
from nexus_llm.serve.model_folder import WEIGHTS

BEGINNING = [100 + place % 60 for place in range(200)]


@dataclass
class Read:
    """An engine that counts the tokens which it reads."""

    engine: Any
    tokens: list[int] = field(default_factory=list)
    requests: int = 0

    def ask(self, *prompts: Sequence[int], max_tokens: int = 12, **options: Any) -> list[tuple[list[int], list[float]]]:
        """Ids and log probabilities of each answer; all are asked at once."""
        asked = {}
        for prompt in prompts:
            self.requests += 1
            request = EngineRequest(self.requests, list(prompt), max_tokens, logprobs=True, **options)
            asked[self.requests] = ([], [])
            self.engine.add(request)
        left = set(asked)
        self.tokens.clear()
        while left:
            for delta in self.engine.step().deltas:
                assert delta.finish in (None, "length"), delta
                asked[delta.id][0].extend(delta.token_ids)
                asked[delta.id][1].extend(delta.logprobs)
                left -= {delta.id} if delta.finish else set()
        return list(asked.values())


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Read:
    pytest.importorskip("xllamacpp", reason="the [llama] extra is not installed")
    from nexus_llm.serve.engines.llama_cpp import LlamaCppEngine, LlamaCppSettings

    settings = {"kv_cache_gib": 0.05, "max_running": 8, "threads": 1, **changes}
    engine, _ = LlamaCppEngine.load(LlamaCppSettings(str(folder / WEIGHTS), **settings))
    read = Read(engine)
    decode = engine._model.decode

    def counted(tokens: list[Any]) -> None:
        decode(tokens)
        read.tokens.append(len(tokens))

    monkeypatch.setattr(engine._model, "decode", counted)
    return read


def close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) < 0.02 for a, b in zip(one, other, strict=True))


def test_a_seen_beginning_is_not_read_again_and_the_answer_is_the_same(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[*BEGINNING, 7, 8, 9], [*BEGINNING, 30, 31], [*BEGINNING[:150], 40, 41, 42]]
    fresh = [load(tiny_folder, monkeypatch).ask(prompt)[0] for prompt in prompts]
    read = load(tiny_folder, monkeypatch)
    reused, tokens = [], []
    for prompt in prompts:
        reused.append(read.ask(prompt)[0])
        tokens.append(sum(read.tokens))
    assert tokens == [203 + 11, 2 + 11, 3 + 11]
    for (ids, logprobs), (expected_ids, expected_logprobs) in zip(reused, fresh, strict=True):
        assert ids == expected_ids
        assert close(logprobs, expected_logprobs)


def test_the_same_prompt_again_reads_its_last_token_only(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = load(tiny_folder, monkeypatch)
    (first,) = read.ask(BEGINNING)
    (again,) = read.ask(BEGINNING)
    assert sum(read.tokens) == 1 + 11
    assert again[0] == first[0]


def test_a_running_sequence_shares_its_beginning_too(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = load(tiny_folder, monkeypatch)
    read.engine.add(EngineRequest(99, [*BEGINNING, 5], 300, logprobs=True))
    read.engine.step()
    read.tokens.clear()
    read.requests = 100
    read.engine.add(EngineRequest(100, [*BEGINNING, 6], 1))
    read.engine.step()
    assert read.tokens == [1 + 1]


def test_a_prompt_whose_probabilities_are_asked_for_is_read_whole(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = load(tiny_folder, monkeypatch)
    read.ask(BEGINNING)
    read.ask(BEGINNING, max_tokens=1, prompt_logprobs=True)
    assert sum(read.tokens) == len(BEGINNING)


def test_what_is_kept_makes_room_for_what_runs(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = load(tiny_folder, monkeypatch, cache_tokens=512, max_running=4)
    alone = [load(tiny_folder, monkeypatch).ask([*BEGINNING[number:], number + 10])[0][0] for number in range(6)]
    for _ in range(2):
        together = read.ask(*([*BEGINNING[number:], number + 10] for number in range(6)))
        assert [ids for ids, _ in together] == alone
    assert read.engine.step().cache_share == 0


def prefix(token: int, *, slot: int = 0, adapter: str | None = None, tokens: int = 100) -> Prefix:
    return Prefix(slot, [token] * tokens, adapter, tokens)


def test_only_the_same_adapter_shares() -> None:
    kept = KeptPrefixes()
    assert kept.keep(prefix(1, adapter="a"))
    assert kept.longest([1] * 100, adapter=None, running=()) is None
    found = kept.longest([1] * 100, adapter="a", running=())
    assert found is not None
    assert found[1] == 99  # the last token is always read


def test_the_longest_beginning_wins_and_the_one_used_last_is_given_up_last() -> None:
    kept = KeptPrefixes()
    for slot, tokens in ((1, 80), (2, 90), (3, 85)):
        kept.keep(prefix(1, slot=slot, tokens=tokens))
    found = kept.longest([1] * 200, adapter=None, running=[prefix(1, slot=9, tokens=70)])
    assert found is not None
    assert (found[0].slot, found[1]) == (2, 90)
    assert [kept.give_up_oldest() for _ in range(4)] == [1, 3, 2, None]


def test_short_beginnings_are_not_worth_a_slot() -> None:
    kept = KeptPrefixes()
    assert not kept.keep(prefix(1, tokens=LEAST_TOKENS - 1))
    assert kept.tokens == 0
