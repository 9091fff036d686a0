"""Personal data and secrets in texts: where they stand, and the same texts with placeholders such as `<EMAIL_ADDRESS>`.

The entities have Presidio's names, and SECRET for cloud keys and tokens. A compiled pass over the bytes finds
candidates; patterns and check digits decide. What is matched and what is not stands in `patterns`, each with its
reason. PERSON needs a statistical model: `names` adapts Presidio's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import polars as pl

from nexus_llm.characters import buffers
from nexus_llm.errors import DataError
from nexus_llm.pii import candidates, patterns
from nexus_llm.pii.candidates import (
    ADDRESS,
    AWS_SECRET,
    CARD,
    EMAIL,
    IBAN,
    IPV6,
    NUMBER,
    PHONE,
    SECRET,
    SOCIAL_SECURITY,
)

# Where two overlap, the earlier in this order stays: the more can go wrong when it leaks, and the surer the match.
KINDS = {
    "SECRET": SECRET,
    "EMAIL_ADDRESS": EMAIL,
    "IBAN_CODE": IBAN,
    "CREDIT_CARD": NUMBER,
    "US_SSN": NUMBER,
    "IP_ADDRESS": NUMBER | IPV6,
    "PHONE_NUMBER": NUMBER,
}
ENTITIES = tuple(KINDS)
PERSON = "PERSON"
FOUND_SCHEMA = {"row": pl.UInt32, "entity": pl.String, "start": pl.Int64, "end": pl.Int64}

Finder = Callable[[pl.Series], pl.DataFrame]
"""Something else that finds entities, with the frame of `find`, such as `names.find_persons` with its analyzer
bound."""

_Hit = tuple[int, int, int, int]  # row, start, rank of the entity, end


def find(texts: pl.Series, entities: Sequence[str] = ENTITIES) -> pl.DataFrame:
    """One row a finding, in the order of the texts: `row`, `entity`, `start` and `end`, in bytes of the text's UTF-8.

    Findings never overlap. A null text has none.

    Raises:
        DataError: an entity that is not in ENTITIES.
    """
    wanted = _checked(entities)
    hits = list(_without_overlaps(sorted(_hits(texts, wanted), key=lambda hit: (hit[0], hit[1], hit[2], -hit[3]))))
    return pl.DataFrame(
        {
            "row": [row for row, _, _, _ in hits],
            "entity": [ENTITIES[rank] for _, _, rank, _ in hits],
            "start": [start for _, start, _, _ in hits],
            "end": [end for _, _, _, end in hits],
        },
        schema=FOUND_SCHEMA,
    )


def redact(
    texts: pl.Series, entities: Sequence[str] = ENTITIES, *, finder: Finder | None = None
) -> tuple[pl.Series, pl.DataFrame]:
    """(the texts with a placeholder for each finding, how many of each entity were replaced: one UInt32 column each).

    Redacting twice changes nothing: a text is searched again until nothing is found, since what a placeholder leaves
    behind can be read anew (what overlapped with a card may be a telephone number by itself). Where `entities` name
    PERSON, `finder` is asked once, at the start; without one, Presidio.

    Raises:
        DataError: an entity that is neither in ENTITIES nor PERSON.
        MissingExtraError, ModelError: PERSON without a finder, and Presidio or its model is not installed.
    """
    wanted = _checked([entity for entity in entities if entity != PERSON])
    extra = (finder or _persons()) if PERSON in entities else None
    names = [*wanted, PERSON] if extra else wanted
    counts = {name: [0] * len(texts) for name in names}
    rows = list(range(len(texts)))
    current = texts
    changed: dict[int, str] = {}
    while rows:
        found = find(current, wanted)
        if extra is not None:
            found = merged(found, extra(current))
            extra = None
        replaced = {rows[row]: text for row, text in _replaced(current, found)}
        for row, entity in found.select("row", "entity").iter_rows():
            counts[entity][rows[row]] += 1
        changed.update(replaced)
        rows = list(replaced)
        current = pl.Series(replaced.values(), dtype=pl.String)
    redacted = texts.clone().scatter(list(changed), list(changed.values())) if changed else texts  # in place
    return redacted, pl.DataFrame(counts, schema=dict.fromkeys(names, pl.UInt32))


@functools.cache
def _persons() -> Finder:
    from nexus_llm.pii.names import find_persons, presidio

    return functools.partial(find_persons, analyzer=presidio())


def merged(found: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """`found`, and those of `others` that overlap with none of it, in the order of the texts."""
    together = pl.concat([found.with_columns(rank=0), others.select(found.columns).with_columns(rank=1)])
    hits = [
        (row, start, rank, end, entity)
        for row, entity, start, end, rank in together.sort("row", "start", "rank", maintain_order=True).iter_rows()
    ]
    kept: list[tuple[int, int, int, int, str]] = []
    for hit in hits:
        if kept and kept[-1][0] == hit[0] and hit[1] < kept[-1][3]:
            if hit[2] < kept[-1][2]:
                kept[-1] = hit
        else:
            kept.append(hit)
    rows = [(row, entity, start, end) for row, start, _, end, entity in kept]
    return pl.DataFrame(rows, schema=FOUND_SCHEMA, orient="row")


def _checked(entities: Sequence[str]) -> list[str]:
    for entity in entities:
        if entity not in KINDS:
            raise DataError(
                f"there is no pattern for the entity {entity!r}",
                fix=f"name some of {', '.join(ENTITIES)}; {PERSON} by Presidio",
            )
    return [entity for entity in ENTITIES if entity in entities]


def _hits(texts: pl.Series, wanted: list[str]) -> Iterator[_Hit]:
    """Everything that the patterns accept, overlaps included; places count from the start of the text."""
    data, offsets = buffers(texts)
    kinds = 0
    for entity in wanted:
        kinds |= KINDS[entity]
    bounds = offsets.tolist() if kinds else []
    found = candidates.candidates(data, offsets, kinds)
    view = memoryview(data.data)
    for row, kind, start, end, detail in zip(*(column.tolist() for column in found), strict=True):
        first = max(bounds[row], start - patterns.BEFORE_BYTES)
        reach = _reach(kind, detail)
        window = bytes(view[first : min(bounds[row + 1], end + reach)])
        origin = first - bounds[row]
        for entity, begin, stop in _judged(window, kind, start - first, end - first, detail, first):
            if entity in wanted:
                yield row, begin + origin, ENTITIES.index(entity), stop + origin


def _reach(kind: int, detail: int) -> int:
    """How many bytes behind a candidate belong to its window."""
    if kind != SECRET:
        return patterns.AFTER_BYTES
    return patterns.SECRET_BYTES if detail in candidates.LONG_SECRETS else patterns.TOKEN_BYTES


def _judged(window: bytes, kind: int, begin: int, end: int, detail: int, first: int) -> Iterator[tuple[str, int, int]]:
    """(entity, start, end) within the window of what the candidate in `[begin, end)` holds."""
    if kind == NUMBER:
        yield from _numbers(window, begin, end, may_be=detail)
    elif kind == EMAIL:
        yield from _named("EMAIL_ADDRESS", patterns.email(window, detail - first, detail - first + 1))
    elif kind == IBAN:
        yield from _named("IBAN_CODE", patterns.iban(window, begin, begin + 1))
    elif kind == IPV6:
        yield from _named("IP_ADDRESS", patterns.ipv6(window, begin, end))
    else:
        judge = patterns.aws_secret if detail == AWS_SECRET else patterns.secret
        span = judge(window, begin)
        yield from _named("SECRET", [span] if span else [])


def _numbers(window: bytes, begin: int, end: int, *, may_be: int) -> Iterator[tuple[str, int, int]]:
    if may_be & ADDRESS:
        yield from _named("IP_ADDRESS", patterns.ipv4(window, begin, end))
    if may_be & CARD:
        yield from _named("CREDIT_CARD", patterns.credit_card(window, begin, end))
    if may_be & SOCIAL_SECURITY:
        yield from _named("US_SSN", patterns.us_ssn(window, begin, end))
    if may_be & PHONE:
        yield from _named("PHONE_NUMBER", patterns.phone(window, begin, end))


def _named(entity: str, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    return ((entity, start, end) for start, end in spans)


def _without_overlaps(hits: Iterable[_Hit]) -> Iterator[_Hit]:
    """Of hits sorted by place, the one of better rank where two overlap, the earlier one where the rank is the same."""
    last: _Hit | None = None
    for hit in hits:
        if last is not None and hit[0] == last[0] and hit[1] < last[3]:
            if hit[2] < last[2]:
                last = hit
            continue
        if last is not None:
            yield last
        last = hit
    if last is not None:
        yield last


def _replaced(texts: pl.Series, found: pl.DataFrame) -> Iterator[tuple[int, str]]:
    """(row, text with placeholders) of each text that has findings."""
    groups: dict[int, list[tuple[str, int, int]]] = {}
    for row, entity, start, end in found.iter_rows():
        groups.setdefault(row, []).append((entity, start, end))
    for (row, spans), text in zip(groups.items(), texts.gather(list(groups)).to_list(), strict=True):
        data = text.encode()
        pieces = []
        place = 0
        for entity, start, end in spans:
            pieces += [data[place:start], b"<%s>" % entity.encode()]
            place = end
        yield row, b"".join([*pieces, data[place:]]).decode()
