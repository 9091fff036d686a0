from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry as loaded

from nexus_llm import storage
from nexus_llm.errors import MissingExtraError, StorageError


def test_a_folder_a_file_and_a_glob_are_listed_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.txt", ".git/config", "a/.secret"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [Path(one.location).name for one in storage.list_files(str(tmp_path))]
    assert names == ["c.txt", "b.txt"]
    assert [one.size for one in storage.list_files(str(tmp_path / "b.txt"))] == [5]
    assert [Path(one.location).name for one in storage.list_files(str(tmp_path / "*.txt"))] == ["b.txt"]
    assert storage.list_files(str(tmp_path / "absent")) == []


def test_a_folder_below_a_hidden_one_is_listed(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.txt").write_text("x")
    assert len(storage.list_files(str(tmp_path / ".hidden"))) == 1


def test_a_bucket_behaves_like_a_folder(tmp_path: Path) -> None:
    with fsspec.open("memory://bucket/x/a.txt", "wb") as stream:
        stream.write(b"hello")
    (found,) = storage.list_files("memory://bucket/x")
    assert found == storage.FileInfo("memory://bucket/x/a.txt", 5)
    assert storage.read_bytes(found.location) == b"hello"
    assert storage.copy_to(found.location, tmp_path / "deep" / "a.txt").read_bytes() == b"hello"


def test_an_atomic_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "x" / "a.json"
    storage.write_atomically(target, b"old")
    storage.write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EACCES, "not allowed"), (errno.ENOENT, "does not exist")],
)
def test_a_refusal_of_the_system_is_told_with_its_place(number: int, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught, storage.explained("here"):
        raise OSError(number, "no", "some/file")
    assert "some/file" in caught.value.what


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_while_it_is_written_to() -> None:
    with pytest.raises(StorageError, match="no space left"), storage.explained("x"), Path("/dev/full").open("wb") as f:
        f.write(b"x" * 100_000)


def test_an_absent_file_and_an_unknown_protocol_are_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        storage.read_bytes(str(tmp_path / "no"))
    with pytest.raises(StorageError, match="not a path or a URL"):
        storage.list_files("nonsense://x")


def test_a_missing_s3_library_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    for name in ("s3", "s3a"):  # fsspec remembers the class that an earlier test has loaded
        monkeypatch.delitem(loaded, name, raising=False)
    with pytest.raises(MissingExtraError) as caught:
        storage.list_files("s3://bucket/x")
    assert "[aws]" in caught.value.fix


def test_links_to_files_and_folders_are_followed_and_a_cycle_ends(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "a.txt").write_text("hello")
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "link.txt").symlink_to(real / "a.txt")
    (folder / "linked").symlink_to(real)
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "broken.txt").symlink_to(tmp_path / "absent")
    found = storage.list_files(str(folder))
    assert [Path(one.location).relative_to(folder).as_posix() for one in found] == ["link.txt", "linked/a.txt"]
    assert [one.size for one in found] == [5, 5]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_an_error_not_an_omission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(StorageError, match="not allowed"):
        storage.list_files(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("User: u is not authorized to perform: s3:PutObject because …", "give the caller the action s3:PutObject"),
        ("Forbidden", "the bucket does not say which is missing"),
    ],
)
def test_a_bucket_s_refusal_says_what_the_caller_lacks(words: str, advice: str) -> None:
    with pytest.raises(StorageError) as failed, storage.explained("s3://bucket/key"):
        raise PermissionError(words)
    assert advice in failed.value.fix
