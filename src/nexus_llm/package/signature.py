"""A detached Ed25519 signature over a package's manifest, and so over the hash of every file that it names.

It proves that whoever holds the private key signed exactly these files. It does not say that the model is good, when it
was signed, or whose key it is: how the public key gets to a verifier, and who may use the private one, is up to you.

Source: RFC 8032; keys are PEM files as `openssl genpkey -algorithm ed25519` writes them.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from nexus_llm.errors import ArtifactError, MissingExtraError, UsageError

SIGNATURE_FILE = "manifest.json.sig"
_MANIFEST = "manifest.json"


def sign(folder: Path, key: Path) -> str:
    """Writes the signature beside the manifest and returns it, in base64.

    Raises:
        UsageError: the file is no private Ed25519 key without a password.
    """
    serialization, ed25519 = _cryptography()
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _no_key(key, "private") from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise _no_key(key, "private")
    signature = base64.b64encode(private.sign((folder / _MANIFEST).read_bytes())).decode()
    (folder / SIGNATURE_FILE).write_text(signature + "\n", encoding="ascii")
    return signature


def verify(folder: Path, key: Path) -> None:
    """Nothing, where the signature beside the manifest is that of the key; the files are not looked at.

    Raises:
        UsageError: the file is no public Ed25519 key.
        ArtifactError: there is no signature, or it is another's, or the manifest was altered.
    """
    serialization, ed25519 = _cryptography()
    from cryptography.exceptions import InvalidSignature

    try:
        public = serialization.load_pem_public_key(key.read_bytes())
    except (OSError, ValueError) as error:
        raise _no_key(key, "public") from error
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise _no_key(key, "public")
    try:
        public.verify(base64.b64decode((folder / SIGNATURE_FILE).read_text()), (folder / _MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} has no signature", fix="sign it: nexus model promote … --sign-key KEY"
        ) from error
    except (InvalidSignature, ValueError) as error:
        raise ArtifactError(
            f"{folder / SIGNATURE_FILE} is not the signature of {key.name} over this manifest",
            fix="do not use the package; fetch it again from whom you trust",
        ) from error


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtraError.for_extra("sign", "cryptography") from error
    return serialization, ed25519


def _no_key(key: Path, kind: str) -> UsageError:
    return UsageError(
        f"{key} is no {kind} Ed25519 key in PEM form without a password",
        fix="openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem",
    )
