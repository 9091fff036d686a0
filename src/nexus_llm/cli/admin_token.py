"""The secret by which the user who runs `nexus serve` may change its models: a file that nobody else can read.

A server without keys answers everybody who reaches its port, and a proxy or a browser's page may reach it from this
machine, so that an address proves nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from nexus_llm.cli.options import cache_folder


class AdminToken:
    """One server's."""

    def __init__(self) -> None:
        self.value = secrets.token_urlsafe(32)
        self._path: Path | None = None

    def leave(self, url: str) -> None:
        """Writes it down for the server at `url`; where nothing can be written (a container), nobody gets it."""
        path = _place(int(url.rsplit(":", 1)[1]))
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(self.value)
            self._path = path

    def remove(self) -> None:
        """Takes it away again."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def admin_headers(port: int) -> dict[str, str]:
    """What opens the server on this port of this machine; nothing where none of ours runs there."""
    try:
        return {"authorization": f"Bearer {_place(port).read_text(encoding='ascii')}"}
    except OSError:
        return {}


def _place(port: int) -> Path:
    return cache_folder() / "serve" / f"{port}.token"
