"""Public corpora and training sets: what each is, what it allows, whether it can still be had, and how.

The entries are data (catalogue.yaml, shipped beside this file). Sizes and token counts are those that a named page
states; null means that no statement was found.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from nexus_llm.errors import DataError, UsageError

Kind = Literal["pretraining", "sft", "preference"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tokens(_Fields):
    """How many tokens the authors count, and with whose tokenizer (None: they do not say)."""

    count: int
    tokenizer: str | None


class Access(_Fields):
    """The way to the files."""

    how: Literal["packaged", "hf", "url-list", "urls", "manual", "none"]
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


class Citation(_Fields):
    """The page that says so, and the month in which it was read."""

    url: str
    read: str


class CatalogueSource(_Fields):
    """One corpus or training set."""

    id: str
    name: str
    kind: Kind
    status: Literal["available", "gone", "reduced", "gated"]
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
        access = self.access.model_dump(mode="json", exclude_defaults=True)
        return {**self.model_dump(mode="json"), "access": access}


class Catalogue(_Fields):
    """Every entry, in the catalogue's order."""

    sources: tuple[CatalogueSource, ...]

    @model_validator(mode="after")
    def _ids_fit(self) -> Catalogue:
        ids = [entry.id for entry in self.sources]
        for entry in self.sources:
            if ids.count(entry.id) > 1 or not {*entry.alternatives} <= {*ids}:
                raise ValueError(f"{entry.id!r} is there twice, or names an alternative that is not there")
        return self


def load_catalogue() -> tuple[CatalogueSource, ...]:
    """Every entry, in the catalogue's order."""
    import yaml

    text = files("nexus_llm.data.catalogue").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return Catalogue.model_validate(yaml.safe_load(text)).sources


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


def recipe_snippet(entry: CatalogueSource) -> str:
    """The part of a recipe that reads this source, after `nexus data fetch` put it into `data/ID`.

    >>> print(recipe_snippet(find_source("python-docs", load_catalogue())))
    data:
      sources:
        - type: python-docs
    """
    if entry.access.how == "packaged":
        return f"data:\n  sources:\n    - type: {entry.id}"
    return f"data:\n  sources:\n    - type: files\n      name: {entry.id}\n      path: data/{entry.id}"
