"""Many files at once, into folders and buckets, from servers, buckets and a hub on this machine."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from lying_server import LyingServer, Trick, lying_server
from nexus_llm.cloud import fetch as fetch_module
from nexus_llm.cloud.downloads import HttpRemote, Patience, http_client
from nexus_llm.cloud.fetch import FetchOptions, Place, check_plan, fetch_rows, plan_fetch, run_fetch
from nexus_llm.cloud.fetch_sources import Resolved, Wishes, resolve
from nexus_llm.cloud.hub_datasets import DatasetPart, HubDatasets, rows_name, streamed_rows, write_rows
from nexus_llm.cloud.stored_files import RemoteByScheme, StoredRemote, list_stored, upload_stored
from nexus_llm.data.catalogue.download import FetchedFile, WantedFile, file_name
from nexus_llm.data.catalogue.entries import Catalogue, load_catalogue
from nexus_llm.errors import DataError, MissingExtraError, StorageError, TryAgainError, UsageError

SMALL = b"one small file\n" * 100


@pytest.fixture
def server() -> Iterator[LyingServer]:
    with lying_server() as one:
        yield one


@pytest.fixture
def memory() -> Iterator[Any]:
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def options(**changes: Any) -> FetchOptions:
    return FetchOptions(patience=Patience(attempts=3, sleep=lambda _: None, jitter=lambda: 1.0), **changes)


def get(urls: list[str] | list[WantedFile], place: Place, chosen: FetchOptions | None = None) -> list[FetchedFile]:
    chosen = chosen or options()
    wanted = [one if isinstance(one, WantedFile) else WantedFile(one, file_name(one)) for one in urls]
    stop = threading.Event()
    with http_client(connections=chosen.parallel, timeout_seconds=5) as client:
        remote = RemoteByScheme(HttpRemote(client), StoredRemote())
        plan = plan_fetch(wanted, place, remote, chosen, stop=stop)
        check_plan(plan, chosen)
        return run_fetch(plan, remote, chosen, stop=stop)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class StopAfter:
    """An interrupt that asks to stop when `condition` holds."""

    def __init__(self, condition: Any) -> None:
        self._condition = condition

    def requested(self) -> str | None:
        return "SIGTERM" if self._condition() else None


def test_a_hundred_files_come_at_once_over_eight_connections(server: LyingServer, tmp_path: Path) -> None:
    server.gate = threading.Event()
    urls = [server.add(f"/d/{number:03}.txt", SMALL + b"%d" % number) for number in range(100)]

    def open_when_all_wait() -> None:
        while server.open_connections < 8 and not server.closing.wait(0.005):
            pass
        assert server.gate
        server.gate.set()

    threading.Thread(target=open_when_all_wait, daemon=True).start()
    done = get(urls, Place(tmp_path), options(parallel=8))
    assert [one.name for one in done] == [f"{number:03}.txt" for number in range(100)]
    assert (tmp_path / "042.txt").read_bytes() == SMALL + b"42"
    assert server.most_connections == 8
    assert names(tmp_path) == {one.name for one in done} | {"fetch.json"}


def test_a_second_fetch_asks_nobody_and_changes_nothing(server: LyingServer, tmp_path: Path) -> None:
    urls = [server.add("/a", SMALL), server.add("/b", SMALL[::-1])]
    first = get(urls, Place(tmp_path))
    receipt = (tmp_path / "fetch.json").read_bytes()
    asked = len(server.requests)
    assert get(urls, Place(tmp_path)) == first
    assert len(server.requests) == asked
    assert (tmp_path / "fetch.json").read_bytes() == receipt
    (tmp_path / "a").unlink()
    assert get(urls, Place(tmp_path)) == first
    assert (tmp_path / "a").read_bytes() == SMALL


def test_a_receipt_says_what_came_from_where_and_nothing_of_when(server: LyingServer, tmp_path: Path) -> None:
    url = server.add("/a", SMALL)
    get([WantedFile(url, "a", licence="MIT")], Place(tmp_path))
    row = {
        "name": "a",
        "url": url,
        "bytes": len(SMALL),
        "sha256": hashlib.sha256(SMALL).hexdigest(),
        "etag": server.pages["/a"].etag,
        "licence": "MIT",
    }
    assert json.loads((tmp_path / "fetch.json").read_text()) == {"version": 1, "files": [row]}


def test_one_file_that_fails_does_not_stop_the_others(server: LyingServer, tmp_path: Path) -> None:
    urls = [server.add(f"/{name}", SMALL) for name in "abc"]
    server.pages["/b"].tricks = [Trick(status=410)] * 9
    with pytest.raises(DataError, match="410"):
        get(urls, Place(tmp_path))
    assert names(tmp_path) == {"a", "c", "fetch.json"}
    server.pages["/b"].tricks.clear()
    get(urls, Place(tmp_path))
    assert names(tmp_path) == {"a", "b", "c", "fetch.json"}
    assert len(server.gets("/a")) == 1


def test_a_sidecar_with_the_hash_is_believed(server: LyingServer, tmp_path: Path) -> None:
    url = server.add("/a.gz", SMALL)
    server.add("/a.gz.sha256", b"0" * 64 + b"  a.gz\n")
    with pytest.raises(DataError, match="instead of 0000"):
        get([url], Place(tmp_path))
    assert "a.gz.bad" in names(tmp_path)


def test_a_folder_without_sidecars_is_asked_once(server: LyingServer, tmp_path: Path) -> None:
    urls = [server.add(f"/d/{number}", SMALL) for number in range(10)]
    get(urls, Place(tmp_path), options(parallel=1))
    assert len([path for method, path, _ in server.requests if path.endswith(".sha256")]) == 1


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(
    server: LyingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("/a", SMALL, head_size=10**15)
    with pytest.raises(StorageError, match=r"bytes free, the files need 1,000,0"):
        get([url], Place(tmp_path))
    assert server.gets("/a") == []
    free = shutil.disk_usage(tmp_path).free
    get([server.add("/b", SMALL)], Place(tmp_path))
    assert free > fetch_module.SPARE_BYTES


def test_a_limit_of_bytes_is_checked_before(server: LyingServer, tmp_path: Path) -> None:
    urls = [server.add(f"/{name}", SMALL) for name in "ab"]
    with pytest.raises(DataError, match=f"2 files have {2 * len(SMALL):,} bytes, more than --max-bytes"):
        get(urls, Place(tmp_path), options(max_bytes=2 * len(SMALL) - 1))
    get(urls, Place(tmp_path), options(max_bytes=2 * len(SMALL)))


def test_a_busy_host_is_waited_for_while_planning_too(server: LyingServer, tmp_path: Path) -> None:
    url = server.add("/a", SMALL, head_status=503)
    with pytest.raises(TryAgainError, match="did not answer 3 times"):
        get([url], Place(tmp_path))


def test_a_stop_keeps_finished_files_and_the_same_fetch_continues(server: LyingServer, tmp_path: Path) -> None:
    urls = [server.add("/a", SMALL), server.add("/b", SMALL * 500, tricks=[Trick(stall_after=200_000)])]
    part = tmp_path / "b.part"
    chosen = options(interrupt=StopAfter(lambda: part.exists() and part.stat().st_size > 0), parallel=2)
    with pytest.raises(TryAgainError, match="stopped by SIGTERM"):
        get(urls, Place(tmp_path), chosen)
    assert {"a", "fetch.json", "b.part", "b.part.json"} <= names(tmp_path)
    get(urls, Place(tmp_path))
    assert (tmp_path / "b").read_bytes() == SMALL * 500
    assert "range" in server.gets("/b")[1]
    assert names(tmp_path) == {"a", "b", "fetch.json"}


def test_files_go_to_a_bucket_and_leave_nothing_behind(server: LyingServer, tmp_path: Path, memory: Any) -> None:
    urls = [server.add("/a", SMALL, tricks=[Trick(cut_after=7)]), server.add("/b", SMALL[::-1])]
    place = Place(tmp_path / "staging", "memory://bucket/prefix")
    first = get(urls, place)
    assert memory.cat_file("/bucket/prefix/a") == SMALL
    assert memory.cat_file("/bucket/prefix/b") == SMALL[::-1]
    assert names(tmp_path / "staging") == set()
    asked = len(server.requests)
    assert get(urls, place) == first
    assert len(server.requests) == asked


def test_only_verified_files_reach_a_bucket(server: LyingServer, tmp_path: Path, memory: Any) -> None:
    with pytest.raises(DataError, match="instead of 0000"):
        get([WantedFile(server.add("/a", SMALL), "a", sha256="0" * 64)], Place(tmp_path / "s", "memory://bucket"))
    assert not memory.exists("/bucket/a")


def test_a_store_that_loses_bytes_is_noticed(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(SMALL)
    monkeypatch.setattr(type(memory), "put_file", lambda self, local, path, **_: self.pipe_file(path, b"less"))
    with pytest.raises(StorageError, match="has 4 bytes after uploading"):
        upload_stored(tmp_path / "a", "memory://bucket/a")


def test_files_come_from_a_bucket_and_are_continued(tmp_path: Path, memory: Any) -> None:
    content = SMALL * 2_000  # 3 MB
    memory.pipe_file("/from/x/a", content)
    memory.pipe_file("/from/x/b", SMALL)
    urls = list_stored("memory://from/x")
    assert urls == ["memory://from/x/a", "memory://from/x/b"]
    stopped = options(interrupt=StopAfter((tmp_path / "b").exists), parallel=1)
    get(urls[1:], Place(tmp_path))
    with pytest.raises(TryAgainError):
        get(urls, Place(tmp_path), stopped)
    get(urls, Place(tmp_path))
    assert (tmp_path / "a").read_bytes() == content
    remote = StoredRemote()
    with remote.open(urls[0], {"range": "bytes=5-"}) as answer:
        assert (answer.status, b"".join(answer.pieces())) == (206, content[5:])
    with remote.open(urls[0], {"range": f"bytes={len(content)}-"}) as answer:
        assert answer.status == 416
    with pytest.raises(DataError, match="does not exist"):
        remote.describe("memory://from/none")
    with pytest.raises(DataError, match="holds no file"):
        list_stored("memory://nothing")


# ------------------------------------------------------------------------------------------------- the hub's data sets

ANSWER = {
    "sha": "c0ffee",
    "cardData": {"license": "mit"},
    "siblings": [
        {"rfilename": "README.md", "size": 5},
        {"rfilename": "data/en/train-0.parquet", "size": 10, "lfs": {"sha256": "a" * 64}},
        {"rfilename": "data/en/test-0.parquet", "size": 11},
        {"rfilename": "data/de/train-0.parquet", "size": 12},
        {"rfilename": "raw/all.jsonl.gz", "size": 13},
    ],
}


def hub(answer: Any = ANSWER, status: int = 200) -> HubDatasets:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/datasets/org/name/revision/main"
        return httpx.Response(status, json=answer)

    return HubDatasets(httpx.Client(transport=httpx.MockTransport(handle)), endpoint="https://hub.example")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, {"en--train-0.parquet", "test-0.parquet"}),
        ({"config": "en"}, {"train-0.parquet", "test-0.parquet"}),
        ({"config": "en", "split": "train"}, {"train-0.parquet"}),
        ({"files": ("raw/*",)}, {"all.jsonl.gz"}),
    ],
)
def test_the_files_of_a_data_set_are_chosen_by_name(choice: dict[str, Any], expected: set[str]) -> None:
    found = hub().wanted_files(DatasetPart("org/name", **choice))
    if choice:
        assert {one.name for one in found} == expected
    else:
        assert len(found) == 4
    assert all(one.licence == "mit" for one in found)
    assert all(one.url.startswith("https://hub.example/datasets/org/name/resolve/c0ffee/") for one in found)
    assert all((one.sha256 == "a" * 64) == one.url.endswith("en/train-0.parquet") for one in found)


def test_a_hub_that_refuses_or_is_silent_says_so() -> None:
    part = DatasetPart("org/name")
    for status, error, what in (
        (401, DataError, "not given to this user"),
        (404, DataError, "does not exist"),
        (500, TryAgainError, "cannot be asked"),
    ):
        with pytest.raises(error, match=what):
            hub(status=status).wanted_files(part)
    with pytest.raises(TryAgainError, match="cannot be asked"):
        hub(answer=["a proxy's page"]).wanted_files(part)
    with pytest.raises(DataError, match="no data file that fits split validation"):
        hub().wanted_files(DatasetPart("org/name", split="validation"))
    with pytest.raises(TryAgainError, match="HF_HUB_OFFLINE"):
        HubDatasets(None, is_offline=True).wanted_files(part)


def test_the_first_rows_become_one_jsonl_with_a_receipt(tmp_path: Path) -> None:
    read = 0

    def rows(_: DatasetPart) -> Iterator[dict[str, Any]]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield {"text": f"Zeile {number} ä", "day": datetime.date(2026, 11, 1)}

    part = DatasetPart("org/name", split="train")
    first = fetch_rows([part], Place(tmp_path), options(), max_documents=3, read=rows)
    lines = (tmp_path / "org--name.train.first-3.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": f"Zeile {n} ä", "day": "2026-11-01"} for n in range(3)]
    assert first[0].url == "hf:org/name@main?split=train&max_documents=3"
    assert fetch_rows([part], Place(tmp_path), options(), max_documents=3, read=rows) == first
    assert read == 3  # no row more than wanted, and none again


def test_rows_that_json_cannot_hold_or_that_are_too_many_are_refused(tmp_path: Path) -> None:
    part = DatasetPart("org/name")
    with pytest.raises(DataError, match="a row holds bytes"):
        write_rows(part, tmp_path, max_documents=3, read=lambda _: [{"image": b"\0"}])
    with pytest.raises(DataError, match="has no row"):
        write_rows(part, tmp_path, max_documents=3, read=lambda _: [])
    with pytest.raises(DataError, match="larger than 10 bytes"):
        write_rows(part, tmp_path, max_documents=3, max_bytes=10, read=lambda _: [{"text": "long enough"}])
    assert rows_name(part, 3) not in names(tmp_path)


def test_the_datasets_library_streams_a_real_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "set"
    folder.mkdir()
    pl.DataFrame({"text": [f"row {n}" for n in range(50)]}).write_parquet(folder / "train-0.parquet")
    found = streamed_rows(DatasetPart(str(folder)))
    assert [next(iter(found))["text"] for _ in range(1)] == ["row 0"]
    with pytest.raises(DataError, match="cannot be streamed"):
        list(streamed_rows(DatasetPart(str(folder), split="none")))


def test_without_the_datasets_library_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError) as caught:
        list(streamed_rows(DatasetPart("org/name")))
    assert "pip install 'nexus-llm-platform[data]'" in caught.value.fix


# ------------------------------------------------------------------------------------------- from names to files


def resolved(server: LyingServer, *what: str, **wishes: Any) -> Resolved:
    told = {
        "kind": "sft",
        "status": "available",
        "licence": "MIT",
        "notes": "x",
        "source": {"url": "u", "read": "2026-11"},
    }
    unknown = dict.fromkeys(("size_bytes", "text_bytes", "tokens", "records"))
    listed = {"how": "url-list", "url": f"{server.url}/list.txt"}
    hubbed = {"how": "hf", "dataset": "org/name", "config": "en", "files": ["data/en/*"]}
    catalogue = Catalogue.model_validate(
        {
            "sources": [
                {"id": "listed", "name": "L", "access": listed, **told, **unknown},
                {"id": "hubbed", "name": "H", "access": hubbed, **told, **unknown},
            ]
        }
    ).sources
    with http_client(connections=1) as client:
        remote = RemoteByScheme(HttpRemote(client), StoredRemote())
        return resolve(what, Wishes(**wishes), catalogue=catalogue, hub=hub(), remote=remote)


def test_a_catalogue_entry_with_a_list_becomes_its_files(server: LyingServer) -> None:
    server.add("/list.txt", b"https://h/2019/a.gz\nhttps://h/2020/a.gz\n")
    found = resolved(server, "listed")
    assert [(one.name, one.licence) for one in found.files] == [("2019--a.gz", "MIT"), ("2020--a.gz", "MIT")]
    server.pages["/list.txt"].tricks = [Trick(status=404)]
    with pytest.raises(DataError, match="404"):
        resolved(server, "listed")


def test_a_catalogue_entry_on_the_hub_becomes_files_or_rows(server: LyingServer) -> None:
    assert {one.name for one in resolved(server, "hubbed").files} == {"train-0.parquet", "test-0.parquet"}
    assert {one.url[-23:] for one in resolved(server, "hubbed", config="de").files} == {"data/de/train-0.parquet"}
    rows = resolved(server, "hubbed", max_documents=5)
    assert rows.files == ()
    assert rows.rows[0].dataset == "org/name"


def test_urls_lists_and_hub_names_may_be_mixed(server: LyingServer, tmp_path: Path, memory: Any) -> None:
    memory.pipe_file("/bucket/x", b"1")
    (tmp_path / "urls.txt").write_text("https://h/from-list\n")
    found = resolved(server, "https://h/a", str(tmp_path / "urls.txt"), "hf:org/name", "memory://bucket/x")
    assert [one.name for one in found.files][:3] == ["a", "from-list", "x"]
    assert len(found.files) == 7


@pytest.mark.parametrize(
    ("what", "wishes", "message"),
    [
        (["ftp://h/a"], {}, "nothing that can be fetched"),
        (["hf:"], {}, "nothing that can be fetched"),
        (["no/such/list"], {}, "nothing that can be fetched"),
        (["lisetd"], {}, "no source 'lisetd'"),
        (["https://h/a"], {"max_documents": 3}, "--max-documents"),
        (["https://h/a", "https://h/b"], {"sha256": "0" * 64}, "does not fit 2 files"),
        (["https://h/a"], {"sha256": "xyz"}, "does not fit"),
    ],
)
def test_what_makes_no_sense_is_refused(
    server: LyingServer, what: list[str], wishes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolved(server, *what, **wishes)


def test_every_entry_of_the_real_catalogue_leads_somewhere_or_says_why_not(server: LyingServer) -> None:
    with http_client(connections=1) as client:
        for entry in load_catalogue():
            if entry.access.how in ("none", "manual", "packaged"):
                with pytest.raises(DataError) as caught:
                    resolve([entry.id], Wishes(), catalogue=load_catalogue(), hub=hub(), remote=HttpRemote(client))
                assert caught.value.fix
            elif entry.access.how == "hf":
                wishes = Wishes(max_documents=1)
                found = resolve([entry.id], wishes, catalogue=load_catalogue(), hub=hub(), remote=HttpRemote(client))
                assert found.rows[0].dataset == entry.access.dataset
