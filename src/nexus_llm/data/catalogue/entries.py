"""Public corpora and training sets: what each is, what it allows, whether it can still be had, and how.

The entries are data (catalogue.yaml, shipped beside this file). Sizes and token counts are those that a named page
states; null means that no statement was found.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal, cast, get_args

from nexus_llm.errors import DataError, UsageError

Kind = Literal["pretraining", "sft", "preference"]
Status = Literal["available", "gone", "reduced", "gated"]
How = Literal["packaged", "hf", "url-list", "urls", "manual", "none"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many tokens the authors count, and with whose tokenizer (None: they do not say)."""

    count: int
    tokenizer: str | None


@dataclass(frozen=True, slots=True)
class Access:
    """The way to the files."""

    how: How
    """`packaged` needs no download; `hf` is a data set on the hub; `url-list` a text file of URLs; `urls` the files
    themselves; `manual` needs steps that only a person can take; `none`: there is no way any more."""
    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    files: tuple[str, ...] = ()
    """Glob patterns (`*` also matches `/`) over the data set's paths; empty takes every data file."""
    url: str | None = None
    urls: tuple[str, ...] = ()
    sha256: Mapping[str, str] | None = None
    """Hash in hex by URL, where the publisher states one."""
    accept: str | None = None
    """Terms that a person must accept first."""
    instructions: str | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """The page that says so, and the month in which it was read."""

    url: str
    read: str


@dataclass(frozen=True, slots=True)
class CatalogueSource:
    """One corpus or training set."""

    id: str
    name: str
    kind: Kind
    status: Status
    licence: str | None
    size_bytes: int | None
    """What is downloaded, usually compressed."""
    text_bytes: int | None
    tokens: Tokens | None
    records: int | None
    access: Access
    source: Citation
    notes: str
    alternatives: tuple[str, ...] = ()
    """Ids to take instead."""

    def as_document(self) -> dict[str, Any]:
        """All fields as JSON values."""
        document = asdict(self)
        document["access"] = {name: value for name, value in document["access"].items() if value not in (None, ())}
        return document


def load_catalogue() -> tuple[CatalogueSource, ...]:
    """Every entry, in the catalogue's order."""
    text = files("nexus_llm.data.catalogue").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return parse_catalogue(text)


def parse_catalogue(text: str) -> tuple[CatalogueSource, ...]:
    """The entries of a catalogue in YAML.

    Raises:
        DataError: an entry has an unknown or missing field or value, or an id occurs twice.
    """
    import yaml

    found = tuple(_entry(row) for row in yaml.safe_load(text)["sources"])
    ids = [entry.id for entry in found]
    for entry in found:
        if ids.count(entry.id) > 1:
            raise DataError(f"the catalogue has {entry.id!r} twice", fix="give each entry its own id")
        for other in entry.alternatives:
            if other not in ids:
                raise DataError(
                    f"the catalogue's entry {entry.id!r} names the alternative {other!r}, which is not in it",
                    fix="name an id of the catalogue",
                )
    return found


def find_source(identifier: str, catalogue: tuple[CatalogueSource, ...]) -> CatalogueSource:
    """The entry with this id.

    Raises:
        UsageError: there is none; the fix names the nearest ids.
    """
    by_id = {entry.id: entry for entry in catalogue}
    if identifier in by_id:
        return by_id[identifier]
    near = difflib.get_close_matches(identifier.lower(), by_id, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"the catalogue has no source {identifier!r}", fix=f"{hint}nexus data sources lists all")


def refuse_unavailable(entry: CatalogueSource) -> None:
    """Nothing, where the entry's files can be fetched by a program.

    Raises:
        DataError: the source is gone, packaged, or needs steps of a person; the fix names what to do instead.
    """
    instead = " or ".join(f"nexus data fetch {other}" for other in entry.alternatives)
    if entry.status == "gone" or entry.access.how == "none":
        raise DataError(f"{entry.name} is gone: {entry.notes}", fix=f"take another corpus: {instead or 'see the list'}")
    if entry.access.how == "packaged":
        raise DataError(
            f"{entry.id} is packaged with Python: there is nothing to fetch",
            fix=f"name it in the recipe: data.sources: [{{type: {entry.id}}}]",
        )
    if entry.access.how == "manual":
        accept = f"accept {entry.access.accept}; " if entry.access.accept else ""
        raise DataError(
            f"{entry.name} cannot be fetched by a program alone", fix=f"{accept}{entry.access.instructions or ''}"
        )


def recipe_snippet(entry: CatalogueSource, folder: str | None = None) -> str:
    """The part of a recipe that reads this source, after `nexus data fetch` put it into `folder`.

    >>> print(recipe_snippet(find_source("python-docs", load_catalogue())))
    data:
      sources:
        - type: python-docs
    """
    if entry.access.how == "packaged":
        return f"data:\n  sources:\n    - type: {entry.id}"
    return f"data:\n  sources:\n    - type: files\n      name: {entry.id}\n      path: {folder or f'data/{entry.id}'}"


def _entry(row: Mapping[str, Any]) -> CatalogueSource:
    place = f"the catalogue's entry {row.get('id')!r}"
    try:
        fields = dict(row)
        fields["tokens"] = Tokens(**fields["tokens"]) if fields["tokens"] else None
        fields["source"] = Citation(**fields["source"])
        access = dict(fields["access"])
        fields["access"] = Access(
            **{**access, "files": tuple(access.get("files", ())), "urls": tuple(access.get("urls", ()))}
        )
        fields["alternatives"] = tuple(fields.get("alternatives", ()))
        entry = CatalogueSource(**fields)
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{place} has a wrong or missing field ({error})", fix="compare it with catalogue.py"
        ) from error
    choices = ((entry.kind, Kind), (entry.status, Status), (entry.access.how, How))
    for value, allowed in choices:
        if value not in get_args(allowed):
            expected = ", ".join(cast("tuple[str, ...]", get_args(allowed)))
            raise DataError(f"{place} has {value!r}", fix=f"use one of {expected}")
    return entry
