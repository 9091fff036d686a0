"""A block's records on their way in: judged as they came, cleaned, identified, redacted, checked, and signed.

Everything here is a pure function of one block of records and of `Tools`: the embedded engine calls it in worker
processes, Spark inside `mapInArrow`, and both get the same rows. The order matters: what a judge must see (line
breaks, symbols) is judged before cleaning takes it away, and what is cheap comes before what is dear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain, compress
from typing import Any

import polars as pl

from nexus_llm.chat.conversations import map_strings
from nexus_llm.data.clean import clean
from nexus_llm.data.duplicates import minhash
from nexus_llm.data.judging import decontaminate, language, rules
from nexus_llm.data.reading.blocks import BrokenRecord
from nexus_llm.data.rows import (
    StoredConversation,
    content_hash,
    conversation_json,
    conversation_text,
    stored_conversation,
)
from nexus_llm.data.taken import KEPT_SCHEMA, REJECTED_SCHEMA, Taken, Tools, rejections
from nexus_llm.pii import redaction as pii
from nexus_llm.records import Document

# In `conversation_json`: most conversations have nothing of it, and are not looked through in Python.
_MORE_THAN_TURNS = '"(?:tools|tool_calls|reasoning_content|tool_call_id|name)":'
# In declarations of tools: what calls, results and JSON Schema refer to.
_REFERENCES = frozenset(("name", "type", "required", "pattern", "format", "$ref"))


def take(records: Iterable[tuple[int, Document | BrokenRecord]], tools: Tools) -> Taken:
    """What becomes of records, given as (ordinal, record)."""
    taken = Taken(pl.DataFrame(schema=KEPT_SCHEMA), pl.DataFrame(schema=REJECTED_SCHEMA))
    ordinals: list[int] = []
    documents: list[Document] = []
    for ordinal, record in records:
        if isinstance(record, BrokenRecord):
            taken.broken.append(record)
        else:
            ordinals.append(ordinal)
            documents.append(record)
    taken.read.update(one.source for one in documents)
    if documents:
        sieve = _Sieve(_frame_of(ordinals, documents), taken, tools)
        sieve.run()
    return taken


class _Sieve:
    """The rows of one batch, getting fewer from step to step."""

    def __init__(self, rows: pl.DataFrame, taken: Taken, tools: Tools) -> None:
        self.rows = rows
        self.taken = taken
        self.tools = tools
        self.rejected: list[pl.DataFrame] = []

    def run(self) -> None:
        """Fills `taken`."""
        for step in (
            self._erased,
            self._blocked,
            self._judged,
            self._cleaned,
            self._in_a_language,
            self._not_evaluated_on,
            self._without_personal_data,
        ):
            if self.rows.is_empty():
                break
            step()
        if self.rejected:
            rejected = pl.concat(self.rejected).sort("ordinal")
            if self.tools.recipe.pii.action != "keep":
                # Most were rejected before anybody looked for personal data.
                clear, _ = pii.redact(rejected["excerpt"], self.tools.recipe.pii.entities)
                rejected = rejected.with_columns(excerpt=clear)
            self.taken.rejected = rejected
        self.taken.kept = _signed(self.rows, self.tools.recipe.near_duplicates.shingle_words)

    def _reject(self, verdicts: pl.DataFrame) -> None:
        """Takes out the rows for which `verdicts` (rule, reason, value; one row a row) names a rule."""
        out = verdicts["rule"].is_not_null()
        if out.any():
            together = pl.concat([self.rows, verdicts.select("rule", "reason", "value")], how="horizontal")
            self.rejected.append(rejections(together.filter(out)))
            self.rows = self.rows.filter(~out)

    def _erased(self) -> None:
        if self.tools.erased_ids:
            out = self.rows["id"].is_in(list(self.tools.erased_ids))
            # No excerpt: what was to be erased must not live on in the list of rejections.
            self.rows = self.rows.with_columns(text=pl.when(out).then(pl.lit("")).otherwise("text"))
            self._reject(_verdicts(out, rule="erased", reason="its erasure was asked for"))

    def _blocked(self) -> None:
        if self.tools.blocked is not None:
            self._reject(self.tools.blocked.verdicts(self.rows["url"], self.rows["license"]))

    def _judged(self) -> None:
        recipe = self.tools.recipe.quality
        self._reject(
            rules.judge(self.rows["text"], self.tools.spec, families=recipe.families, overrides=recipe.limits())
        )

    def _cleaned(self) -> None:
        # Not in calls: an argument may be code, or text to find, of which every blank counts.
        self.rows = _on_every_text(self.rows, clean)
        self._reject(_verdicts(self.rows["text"] == "", rule="empty", reason="nothing is left of it once cleaned"))

    def _in_a_language(self) -> None:
        model, recipe = self.tools.language_model, self.tools.recipe.language
        if model is None:
            return
        found = language.identify(self.rows["text"], model)
        self.rows = self.rows.with_columns(language=found["language"])
        if recipe.keep:
            # A text too short to be sure of has no language here, and stays.
            is_other = ~found["language"].is_in(list(recipe.keep))
            out = (is_other | (found["score"] < recipe.min_score)).fill_null(value=False)
            verdicts = _verdicts(out, rule="language", reason="not surely in a language that is asked for")
            self._reject(verdicts.with_columns(value=found["score"].cast(pl.Float64)))

    def _not_evaluated_on(self) -> None:
        index = self.tools.evaluation_index
        if index is None:
            return
        hits = decontaminate.contaminated(self.rows["text"], index)
        first = hits.unique("row", keep="first", maintain_order=True)
        self.taken.contaminated.update(first["set"].to_list())
        verdicts = pl.DataFrame({"row": pl.arange(len(self.rows), eager=True)}).join(
            first.select(
                row=pl.col("row").cast(pl.Int64),
                rule=pl.lit("contaminated"),
                reason=pl.format("holds a part of {} {}", "set", "item"),
                value=pl.col("hits").cast(pl.Float64),
            ),
            on="row",
            how="left",
            maintain_order="left",
        )
        self._reject(verdicts)

    def _without_personal_data(self) -> None:
        recipe = self.tools.recipe.pii
        if recipe.action == "keep":
            return
        counts: list[pl.DataFrame] = []

        def redacted(texts: pl.Series) -> pl.Series:
            clear, found = pii.redact(texts, recipe.entities)
            counts.append(found)
            return clear

        before = self.rows
        self.rows = _on_every_text(self.rows, redacted, with_tools=True)
        for found in counts:
            self.taken.personal.update({name: int(found[name].sum()) for name in found.columns})
        if recipe.action == "drop":
            out = (before["text"] != self.rows["text"]) | before["messages"].ne_missing(self.rows["messages"])
            self._reject(_verdicts(out, rule="pii", reason="holds personal data"))


def _frame_of(ordinals: list[int], documents: list[Document]) -> pl.DataFrame:
    columns: Mapping[str, tuple[Any, list[Any]]] = {
        "ordinal": (pl.UInt64, ordinals),
        "id": (pl.String, [one.id for one in documents]),
        "source": (pl.String, [one.source for one in documents]),
        "origin": (pl.String, [one.origin for one in documents]),
        "text": (pl.String, [one.text for one in documents]),
        "messages": (
            pl.String,
            [conversation_json(one.messages, one.rejected, one.tools) if one.messages else None for one in documents],
        ),
        "url": (pl.String, [one.metadata.get("url") for one in documents]),
        "license": (pl.String, [one.metadata.get("license") for one in documents]),
    }
    frame = pl.DataFrame([pl.Series(name, values, dtype=kind) for name, (kind, values) in columns.items()])
    return frame.with_columns(language=pl.lit(None, pl.String))


def _on_every_text(
    rows: pl.DataFrame, change: Callable[[pl.Series], pl.Series], *, with_tools: bool = False
) -> pl.DataFrame:
    """The rows with `change` (texts → texts) applied to running texts and to each turn of conversations, of a
    preference to those of both; `with_tools`, also to what is called and to what is said about the tools."""
    is_conversation = rows["messages"].is_not_null()
    if not is_conversation.any():
        return rows.with_columns(text=change(rows["text"]))
    given = rows["messages"].drop_nulls()
    conversations = [stored_conversation(one) for one in given]
    says_more = given.str.contains(_MORE_THAN_TURNS).to_list()
    running = rows["text"].filter(~is_conversation)
    turns = [message["content"] for one in conversations for message in (*one.messages, *one.rejected)]
    beside: list[str] = []

    def noted(text: str) -> str:
        beside.append(text)
        return text

    for one in compress(conversations, says_more):
        _on_what_stands_beside(one, noted, with_tools=with_tools)
    changed = change(pl.concat([running, pl.Series("text", turns + beside, dtype=pl.String)]))
    contents = iter(changed.head(len(running) + len(turns)))
    rest = iter(changed.tail(len(beside)))
    texts = {place: next(contents) for place in (~is_conversation).arg_true()}
    messages: list[str | None] = [None] * len(rows)
    for place, one, has_more in zip(is_conversation.arg_true(), conversations, says_more, strict=True):
        for message in (*one.messages, *one.rejected):
            message["content"] = next(contents)
        if has_more:
            _on_what_stands_beside(one, lambda _: next(rest), with_tools=with_tools)
        messages[place] = conversation_json(*one)
        texts[place] = (
            conversation_text(one.messages) if has_more else "\n".join([message["content"] for message in one.messages])
        )
    return rows.with_columns(
        text=pl.Series([texts[place] for place in range(len(rows))], dtype=pl.String),
        messages=pl.Series(messages, dtype=pl.String),
    )


def _on_what_stands_beside(one: StoredConversation, change: Callable[[str], str], *, with_tools: bool) -> None:
    """Puts `change` of each text in place of it, in an order that is always the same: thoughts, and `with_tools`
    arguments of calls and what declarations say."""
    for message in chain(one.messages, one.rejected):
        if len(message) == 2:  # nearly all
            continue
        if "reasoning_content" in message:
            message["reasoning_content"] = change(message["reasoning_content"])
        for call in message.get("tool_calls", ()) if with_tools else ():
            call["function"]["arguments"] = map_strings(call["function"]["arguments"], change)
    if one.tools and with_tools:
        one.tools[:] = _on_prose(one.tools, change)


def _on_prose(declared: Any, change: Callable[[str], str]) -> Any:
    """Declarations of tools with `change` applied to descriptions, defaults and examples, not to names."""
    if isinstance(declared, str):
        return change(declared)
    if isinstance(declared, list):
        return [_on_prose(item, change) for item in declared]
    if isinstance(declared, dict):
        # A parameter may be called "name" or "format": what it is then told of is an object.
        return {
            key: item if key in _REFERENCES and not isinstance(item, dict) else _on_prose(item, change)
            for key, item in declared.items()
        }
    return declared


def _signed(rows: pl.DataFrame, shingle_words: int) -> pl.DataFrame:
    """Rows of KEPT_SCHEMA: the kept ones with their hash and signature."""
    if rows.is_empty():
        return pl.DataFrame(schema=KEPT_SCHEMA)
    hashes = [content_hash(messages or text) for text, messages in rows.select("text", "messages").iter_rows()]
    keys = minhash.band_keys(rows["text"], words=shingle_words)
    return rows.with_columns(
        characters=pl.col("text").str.len_chars(),
        content_hash=pl.Series(hashes, dtype=pl.String),
        band_keys=pl.Series(keys, dtype=KEPT_SCHEMA["band_keys"]),
    ).select(pl.col(name).cast(kind) for name, kind in KEPT_SCHEMA.items())


def _verdicts(out: pl.Series, *, rule: str, reason: str) -> pl.DataFrame:
    """One row a document: `rule` and `reason` where `out` holds, else null."""
    return pl.select(
        rule=pl.when(out).then(pl.lit(rule)), reason=pl.when(out).then(pl.lit(reason)), value=pl.lit(None, pl.Float64)
    )
