"""API keys as values: how one is made, told apart, hashed, and what it is allowed to do.

A key is `sk-nexus-<id>-<secret>`. The id (48 bits) finds the row and may be shown; the secret (256 bits) is shown once
and never stored. What is stored is the SHA-256 of the whole key. A slow, salted hash would protect nothing here: it is
for secrets that people choose and others can guess. Nobody can search 2^256 values however fast the hash is, while
50 ms of argon2 for each request would let a client without a key keep a core busy (NIST SP 800-63B, section 5.1.2.2,
read 2026-11: look-up secrets of at least 112 bits need an approved one-way function, and no salt).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from nexus_llm.serve.access.limits import Limits

PREFIX = "sk-nexus-"
SECRET_CHARACTERS = 43  # of 62 each: 256 bits
_ALPHABET = string.ascii_letters + string.digits
_FORM = re.compile(rf"{PREFIX}([0-9a-f]{{12}})-[A-Za-z0-9]{{{SECRET_CHARACTERS}}}")
_NO_HASH = "0" * 64
ADMIN_PATH = "/admin"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known about a key; nothing in it lets anybody use it. Times are seconds since 1970, UTC."""

    id: str
    name: str
    hash: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    is_admin: bool = False
    """May read usage and make and revoke keys at `/admin`."""
    models: tuple[str, ...] = ()
    """Names or patterns (`support-*`) of the models that it may use; empty: all."""
    endpoints: tuple[str, ...] = ()
    """Paths that it may call, such as `/v1/chat/completions`; empty: all but `/admin`. `/v1/models` is always open."""
    limits: Limits = field(default_factory=Limits)

    def allows_model(self, name: str) -> bool:
        return not self.models or any(fnmatchcase(name, pattern) for pattern in self.models)

    def allows_endpoint(self, path: str) -> bool:
        if path == ADMIN_PATH or path.startswith(f"{ADMIN_PATH}/"):
            return self.is_admin
        is_model_list = path == "/v1/models" or path.startswith("/v1/models/")
        return not self.endpoints or is_model_list or path in self.endpoints


def new_key() -> tuple[str, str]:
    """A fresh key and its id, from the operating system's random numbers."""
    key_id = secrets.token_hex(6)
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARACTERS))
    return f"{PREFIX}{key_id}-{secret}", key_id


def key_id_of(key: str) -> str | None:
    """The id inside a key; None for anything that is no key.

    >>> key_id_of("sk-nexus-0123456789ab-" + "x" * 43)
    '0123456789ab'
    """
    found = _FORM.fullmatch(key)
    return None if found is None else found[1]


def hash_of(key: str) -> str:
    """What is stored of a key: its SHA-256 in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_key_of(key: str, record: KeyRecord | None) -> bool:
    """Whether `key` is the one that `record` was made for. Takes as long where there is no record at all."""
    expected = _NO_HASH if record is None else record.hash
    return hmac.compare_digest(hash_of(key), expected) and record is not None
