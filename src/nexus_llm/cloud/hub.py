"""Models on huggingface.co or a mirror of it, over plain HTTP.

Two requests of its API are enough, so that progress, resuming and hashes stay in our hands:
`GET /api/models/REPO/revision/REV?blobs=true` and `GET /REPO/resolve/COMMIT/FILE` (huggingface.co/docs/hub/api).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nexus_llm.cloud.downloads import HttpRemote, Patience, download_file, http_client
from nexus_llm.cloud.growing_file import forget_partial
from nexus_llm.data.catalogue.download import WantedFile
from nexus_llm.errors import DataError, ModelError, TryAgainError
from nexus_llm.ports import HubFile, HubListing

if TYPE_CHECKING:
    import httpx

DEFAULT_ENDPOINT = "https://huggingface.co"
PROBE_TIMEOUT_SECONDS = 3.0  # a model that also comes another way must not wait long for a hub that is not there
DOWNLOAD_TIMEOUT_SECONDS = 60.0
ATTEMPTS = 4


class HuggingFaceHub:
    """The `nexus_llm.ports.ModelHub` of a real hub."""

    def __init__(
        self,
        *,
        endpoint: str,
        token: str | None,
        is_offline: bool,
        transport: Any = None,
        patience: Patience | None = None,
    ) -> None:
        """`transport` is an httpx transport, for tests."""
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._is_offline = is_offline
        self._transport = transport
        self._patience = patience or Patience(ATTEMPTS)

    def describe(self, repository: str, revision: str) -> HubListing | None:
        if self._is_offline:
            return None
        import httpx

        url = f"{self._endpoint}/api/models/{repository}/revision/{revision}"
        try:
            with self._client(timeout_seconds=PROBE_TIMEOUT_SECONDS) as client:
                answer = client.get(url, params={"blobs": "true"})
            if answer.status_code < 500:
                self._refuse(answer.status_code, repository, revision)
                return listing_of(answer.json())
        except (httpx.TransportError, ValueError, KeyError, TypeError):
            pass  # no network, or a page of some proxy instead of the hub's answer
        return None

    def download(
        self, repository: str, commit: str, file: HubFile, target: Path, on_bytes: Callable[[int], None]
    ) -> None:
        url = f"{self._endpoint}/{repository}/resolve/{commit}/{file.path}"
        wanted = WantedFile(url, target.name, file.size or None, file.sha256)
        try:
            with self._client(timeout_seconds=DOWNLOAD_TIMEOUT_SECONDS) as client:
                download_file(HttpRemote(client), wanted, target.parent, patience=self._patience, on_bytes=on_bytes)
        except (DataError, TryAgainError) as error:
            raise ModelError(error.what, fix=error.fix) from error
        forget_partial(target.parent, target.name)

    def _client(self, *, timeout_seconds: float) -> httpx.Client:
        parts = urlsplit(self._endpoint)
        tokens = {f"{parts.scheme}://{parts.netloc}": self._token} if self._token else {}
        return http_client(connections=1, timeout_seconds=timeout_seconds, tokens=tokens, transport=self._transport)

    def _refuse(self, status: int, repository: str, revision: str) -> None:
        """Raises for a status that is not success."""
        if status in (401, 403):
            raise ModelError(
                f"the hub does not give {repository} to this user (HTTP {status})",
                fix=f"accept its licence at {self._endpoint}/{repository} and set HF_TOKEN, or check the name",
            )
        if status == 404:
            raise ModelError(
                f"{self._endpoint} has no model {repository} at {revision}", fix="check the name and the revision"
            )
        if status >= 400:
            raise ModelError(f"{self._endpoint} answered HTTP {status} for {repository}", fix="try again in a minute")


def hub_from_environment(environment: Mapping[str, str]) -> HuggingFaceHub:
    """The hub that Hugging Face's own variables name: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE."""
    return HuggingFaceHub(
        endpoint=environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT,
        token=environment.get("HF_TOKEN") or None,
        is_offline=is_offline(environment),
    )


def is_offline(environment: Mapping[str, str]) -> bool:
    """Whether the user wants no hub to be asked."""
    return environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def listing_of(answer: dict[str, Any]) -> HubListing:
    """The listing in an answer of the hub's API about a model or a data set."""
    files = [
        HubFile(path=one["rfilename"], size=int(one.get("size") or 0), sha256=(one.get("lfs") or {}).get("sha256"))
        for one in answer["siblings"]
    ]
    card = answer.get("cardData") or {}
    return HubListing(
        answer["sha"], str(card.get("license", "unknown")), tuple(sorted(files, key=lambda one: one.path))
    )
