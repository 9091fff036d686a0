"""The shipped catalogue: complete, honest about what it does not know, and readable without the network."""

from __future__ import annotations

import re

import pytest
import yaml

from nexus_llm.data.catalogue.entries import (
    KINDS,
    Catalogue,
    CatalogueSource,
    find_source,
    load_catalogue,
    recipe_snippet,
    refuse_unavailable,
)
from nexus_llm.errors import DataError, UsageError
from nexus_llm.recipe.schema import DataRecipe

CATALOGUE = load_catalogue()
# What users of the brief ask for, by the names that they know.
EXPECTED = {
    "pretraining": {"the-pile", "pile-uncopyrighted", "common-pile", "redpajama-1t", "redpajama-v2", "c4", "fineweb"}
    | {"fineweb-edu", "wikipedia", "the-stack", "the-stack-v2", "dolma", "slimpajama", "python-docs"},
    "sft": {"dolly-15k", "oasst1", "oasst2", "ultrachat-200k", "tulu-3-sft", "smoltalk", "openhermes-2.5", "alpaca"},
    "preference": {"ultrafeedback-binarized", "hh-rlhf", "orca-dpo-pairs"},
}
ENTRY = {
    "id": "x", "name": "X", "kind": "sft", "status": "available", "licence": "MIT", "size_bytes": None,
    "text_bytes": None, "tokens": None, "records": None, "access": {"how": "hf", "dataset": "a/b"},
    "source": {"url": "https://h", "read": "2026-11"}, "notes": "n",
}  # fmt: skip


def catalogue_of(*changes: dict[str, object]) -> Catalogue:
    return Catalogue.model_validate({"sources": [{**ENTRY, **change} for change in changes]})


@pytest.mark.parametrize("kind", KINDS)
def test_the_sources_that_people_ask_for_are_there(kind: str) -> None:
    assert EXPECTED[kind] <= {entry.id for entry in CATALOGUE if entry.kind == kind}


def test_takedowns_are_known() -> None:
    status = {entry.id: entry.status for entry in CATALOGUE}
    assert status["the-pile"] == "gone"
    assert status["redpajama-1t"] == "reduced"
    assert status["the-stack"] == status["the-stack-v2"] == "gated"
    assert "Books" in find_source("redpajama-1t", CATALOGUE).notes


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.id)
def test_every_entry_says_who_says_so_and_how_to_get_it(entry: CatalogueSource) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", entry.id)
    assert entry.source.url.startswith("https://")
    assert entry.source.read == "2026-11"
    assert entry.notes.strip()
    assert all(value is None or value >= 0 for value in (entry.size_bytes, entry.text_bytes, entry.records))
    needs = {"hf": entry.access.dataset, "url-list": entry.access.url, "manual": entry.access.instructions}
    assert needs.get(entry.access.how, "nothing")
    assert (entry.status == "gone") == (entry.access.how == "none")
    assert entry.status != "gone" or entry.alternatives
    assert entry.status != "gated" or entry.access.accept


@pytest.mark.parametrize("entry", [one for one in CATALOGUE if one.status != "gone"], ids=lambda entry: entry.id)
def test_the_recipe_snippet_is_a_recipe(entry: CatalogueSource) -> None:
    document = yaml.safe_load(recipe_snippet(entry))
    source = DataRecipe(**document["data"]).sources[0]
    assert source.name == entry.id


def test_a_source_that_is_gone_names_what_to_take_instead() -> None:
    with pytest.raises(DataError, match="is gone") as caught:
        refuse_unavailable(find_source("the-pile", CATALOGUE))
    assert "nexus data fetch common-pile" in caught.value.fix
    with pytest.raises(DataError, match="nothing to fetch"):
        refuse_unavailable(find_source("python-docs", CATALOGUE))
    with pytest.raises(DataError) as caught:
        refuse_unavailable(find_source("the-stack-v2", CATALOGUE))
    assert "Software Heritage" in caught.value.fix
    refuse_unavailable(find_source("c4", CATALOGUE))


def test_a_mistyped_name_gets_a_hint() -> None:
    with pytest.raises(UsageError) as caught:
        find_source("FineWeb-edu", CATALOGUE)
    assert "fineweb-edu" in caught.value.fix


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "web"},
        {"status": "maybe"},
        {"access": {"how": "magic"}},
        {"access": {"how": "hf", "colour": "red"}},
        {"tokens": {"number": 3}},
        {"surprise": 1},
        {"alternatives": ["nowhere"]},
    ],
)
def test_a_wrong_entry_is_refused(change: dict[str, object]) -> None:
    (field,) = change
    with pytest.raises(ValueError, match=field.removesuffix("s")):
        catalogue_of(change)


def test_an_id_occurs_once() -> None:
    assert len(catalogue_of({}, {"id": "y"}).sources) == 2
    with pytest.raises(ValueError, match="twice"):
        catalogue_of({}, {})
