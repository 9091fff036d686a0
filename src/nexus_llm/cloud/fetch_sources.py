"""What a user names becomes files to fetch: a catalogue's id, URLs, a list of URLs, a data set on the hub, a bucket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nexus_llm.cloud.hub_datasets import DatasetPart, HubDatasets
from nexus_llm.cloud.stored_files import list_stored
from nexus_llm.data.catalogue.download import Remote, TransientError, WantedFile, hub_name, names_for, url_list
from nexus_llm.data.catalogue.entries import CatalogueSource, find_source, refuse_unavailable
from nexus_llm.errors import DataError, TryAgainError, UsageError

_MAX_LIST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to take of the named things."""

    config: str | None = None
    split: str | None = None
    max_documents: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Files, or (with `max_documents`) rows of data sets; and the catalogue's entries among what was named."""

    files: tuple[WantedFile, ...]
    rows: tuple[DatasetPart, ...]
    entries: tuple[CatalogueSource, ...]


def resolve(
    names: Sequence[str], wishes: Wishes, *, catalogue: tuple[CatalogueSource, ...], hub: HubDatasets, remote: Remote
) -> Resolved:
    """Files or rows behind `names`.

    Raises:
        UsageError: a name is none of the known kinds, or a wish does not fit it.
        DataError: a source is gone, or holds nothing.
        TryAgainError: a host that has to be asked does not answer.
    """
    parts: list[DatasetPart] = []
    urls: dict[str, WantedFile] = {}
    entries: list[CatalogueSource] = []
    for name in names:
        part, found, entry = _resolve_one(name, wishes, catalogue, remote)
        parts += [part] if part else []
        urls.update({one.url: one for one in found})
        entries += [entry] if entry else []
    if wishes.max_documents is not None:
        if urls or not parts:
            raise UsageError("--max-documents reads data sets of the hub only", fix="name hf:ORG/NAME, or leave it out")
        return Resolved((), tuple(parts), tuple(entries))
    files = [replace(one, name=name) for one, name in zip(urls.values(), names_for(list(urls)), strict=True)]
    files += [one for part in parts for one in hub.wanted_files(part)]
    return Resolved(_with_hash(_all_different(files), wishes), (), tuple(entries))


def _resolve_one(
    name: str, wishes: Wishes, catalogue: tuple[CatalogueSource, ...], remote: Remote
) -> tuple[DatasetPart | None, list[WantedFile], CatalogueSource | None]:
    if found := hub_name(name):
        return DatasetPart(found[0], found[1], wishes.config, wishes.split), [], None
    scheme = name.split("://", maxsplit=1)[0] if "://" in name else ""
    if scheme in ("http", "https"):
        return None, [WantedFile(name, "")], None
    if scheme in ("s3", "memory"):
        return None, [WantedFile(url, "") for url in list_stored(name)], None
    if Path(name).is_file():
        return None, [WantedFile(url, "") for url in url_list(Path(name).read_text(encoding="utf-8"), name)], None
    if scheme or "/" in name or name.startswith("hf:"):
        raise UsageError(
            f"{name!r} is nothing that can be fetched", fix="name an id, a URL, hf:ORG/NAME, s3://… or a list's file"
        )
    entry = find_source(name, catalogue)
    refuse_unavailable(entry)
    return _of_entry(entry, wishes, remote)


def _of_entry(
    entry: CatalogueSource, wishes: Wishes, remote: Remote
) -> tuple[DatasetPart | None, list[WantedFile], CatalogueSource]:
    access = entry.access
    if access.how == "hf":
        assert access.dataset is not None
        # The catalogue's patterns fit its own config and split: a user's choice is searched by name instead.
        has_choice = bool(wishes.config or wishes.split)
        part = DatasetPart(
            access.dataset,
            config=wishes.config or access.config,
            split=wishes.split or access.split,
            files=() if has_choice else access.files,
            licence=entry.licence,
        )
        return part, [], entry
    urls = list(access.urls)
    if access.how == "url-list":
        assert access.url is not None
        urls = url_list(_read_small(access.url, remote), access.url)
    hashes = access.sha256 or {}
    return None, [WantedFile(url, "", sha256=hashes.get(url), licence=entry.licence) for url in urls], entry


def _read_small(url: str, remote: Remote) -> str:
    content = bytearray()
    try:
        with remote.open(url, {}) as answer:
            if answer.status != 200:
                raise DataError(f"{url} answered HTTP {answer.status}", fix="check the catalogue's entry")
            for piece in answer.pieces():
                content += piece
                if len(content) > _MAX_LIST_BYTES:
                    raise DataError(f"{url} is no list of URLs: it is over {_MAX_LIST_BYTES} bytes", fix="report it")
    except TransientError as error:
        raise TryAgainError(f"{url} cannot be read ({error})", fix="check the network, then try again") from error
    return content.decode("utf-8", "replace")


def _all_different(files: list[WantedFile]) -> list[WantedFile]:
    if files:
        name, times = Counter(one.name for one in files).most_common(1)[0]
        if times > 1:
            raise DataError(f"{times} files would be called {name}", fix="fetch them into several folders")
    return files


def _with_hash(files: list[WantedFile], wishes: Wishes) -> tuple[WantedFile, ...]:
    if wishes.sha256 is None:
        return tuple(files)
    if len(files) != 1 or len(wishes.sha256) != 64 or set(wishes.sha256.lower()) - set("0123456789abcdef"):
        raise UsageError(
            f"--sha256 {wishes.sha256[:70]} does not fit {len(files)} files", fix="give 64 hex digits for one file"
        )
    return (replace(files[0], sha256=wishes.sha256.lower()),)
