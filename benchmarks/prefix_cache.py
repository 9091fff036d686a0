"""What a shared beginning of prompts saves, and that it never changes what is answered.

    python benchmarks/prefix_cache.py [--model PACKAGED_FOLDER] [--pairs 8] [--engines openvino llama.cpp] [--note TEXT]

The engines are asked through the gateway's port (`serve/engines/port.py`), each in its child process as always.

**Speed.** Prompts of 512 + 16 tokens, one at a time, in turns: one whose first 512 were never seen, one whose first 512
were. The ratio of their times to the first token counts.

**Right answers.** Answers need not be equal token for token: a cache changes how many rows a matrix product has, hence
the order of its sums, and a near tie may fall the other way. So the probabilities are judged. Each answer tells the log
probability of its tokens as generated, with the cache or without; afterwards the same tokens are read as a prompt
(`prompt_logprobs`), which uses no cache. The largest difference of any token says how far off the generation was: with
the cache it must be as small as without. That the check can see a wrong cache is shown by a control: the same answers
read behind the *wrong* beginning.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claims import Claim, median_claim, short, store, tell
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.commands import engine_command
from nexus_llm.serve.engines.port import EngineRequest
from nexus_llm.serve.engines.supervisor import EngineSupervisor, TokenStream
from nexus_llm.serve.model_folder import read_model
from served import packaged_model
from streams import prompts

SUFFIX_TOKENS, ANSWER_TOKENS = 16, 24
SPEED_TARGET, DIFFERENCE_TARGET = "≥ 5", "≤ 0.05"
CONTROL_TARGET = "≥ 1"  # nats: a beginning that is not the prompt's has to show
_IDS = itertools.count(1)


@dataclass
class Answer:
    """What one request got."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    first_seconds: float = 0.0


def main() -> None:
    """Measures each engine and stores."""
    arguments = _arguments()
    claims: list[Claim] = []
    details: dict[str, Any] = {}
    for name in arguments.engines:
        ratios, right = asyncio.run(_measure(packaged_model(arguments.model), name, arguments))
        claims += _claims(name, arguments.prefix, ratios, right)
        details[name] = {"first_token_ratios": [short(value) for value in ratios], **right}
    command = f"benchmarks/prefix_cache.py --pairs {arguments.pairs}"
    store(arguments.name, "Prefix cache", claims, details=details, note=arguments.note, command=command)


def _claims(engine: str, prefix: int, ratios: list[float], right: dict[str, Any]) -> list[Claim]:
    what = f"{engine}: largest difference of a token's log probability"
    return [
        median_claim(f"{engine}: first token, unseen ÷ seen beginning of {prefix}", ratios, target=SPEED_TARGET),
        Claim(f"{what}, cached", max(right["cached"]), "nats"),
        Claim(f"{what}, not cached", max(right["uncached"]), "nats"),
        Claim(f"{what}, that the cache adds", max(right["cached"]) - max(right["uncached"]), "nats", DIFFERENCE_TARGET),
        median_claim(
            f"{what}, behind a wrong beginning (control)", right["control"], unit="nats", target=CONTROL_TARGET
        ),
        Claim(f"{engine}: answers equal token for token, of {len(right['cached'])}", right["equal"]),
    ]


async def _measure(model: Path, name: str, arguments: argparse.Namespace) -> tuple[list[float], dict[str, Any]]:
    recipe = ServeRecipe(engine=name)
    served = read_model(model, name="model", engine=name)
    vocabulary = min(20_000, served.tokenizer.vocabulary_size)
    engine = EngineSupervisor(engine_command(served, recipe))
    await engine.start()
    try:
        sizes = {"prefix": arguments.prefix, "pairs": arguments.pairs, "vocabulary": vocabulary}
        return await _speed(engine, **sizes), await _right_answers(engine, **sizes)
    finally:
        await engine.stop()


async def _speed(engine: EngineSupervisor, *, prefix: int, pairs: int, vocabulary: int) -> list[float]:
    """Seconds to the first token with an unseen beginning, over those with a seen one."""
    ratios = []
    (shared,) = prompts(90_000, count=1, tokens=prefix, vocabulary=vocabulary)
    await _ask(engine, shared + [101] * SUFFIX_TOKENS, answer=2)
    for number in range(-1, pairs):  # the first pair is warm-up
        (unseen,) = prompts(91_000 + number, count=1, tokens=prefix, vocabulary=vocabulary)
        (suffix,) = prompts(92_000 + number, count=1, tokens=SUFFIX_TOKENS, vocabulary=vocabulary)
        seconds = {}
        for beginning in (unseen, shared) if number % 2 else (shared, unseen):
            seconds[beginning is shared] = (await _ask(engine, beginning + suffix, answer=2)).first_seconds
        if number >= 0:
            ratios.append(seconds[False] / seconds[True])
            tell(f"first token: unseen {1e3 * seconds[False]:.0f} ms, seen {1e3 * seconds[True]:.0f} ms")
    return ratios


async def _right_answers(engine: EngineSupervisor, *, prefix: int, pairs: int, vocabulary: int) -> dict[str, Any]:
    """Per prompt, the largest difference between a token's log probability as generated and as read."""
    found: dict[str, Any] = {"cached": [], "uncached": [], "control": [], "equal": 0}
    for number in range(pairs):
        beginning, other = prompts(95_000 + number, count=2, tokens=prefix, vocabulary=vocabulary)
        (suffix,) = prompts(96_000 + number, count=1, tokens=SUFFIX_TOKENS, vocabulary=vocabulary)
        first = await _ask(engine, beginning + suffix)
        # Another suffix behind the same beginning stands between: what it left behind must not matter.
        await _ask(engine, beginning + suffix[::-1])
        again = await _ask(engine, beginning + suffix)
        for name, answer, prompt in (
            ("uncached", first, beginning + suffix),
            ("cached", again, beginning + suffix),
            ("control", again, other + suffix),
        ):
            found[name].append(short(await _difference(engine, answer, prompt)))
        found["equal"] += first.ids == again.ids
        tell(f"nats: uncached {found['uncached'][-1]}, cached {found['cached'][-1]}, control {found['control'][-1]}")
    return found


async def _difference(engine: EngineSupervisor, answer: Answer, prompt: list[int]) -> float:
    """Largest difference between the log probabilities that an answer told and those of its tokens read as a prompt."""
    read = await _ask(engine, prompt + answer.ids, answer=1, reads_prompt=True)
    behind = read.prompt_logprobs[len(prompt) - 1 :]
    return max(abs(told - later) for told, later in zip(answer.logprobs, behind, strict=True))


async def _ask(
    engine: EngineSupervisor, prompt: list[int], *, answer: int = ANSWER_TOKENS, reads_prompt: bool = False
) -> Answer:
    """A greedy answer of exactly so many tokens."""
    request = EngineRequest(
        next(_IDS), prompt, answer, logprobs=answer > 2 or reads_prompt, prompt_logprobs=reads_prompt
    )
    stream, told, started = TokenStream(), Answer(), time.perf_counter()
    engine.submit(request, stream)
    while True:
        for delta in await stream.next():
            told.first_seconds = told.first_seconds or time.perf_counter() - started
            told.ids += delta.token_ids
            told.logprobs += delta.logprobs
            told.prompt_logprobs += delta.prompt_logprobs
            if delta.finish:
                assert delta.finish == "length", delta.finish
                return told


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a packaged model folder [default: the newest one in artifacts/]")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--prefix", type=int, default=512, help="tokens that prompts share")
    parser.add_argument("--engines", nargs="+", default=["openvino", "llama.cpp"])
    parser.add_argument("--name", default="prefix_cache", help="how the result is called")
    parser.add_argument("--note", default="", help="a line for the result, such as what else the machine was doing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
