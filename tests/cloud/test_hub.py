"""The hub's client, against a transport that answers as the hub does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from nexus_llm.cloud.downloads import Patience
from nexus_llm.cloud.hub import HuggingFaceHub, hub_from_environment
from nexus_llm.data.catalogue.download import PartialFile, partial_document
from nexus_llm.errors import ModelError
from nexus_llm.ports import HubFile

CONTENT = bytes(range(256)) * 40
FILE = HubFile("model.safetensors", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
ANSWER = {
    "sha": "abc123",
    "cardData": {"license": "apache-2.0"},
    "siblings": [
        {"rfilename": "model.safetensors", "size": FILE.size, "lfs": {"sha256": FILE.sha256, "size": FILE.size}},
        {"rfilename": "config.json", "size": 12, "blobId": "f00"},
    ],
}


def hub(handler: Callable[[httpx.Request], httpx.Response], *, is_offline: bool = False) -> HuggingFaceHub:
    return HuggingFaceHub(
        endpoint="https://hub.test/",
        token="secret",
        is_offline=is_offline,
        transport=httpx.MockTransport(handler),
        patience=Patience(4, sleep=lambda _: None),
    )


def answer(content: bytes, status: int = 200, **headers: str) -> httpx.Response:
    """As it comes over a line: not read yet."""
    return httpx.Response(status, stream=httpx.ByteStream(content), headers=headers)


def serve(request: httpx.Request) -> httpx.Response:
    """The file, with ranges."""
    wanted = request.headers.get("range")
    if not wanted:
        return answer(CONTENT)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(CONTENT):
        return answer(b"", 416)
    return answer(CONTENT[start:], 206, **{"content-range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"})


def test_a_model_is_described_by_commit_licence_and_hashes() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "https://hub.test/api/models/org/name/revision/v1?blobs=true"
        assert request.headers["authorization"] == "Bearer secret"
        return httpx.Response(200, json=ANSWER)

    listing = hub(handler).describe("org/name", "v1")
    assert listing is not None
    assert (listing.commit, listing.license) == ("abc123", "apache-2.0")
    assert listing.files == (HubFile("config.json", 12, None), FILE)


def raise_connect(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


def raise_timeout(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectTimeout("slow")


@pytest.mark.parametrize(
    "handler",
    [
        raise_connect,
        raise_timeout,
        lambda _: httpx.Response(503),
        lambda _: httpx.Response(200, text="<html>please log in to the hotel's network</html>"),
        lambda _: httpx.Response(200, json={"other": "service"}),
    ],
)
def test_what_is_not_the_hub_counts_as_unreachable(handler: Callable[[httpx.Request], httpx.Response]) -> None:
    assert hub(handler).describe("org/name", "main") is None


def test_offline_asks_nobody() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise AssertionError("asked")

    assert hub(handler, is_offline=True).describe("org/name", "main") is None


@pytest.mark.parametrize(("status", "message"), [(401, "does not give"), (403, "does not give"), (404, "has no model")])
def test_a_refusal_says_what_to_do(status: int, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        hub(lambda _: httpx.Response(status)).describe("org/name", "main")
    assert "secret" not in caught.value.what + caught.value.fix


def leave_partial(folder: Path, content: bytes) -> None:
    """What a killed download of FILE leaves."""
    (folder / "m.part").write_bytes(content)
    state = PartialFile("https://hub.test/org/name/resolve/abc/model.safetensors", len(CONTENT), None, None)
    (folder / "m.part.json").write_bytes(partial_document(state))


def test_a_file_arrives_whole(tmp_path: Path) -> None:
    seen: list[int] = []
    hub(serve).download("org/name", "abc", FILE, tmp_path / "m", seen.append)
    assert (tmp_path / "m").read_bytes() == CONTENT
    assert sum(seen) == len(CONTENT)


@pytest.mark.parametrize("have", [1, 5000, len(CONTENT)])
def test_a_partial_file_is_continued(tmp_path: Path, have: int) -> None:
    leave_partial(tmp_path, CONTENT[:have])
    seen: list[int] = []
    hub(serve).download("org/name", "abc", FILE, tmp_path / "m", seen.append)
    assert (tmp_path / "m").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_server_without_ranges_starts_again(tmp_path: Path) -> None:
    leave_partial(tmp_path, b"old")
    hub(lambda _: answer(CONTENT)).download("org/name", "abc", FILE, tmp_path / "m", lambda _: None)
    assert (tmp_path / "m").read_bytes() == CONTENT


def test_a_line_that_breaks_twice_is_continued(tmp_path: Path) -> None:
    breaks = iter([True, True, False])

    def handler(request: httpx.Request) -> httpx.Response:
        if next(breaks):
            raise httpx.ReadError("reset")
        return serve(request)

    hub(handler).download("org/name", "abc", FILE, tmp_path / "m", lambda _: None)
    assert (tmp_path / "m").read_bytes() == CONTENT


def test_a_line_that_keeps_breaking_says_that_it_continues(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="failed 4 times"):
        hub(raise_connect).download("org/name", "abc", FILE, tmp_path / "m", lambda _: None)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_wrong_content_is_not_taken_for_the_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match="arrived with"):
        hub(lambda _: answer(content)).download("o/n", "a", FILE, tmp_path / "m", lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["m.bad"]


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_the_variables_of_hugging_face_hold(value: str) -> None:
    assert hub_from_environment({"HF_HUB_OFFLINE": value}).describe("org/name", "main") is None
