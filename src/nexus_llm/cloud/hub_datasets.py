"""Data sets on huggingface.co or a mirror of it: their files with sizes and hashes, or their first rows.

Requests: `GET /api/datasets/NAME/revision/REV?blobs=true` and `GET /datasets/NAME/resolve/COMMIT/FILE`
(huggingface.co/docs/hub/api). Rows are read by the `datasets` library, which knows every layout.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from nexus_llm.artifacts import file_sha256
from nexus_llm.cloud.hub import DEFAULT_ENDPOINT, is_offline, listing_of
from nexus_llm.data.catalogue.download import FetchedFile, WantedFile, names_for
from nexus_llm.errors import DataError, MissingExtraError, TryAgainError
from nexus_llm.ports import HubListing
from nexus_llm.storage import explained, sync_folder

_DATA_ENDINGS = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".warc", ".arrow")
_COMPRESSED_ENDINGS = (".gz", ".zst", ".xz", ".bz2")


@dataclass(frozen=True, slots=True)
class DatasetPart:
    """What to take of a data set on the hub."""

    dataset: str
    revision: str = "main"
    config: str | None = None
    split: str | None = None
    files: tuple[str, ...] = ()
    """Glob patterns over paths; empty takes every data file (of `config` and `split`, where those are given)."""
    licence: str | None = None


class HubDatasets:
    """The data sets of one hub."""

    def __init__(self, client: Any, *, endpoint: str = DEFAULT_ENDPOINT, is_offline: bool = False) -> None:
        """`client` is an httpx client that sends the user's token to `endpoint`."""
        self._client = client
        self._endpoint = endpoint.rstrip("/")
        self._is_offline = is_offline

    def wanted_files(self, part: DatasetPart) -> list[WantedFile]:
        """The files of `part` at the commit that its revision names now, with the hub's sizes and hashes.

        Raises:
            DataError: there is no such data set, it may not be read, or no file fits.
            TryAgainError: the hub does not answer.
        """
        listing = self._listing(part)
        chosen = [file for file in listing.files if _is_chosen(file.path, part)]
        if not chosen:
            raise DataError(
                f"hf:{part.dataset} has no data file that fits {_wish(part)}",
                fix=f"look at {self._endpoint}/datasets/{part.dataset}/tree/main",
            )
        base = f"{self._endpoint}/datasets/{part.dataset}/resolve/{listing.commit}"
        urls = [f"{base}/{quote(file.path)}" for file in chosen]
        licence = part.licence or (None if listing.license == "unknown" else listing.license)
        return [
            WantedFile(url, name, file.size or None, file.sha256, licence)
            for url, name, file in zip(urls, names_for(urls), chosen, strict=True)
        ]

    def _listing(self, part: DatasetPart) -> HubListing:
        import httpx

        place = f"{self._endpoint}/datasets/{part.dataset}"
        if self._is_offline:
            raise TryAgainError(f"{place} cannot be asked: HF_HUB_OFFLINE is set", fix="unset it")
        url = f"{self._endpoint}/api/datasets/{part.dataset}/revision/{quote(part.revision, safe='')}"
        try:
            answer = self._client.get(url, params={"blobs": "true"})
            if answer.status_code in (401, 403):
                raise DataError(f"{place} is not given to this user", fix=f"accept its terms at {place}, set HF_TOKEN")
            if answer.status_code == 404:
                raise DataError(f"{place} does not exist at {part.revision}", fix="check name and revision")
            answer.raise_for_status()
            return listing_of(answer.json())
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise TryAgainError(
                f"{place} cannot be asked ({error})", fix="check the network, then try again"
            ) from error


def hub_from_environment(environment: Mapping[str, str], client: Any) -> HubDatasets:
    """The hub that Hugging Face's own variables name: HF_ENDPOINT, HF_HUB_OFFLINE."""
    endpoint = environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    return HubDatasets(client, endpoint=endpoint, is_offline=is_offline(environment))


def hub_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's token by the `scheme://host` that may see it, from Hugging Face's own variables."""
    parts = urlsplit(environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    token = environment.get("HF_TOKEN")
    return {f"{parts.scheme}://{parts.netloc}": token} if token else {}


RowReader = Callable[[DatasetPart], Iterable[Mapping[str, Any]]]


def streamed_rows(part: DatasetPart) -> Iterator[Mapping[str, Any]]:
    """The rows of one split, one at a time; nothing is stored but a small cache."""
    try:
        datasets: Any = importlib.import_module("datasets")  # untyped, and optional
    except ImportError as error:
        raise MissingExtraError.for_extra("data", "datasets") from error
    try:
        yield from datasets.load_dataset(
            part.dataset,
            part.config,
            split=part.split or "train",
            revision=None if Path(part.dataset).is_dir() else part.revision,
            streaming=True,
        )
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"hf:{part.dataset} cannot be streamed: {reason[:300]}", fix="check --config, --split and the network"
        ) from error


def rows_name(part: DatasetPart, max_documents: int) -> str:
    """The file name of a data set's first rows."""
    words = [part.dataset.rstrip("/").replace("/", "--"), part.config, part.split or "train", f"first-{max_documents}"]
    return ".".join(word.replace("/", "--") for word in words if word) + ".jsonl"


def rows_url(part: DatasetPart, max_documents: int) -> str:
    """What stands for the URL of a data set's first rows in a receipt."""
    words = {"config": part.config, "split": part.split, "max_documents": str(max_documents)}
    wish = "&".join(f"{name}={value}" for name, value in words.items() if value)
    return f"hf:{part.dataset}@{part.revision}?{wish}"


def write_rows(
    part: DatasetPart,
    folder: Path,
    *,
    max_documents: int,
    max_bytes: int | None = None,
    read: RowReader = streamed_rows,
    on_row: Callable[[int], None] = lambda _: None,
    check_stop: Callable[[], None] = lambda: None,
) -> FetchedFile:
    """Writes the first rows of a split as jsonl. `on_row` hears the bytes of each; an interrupted write begins anew.

    Raises:
        DataError: a row holds something that JSON cannot, there is no row, or the file would pass `max_bytes`.
    """
    name = rows_name(part, max_documents)
    target, growing = folder / name, folder / f"{name}.part"
    count = size = 0
    with explained(str(target)), growing.open("wb") as stream:
        for row in read(part):
            line = json.dumps(row, ensure_ascii=False, default=_as_json).encode("utf-8", "surrogatepass") + b"\n"
            stream.write(line)
            on_row(len(line))
            count, size = count + 1, size + len(line)
            check_stop()
            if max_bytes is not None and size > max_bytes:
                raise DataError(f"{name} is larger than {max_bytes} bytes", fix="raise --max-bytes, or take fewer rows")
            if count >= max_documents:
                break
        stream.flush()
        os.fsync(stream.fileno())
    if not count:
        growing.unlink()
        raise DataError(f"hf:{part.dataset} has no row in {_wish(part)}", fix="check --config and --split")
    growing.replace(target)
    sync_folder(folder)
    return FetchedFile(
        name, rows_url(part, max_documents), target.stat().st_size, file_sha256(target), licence=part.licence
    )


def _is_chosen(path: str, part: DatasetPart) -> bool:
    if any(fnmatch.fnmatchcase(path, pattern) for pattern in part.files):
        return True
    if part.files:
        return False
    plain = path.lower()
    for ending in _COMPRESSED_ENDINGS:
        plain = plain.removesuffix(ending)
    if not plain.endswith(_DATA_ENDINGS) or Path(path).name.startswith((".", "dataset_info")):
        return False
    folders, name = path.split("/")[:-1], path.rsplit("/", maxsplit=1)[-1]
    is_config = part.config is None or part.config in folders
    is_split = part.split is None or part.split in folders or name.startswith((f"{part.split}-", f"{part.split}."))
    return is_config and is_split


def _wish(part: DatasetPart) -> str:
    words = [
        *part.files,
        *(f"{name} {value}" for name, value in (("config", part.config), ("split", part.split)) if value),
    ]
    return ", ".join(words) or "any format that we read"


def _as_json(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise DataError(f"a row holds {type(value).__name__}, which jsonl cannot", fix="fetch the files instead of rows")
