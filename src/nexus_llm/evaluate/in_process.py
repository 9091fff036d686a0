"""A `Completer` of this process: a transformers model, in float32 or bfloat16.

Text becomes tokens as in lm-evaluation-harness (`TemplateLM._encode_pair`, 0.4.13), so that its numbers are ours:
spaces at the end of a context belong to the continuation, context and continuation are encoded together, and the
tokens behind the context's own are the continuation's.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError
from nexus_llm.evaluate.likelihood import LikelihoodReader, RowScore, TokenRow
from nexus_llm.evaluate.perplexity import load_model
from nexus_llm.records import Answer, CompleterFacts, Continuation, Likelihood, Question

Precision = Literal["float32", "bfloat16"]
# Continuations that are looked at together for what they share.
_POOL = 256
# Questions answered at once: their attention caches are small beside the weights, ...
_QUESTIONS = 16
# ... if their prompts have so many tokens together, padding counted: 16 of 128,000 would fill any machine.
_PROMPT_TOKENS = 16_384
_DEFAULT_CONTEXT = 2_048  # lm-evaluation-harness 0.4.13, where a model names none
# A stop string is looked for in the text of so many tokens more than it has characters.
_LOOK_BACK = 4


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as token ids."""

    question: Question
    token_ids: list[int]
    cut: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A continuation as token ids that fit the model's context."""

    row: TokenRow | None
    cut: int = 0
    error: str | None = None


class InProcessCompleter:
    """Answers and judges with a model in memory. A call of a tool stays in the answer's text, as the model wrote it."""

    def __init__(
        self,
        model: Any,
        tokenizer: ChatTokenizer,
        *,
        name: str,
        precision: str,
        stop_ids: Sequence[int],
        weights_sha256: str | None = None,
    ) -> None:
        self.model, self._tokenizer, self._stop_ids = model, tokenizer, list(stop_ids)
        self._reader = LikelihoodReader(model)
        template = tokenizer.template
        self._facts = CompleterFacts(
            model=name,
            road="transformers",
            precision=precision,
            template_sha256=hashlib.sha256(template.encode()).hexdigest() if template else None,
            context_tokens=_context_tokens(model.config),
            weights_sha256=weights_sha256,
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        precision: Precision = "float32",
        name: str | None = None,
        weights_sha256: str | None = None,
    ) -> InProcessCompleter:
        """From a Hugging Face model folder; on the GPU where there is one.

        Raises:
            MissingExtraError: torch or transformers is not installed.
            ModelError: the folder holds no model or tokenizer that can be read.
        """
        model = load_model(folder, precision=precision)
        import torch

        if torch.cuda.is_available():
            model = model.to("cuda")
        tokenizer = ChatTokenizer.load(folder)
        return cls(
            model,
            tokenizer,
            name=name or folder.name,
            precision=precision,
            stop_ids=stop_ids_of(folder, tokenizer),
            weights_sha256=weights_sha256,
        )

    def describe(self) -> CompleterFacts:
        return self._facts

    def log_likelihood(self, continuations: Sequence[Continuation]) -> Iterator[Likelihood]:
        """One likelihood a continuation, as the model reads them. Neighbours with the same context, or contexts that
        begin alike, are cheaper than the same ones far apart."""
        given = iter(continuations)
        while pool := list(islice(given, _POOL)):
            encoded = [(one, self._encoded(one)) for one in pool]
            yield from (_likelihood(one, read, None) for one, read in encoded if read.row is None)
            readable = [(one, read) for one, read in encoded if read.row is not None]
            for place, score in self._reader.score([read.row for _, read in readable if read.row]):
                yield _likelihood(*readable[place], score)

    def generate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """One answer a question, in order; neighbours that wish for the same are answered together.

        `seconds` and `first_token_seconds` are the whole batch's: nobody can say what one of its rows took.
        """
        for _, alike in groupby(questions, key=lambda one: (one.max_new_tokens, one.stop, one.temperature, one.seed)):
            for prompts in batched(map(self._prompt, alike)):
                answers = iter(self._answers([one for one in prompts if one.error is None]))
                for one in prompts:
                    failed = Answer(one.question.id, "", "error", error=one.error, cut_tokens=one.cut)
                    yield next(answers) if one.error is None else failed

    def _encoded(self, one: Continuation) -> _Encoded:
        context, wanted = self._encode_pair(one.context, one.text)
        most = self._most_tokens
        if not wanted:
            return _Encoded(None, error="the continuation is no token")
        if len(wanted) > most:
            return _Encoded(None, error=f"the continuation has {len(wanted)} tokens, the model's context {most}")
        # The last token is only predicted, so that one more fits than the model reads.
        cut = max(0, len(context) + len(wanted) - most - 1)
        return _Encoded(TokenRow(tuple(context[cut:]), tuple(wanted)), cut)

    def _encode_pair(self, context: str, text: str) -> tuple[list[int], list[int]]:
        bare = context.rstrip()
        text = context[len(bare) :] + text
        before = self._tokenizer.encode_text(bare)
        if bare and before:
            return before, self._tokenizer.encode_text(bare + text)[len(before) :]
        prefix = self._tokenizer.named_token_id("bos_token")
        prefix = self._tokenizer.eos_token_id if prefix is None else prefix
        alone = self._tokenizer.encode_bare(text)
        return ([prefix], alone[1:]) if alone[:1] == [prefix] else ([prefix], alone)

    def _prompt(self, question: Question) -> Prompt:
        try:
            token_ids = (
                self._tokenizer.encode_prompt(question.messages, tools=question.tools or None)
                if question.messages
                else self._tokenizer.encode_text(question.text)
            )
        except ModelError as error:
            return Prompt(question, [], 0, error.what)
        room = self._most_tokens - question.max_new_tokens
        if room < 1:
            return Prompt(question, [], 0, f"{question.max_new_tokens} new tokens leave no room in {self._most_tokens}")
        if not token_ids:
            return Prompt(question, [], 0, "the question is no token")
        cut = max(0, len(token_ids) - room)
        return Prompt(question, token_ids[cut:], cut)

    def _answers(self, prompts: Sequence[Prompt]) -> list[Answer]:
        if not prompts:
            return []
        started = time.monotonic()
        rows, is_broken, first_at = self._generate(prompts)
        seconds = time.monotonic() - started
        answers = []
        for prompt, row, has_nan in zip(prompts, rows, is_broken, strict=True):
            wished, said = prompt.question, until_stop(row, self._stop_ids)
            text, was_stopped = cut_at(self._tokenizer.decode(said), wished.stop)
            is_over = was_stopped or len(said) < len(row)
            answers.append(
                Answer(
                    wished.id,
                    "" if has_nan else text,
                    "error" if has_nan else "stop" if is_over else "length",
                    prompt_tokens=len(prompt.token_ids),
                    tokens=len(said),
                    seconds=seconds,
                    first_token_seconds=first_at - started,
                    error="the model predicts NaN" if has_nan else None,
                    cut_tokens=prompt.cut,
                    at_once=len(prompts),
                )
            )
        return answers

    def _generate(self, prompts: Sequence[Prompt]) -> tuple[list[list[int]], list[bool], float]:
        """The new token ids of each prompt, whether the model predicted NaN for it, and when the first were there."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        wished, width = prompts[0].question, max(len(one.token_ids) for one in prompts)
        # On the left, so that every prompt ends where its answer begins.
        token_ids_BT = torch.full((len(prompts), width), self._stop_ids[0], dtype=torch.long)
        mask_BT = torch.zeros_like(token_ids_BT)
        for place, one in enumerate(prompts):
            token_ids_BT[place, width - len(one.token_ids) :] = torch.tensor(one.token_ids)
            mask_BT[place, width - len(one.token_ids) :] = 1
        is_broken_B, made_at = torch.zeros(len(prompts), dtype=torch.bool), list[float]()

        def notice(_: Any, scores_BV: Any) -> Any:
            is_broken_B.logical_or_(scores_BV.isnan().any(-1).cpu())
            return scores_BV.nan_to_num()  # which sampling would refuse

        def is_over(ids_BT: Any, _: Any, **__: Any) -> Any:
            made_at.append(time.monotonic())
            return torch.tensor([self._ends(row[width:].tolist(), wished.stop) for row in ids_BT], device=ids_BT.device)

        sampling = {"temperature": wished.temperature} if wished.temperature else {"temperature": None}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(wished.seed)
            made_BT = self.model.generate(
                input_ids=token_ids_BT.to(self.model.device),
                attention_mask=mask_BT.to(self.model.device),
                do_sample=wished.temperature > 0,
                **sampling,
                top_p=None,
                top_k=None,
                max_new_tokens=wished.max_new_tokens,
                eos_token_id=self._stop_ids,
                pad_token_id=self._stop_ids[0],
                logits_processor=LogitsProcessorList([notice]),
                stopping_criteria=StoppingCriteriaList([is_over]),
            )
        return made_BT[:, width:].tolist(), is_broken_B.tolist(), made_at[0]

    def _ends(self, token_ids: Sequence[int], stop: Sequence[str]) -> bool:
        longest = max(map(len, stop), default=0)
        return bool(stop) and cut_at(self._tokenizer.decode(token_ids[-longest - _LOOK_BACK :]), stop)[1]

    @property
    def _most_tokens(self) -> int:
        assert self._facts.context_tokens is not None
        return self._facts.context_tokens


def batched(prompts: Iterable[Prompt]) -> Iterator[list[Prompt]]:
    """Neighbours that are answered together."""
    batch: list[Prompt] = []
    widest = 0
    for one in prompts:
        widest = max(widest, len(one.token_ids))
        if len(batch) == _QUESTIONS or (batch and (len(batch) + 1) * widest > _PROMPT_TOKENS):
            yield batch
            batch, widest = [], len(one.token_ids)
        batch.append(one)
    if batch:
        yield batch


def stop_ids_of(folder: Path, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids that end an answer: all that `generation_config.json` names, and the tokenizer's eos.

    Raises:
        ModelError: the file is no JSON object, or no stop token is known at all.
    """
    path = folder / "generation_config.json"
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.exists() else None
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is no JSON object", fix="make the artifact again, or mend the file") from error
    listed = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({*map(int, listed), tokenizer.eos_token_id})


def until_stop(token_ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """The tokens before the first stop token.

    >>> until_stop([5, 6, 2, 2], [2])
    [5, 6]
    """
    end = next((place for place, token in enumerate(token_ids) if token in stop_ids), len(token_ids))
    return list(token_ids[:end])


def cut_at(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stop strings, and whether there was one.

    >>> cut_at("4 apples. Question: how", ["Question:", "</s>"])
    ('4 apples. ', True)
    """
    places = [place for place in (text.find(one) for one in stop if one) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _likelihood(continuation: Continuation, encoded: _Encoded, score: RowScore | None) -> Likelihood:
    if encoded.row is None or score is None:
        return Likelihood(continuation.id, math.nan, 0, False, encoded.cut, encoded.error)
    is_number = math.isfinite(score.log_probability)
    return Likelihood(
        continuation.id,
        score.log_probability if is_number else math.nan,
        tokens=len(encoded.row.continuation),
        is_greedy=score.is_greedy and is_number,
        cut_tokens=encoded.cut,
        error=None if is_number else f"the model predicts {score.log_probability}",
    )


def _context_tokens(config: Any) -> int:
    """As lm-evaluation-harness looks for it (`resolve_max_length`, 0.4.13)."""
    text = getattr(config, "text_config", None) or config
    named = (getattr(text, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx"))
    return int(next((value for value in named if value is not None), _DEFAULT_CONTEXT))
