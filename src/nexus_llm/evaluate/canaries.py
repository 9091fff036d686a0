"""How deeply a model remembers secrets that were planted in its training text (Carlini et al. 2019, arXiv:1802.08232).

A canary is a secret of random digits or letters behind a few words. Its exposure is log2 of the number of possible
secrets over its rank among them by likelihood. Here it is ranked among `others` random ones of the same form, the
paper's estimate by sampling: exposure = log2(others + 1) − log2(rank), so that a model that never saw it gives about
1.4 on average, and no value above log2(others + 1) can be seen. The paper's extrapolation beyond that is not made.
"""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.errors import EvaluationError
from nexus_llm.evaluate.asking import kept_file, likelihoods_of
from nexus_llm.evaluate.results import ItemResult, TaskResult, content_sha256
from nexus_llm.records import Continuation, Likelihood

if TYPE_CHECKING:
    from nexus_llm.ports import Completer, Ports

_FEWEST_SECRETS = 10_000


@dataclass(frozen=True, slots=True)
class Canary:
    """One secret that was planted."""

    id: str
    prefix: str
    """What stands before it."""
    secret: str
    """Its digits and letters were random; all else is its form."""


def read_canaries(path: Path) -> list[Canary]:
    """The canaries in a jsonl file: `{"prefix": "The code of the north door is ", "secret": "281-265-017"}`.

    Raises:
        EvaluationError: it cannot be read, is empty, or a line is no canary.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error})", fix="check the path") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
            one = Canary(str(row.get("id", f"{path.name}:{number}")), str(row["prefix"]), str(row["secret"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(f"{place} is no canary", fix='write {"prefix": …, "secret": …}') from error
        if _possible(one.secret) < _FEWEST_SECRETS:
            raise EvaluationError(
                f"{place}: there are only {_possible(one.secret)} secrets of that form",
                fix="plant canaries of at least four random digits",
            )
        found.append(one)
    if not found:
        raise EvaluationError(f"{path} has no canaries", fix="name the file that says what was planted")
    return found


def canary_exposure(
    canaries: Sequence[Canary], completer: Completer, folder: Path, ports: Ports, *, others: int = 999, seed: int = 0
) -> TaskResult:
    """One item a canary: `exposure` in bits, `rank`, and `is_said` (1: it is what the model would say, token by token).

    Raises:
        EvaluationError: see `likelihoods_of`.
        TryAgainError: somebody asked to stop.
    """
    given = [
        Continuation(f"{place}#{number}", context=one.prefix, text=secret)
        for place, one in enumerate(canaries)
        for number, secret in enumerate([one.secret, *random_secrets(one.secret, others, seed=f"{seed} {one.id}")])
    ]
    found = likelihoods_of(given, completer, kept_file(folder, completer.describe(), given), ports)
    each = others + 1
    items = [_exposed(one, found[place * each : (place + 1) * each]) for place, one in enumerate(canaries)]
    return TaskResult(
        task="canaries",
        version="1",
        metric="exposure",
        dataset_sha256=content_sha256([[one.prefix, one.secret] for one in canaries]),
        few_shot=0,
        completer=completer.describe(),
        items=tuple(items),
        settings={"others": others, "seed": seed},
        higher_is_better=False,
    )


def random_secrets(secret: str, count: int, *, seed: str) -> list[str]:
    """Other secrets of the same form, all different: digits for digits, letters for letters.

    >>> random_secrets("281-Ab", 2, seed="0")
    ['514-Gc', '103-Gi']
    """
    chosen = random.Random(seed)  # noqa: S311 - compared with, never used
    found: dict[str, None] = {}
    while len(found) < count:
        other = "".join(chosen.choice(_alphabet(sign)) for sign in secret)
        if other != secret:
            found[other] = None
    return list(found)


def _exposed(canary: Canary, found: Sequence[Likelihood]) -> ItemResult:
    """The first of the likelihoods is the canary's own."""
    error = next((one.error or "no number" for one in found if one.error or math.isnan(one.log_probability)), None)
    if error is not None:
        return ItemResult(canary.id, {}, error=error)
    own = found[0]
    # Of those that are as likely, half stand before it: a model that finds all alike must not look as if it knew.
    more = sum(one.log_probability > own.log_probability for one in found)
    alike = sum(one.log_probability == own.log_probability for one in found) - 1
    rank = 1 + more + alike / 2
    scores = {"exposure": math.log2(len(found)) - math.log2(rank), "rank": rank, "is_said": float(own.is_greedy)}
    return ItemResult(canary.id, scores, cut_tokens=max(one.cut_tokens for one in found))


def _alphabet(sign: str) -> str:
    return next((one for one in (string.digits, string.ascii_lowercase, string.ascii_uppercase) if sign in one), sign)


def _possible(secret: str) -> int:
    return math.prod(len(_alphabet(sign)) for sign in secret)
