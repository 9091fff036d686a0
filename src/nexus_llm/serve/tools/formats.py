"""How families of models spell calls, told apart by their chat templates.

Sources, read in November 2026: the chat templates of Qwen2.5-7B-Instruct, Hermes-3-Llama-3.1-8B,
Llama-3.1-8B-Instruct, Mistral-7B-Instruct-v0.3 and Mistral-Small-3.2, and Meta's prompt format page for Llama 3.1.

A format answers two questions about the part of an answer that is not decided yet: where a call may begin (`start`),
and what stands there (`read`). Both depend on that text only, never on how it was cut into pieces.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Protocol

from nexus_llm.serve.stop_strings import undecided
from nexus_llm.serve.tools.calls import Call, call_of, json_end, read_call

_SPACES = " \t\r\n"
_DIVIDERS = _SPACES + ";"
MAX_NAME_CHARACTERS = 256  # of what Mistral's models write between the mark and the arguments


@dataclass(frozen=True, slots=True)
class Start:
    """Where in a text a call may begin."""

    at: int
    """Everything before is text."""
    is_call: bool
    """A call begins at `at`; else what stands from there on is not decided yet."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What stood at the start of a call."""

    end: int
    """How much of the text was read."""
    calls: tuple[Call, ...]
    """Empty: it was no call after all, but text."""


class CallFormat(Protocol):
    """One spelling."""

    marks: tuple[str, ...]
    """Texts of control tokens that belong to calls and must survive decoding."""

    def start(self, text: str, *, has_text: bool, has_calls: bool) -> Start:
        """Where the next call begins. `has_text`, `has_calls`: the answer has had some already."""

    def read(self, text: str, *, is_whole: bool) -> Reading | None:
        """What stands at the beginning of `text`; None while more is needed, never so if the text `is_whole`."""


class HermesFormat:
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as often as needed: Hermes, Qwen2.5, Qwen3."""

    marks: tuple[str, ...] = ("<tool_call>", "</tool_call>")

    def start(self, text: str, *, has_text: bool, has_calls: bool) -> Start:  # noqa: ARG002
        return _find(text, self.marks[0])

    def read(self, text: str, *, is_whole: bool) -> Reading | None:
        opening, closing = self.marks
        begin = _past(text, len(opening), _SPACES)
        if begin == len(text) and not is_whole:
            return None
        end = json_end(text, begin) if text.startswith("{", begin) else None
        if end is None:
            return Reading(len(opening), ()) if is_whole or not text.startswith("{", begin) else None
        behind = _past(text, end, _SPACES)
        if not is_whole and text[behind:] != closing and closing.startswith(text[behind:]):
            return None
        # Where the mark is missing, what follows is text, or the next call.
        behind = behind + len(closing) if text.startswith(closing, behind) else end
        call = read_call(text[begin:end])
        return Reading(behind, (call,)) if call else Reading(len(opening), ())


class LlamaFormat:
    """`{"name": …, "parameters": {…}}` as the whole answer, or behind `<|python_tag|>`; several divided by `;`."""

    marks: tuple[str, ...] = ("<|python_tag|>",)

    def start(self, text: str, *, has_text: bool, has_calls: bool) -> Start:
        mark = self.marks[0]
        if has_text:
            return _find(text, mark)
        begin = _past(text, 0, _DIVIDERS if has_calls else _SPACES)
        kept = 0 if has_calls else begin  # what divides calls is read with the next one
        if text.startswith(("{", mark), begin):
            return Start(kept, is_call=True)
        return Start(kept, is_call=False) if mark.startswith(text[begin:]) else _find(text, mark)

    def read(self, text: str, *, is_whole: bool) -> Reading | None:
        mark = self.marks[0]
        begin = marked = _past(text, 0, _DIVIDERS)
        if text.startswith(mark, begin):
            marked = begin + len(mark)
            begin = _past(text, marked, _SPACES)
        if begin == len(text) and not is_whole:
            return None
        end = json_end(text, begin) if text.startswith("{", begin) else None
        if end is None:
            is_open = text.startswith("{", begin) and not is_whole
            return None if is_open else Reading(marked or len(text), ())
        call = read_call(text[begin:end], names_of_arguments=("parameters", "arguments"))
        return Reading(end, (call,) if call else ())


class MistralFormat:
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, and the newer `[TOOL_CALLS]name[ARGS]{…}`."""

    marks: tuple[str, ...] = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
    _named = re.compile(r"\s*([\w.-]{1,128})(?:\[CALL_ID\]\w{1,64})?(?:\[ARGS\])?\s*(?=\{)")

    def start(self, text: str, *, has_text: bool, has_calls: bool) -> Start:  # noqa: ARG002
        return _find(text, self.marks[0])

    def read(self, text: str, *, is_whole: bool) -> Reading | None:
        marked = len(self.marks[0])
        begin = _past(text, marked, _SPACES)
        if begin == len(text):
            return Reading(marked, ()) if is_whole else None
        if text[begin] in "[{":
            return self._read_list(text, begin, is_whole=is_whole)
        brace = text.find("{", marked, marked + MAX_NAME_CHARACTERS)
        if brace < 0:
            return None if not is_whole and len(text) < marked + MAX_NAME_CHARACTERS else Reading(marked, ())
        named = self._named.match(text, marked)
        if named is None or named.end() != brace:
            return Reading(marked, ())
        end = json_end(text, brace)
        if end is None:
            return Reading(marked, ()) if is_whole else None
        call = read_call(f'{{"name": {json.dumps(named[1])}, "arguments": {text[brace:end]}}}')
        return Reading(end, (call,) if call else ()) if call else Reading(marked, ())

    def _read_list(self, text: str, begin: int, *, is_whole: bool) -> Reading | None:
        marked, end = len(self.marks[0]), json_end(text, begin)
        if end is None:
            return Reading(marked, ()) if is_whole else None
        try:
            value = json.loads(text[begin:end])
        except (ValueError, RecursionError):
            return Reading(marked, ())
        calls = [call_of(one) for one in (value if isinstance(value, list) else [value])]
        good = tuple(call for call in calls if call is not None)
        return Reading(end, good) if good and len(good) == len(calls) else Reading(marked, ())


CALLS_ALONE: CallFormat = LlamaFormat()
"""What an answer is when a schema forces it to be one call: the bare JSON object."""


def format_of_template(template: str | None) -> CallFormat | None:
    """How the model with this chat template spells calls; None where it is none of the known ways."""
    template = template or ""
    if "[TOOL_CALLS]" in template:
        return MistralFormat()
    if "<tool_call>" in template and "<function=" not in template and "<arg_key>" not in template:
        return HermesFormat()  # the other two are Qwen3-Coder's and GLM's, which write XML inside
    if "<|python_tag|>" in template or '"parameters": dictionary of argument name' in template:
        return LlamaFormat()
    return None


def _find(text: str, mark: str) -> Start:
    at = text.find(mark)
    return Start(at, is_call=True) if at >= 0 else Start(len(text) - undecided(text, [mark]), is_call=False)


def _past(text: str, at: int, skipped: str) -> int:
    """The first place from `at` on whose character is none of `skipped`."""
    while at < len(text) and text[at] in skipped:
        at += 1
    return at
