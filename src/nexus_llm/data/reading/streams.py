"""A file's bytes as UTF-8, whatever it is packed in: gzip or zstd, with a byte order mark or in UTF-16 or UTF-32."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

from nexus_llm.errors import DataError

_CHUNK_BYTES = 2**20
_WIDE_MARKS = (
    # The mark of UTF-32-LE begins with that of UTF-16-LE, so it is tried first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class ByteStream:
    """Unpacked bytes of one file, read forward once; damage is an error that names the file."""

    origin: str
    encoding: str
    """What the bytes were in: "utf-8", or "utf-16" and "utf-32", which are turned into UTF-8 here (what cannot be
    decoded becomes a byte 0xFF, which is no UTF-8 either). Always "utf-8" where the file was opened as binary."""
    _raw: Any
    _line: int = 1

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, *, origin: str, compression: str, is_text: bool) -> Iterator[Self]:
        """The bytes of `path` behind its `compression` ("gz", "zst" or ""); text loses its byte order mark."""
        with path.open("rb") as file:
            stream = cls(origin, "utf-8", _unpacked(file, compression))
            if is_text:
                start = stream.read(4)
                stream.encoding = wide_encoding(start) or "utf-8"
                whole = _Prefixed(start.removeprefix(codecs.BOM_UTF8), stream._raw)
                stream._raw = _Transcoded(whole, stream.encoding) if stream.encoding != "utf-8" else whole
            yield stream

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end.

        Raises:
            DataError: the compressed data is damaged or ends early.
        """
        parts: list[bytes] = []
        try:
            while size > 0 and (part := self._raw.read(size)):
                parts.append(part)
                size -= len(part)
                self._line += part.count(b"\n")
        except (EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's own trouble; what the formats complain about has no number
            raise DataError(
                f"{self.origin}:{self._line}: the compressed data is damaged or ends early ({first_line(error)})",
                fix="fetch the file again, or take it out of the source's folder",
            ) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)


def wide_encoding(start: bytes) -> str | None:
    """The encoding that a byte order mark of UTF-16 or UTF-32 announces, else None."""
    return next((encoding for mark, encoding in _WIDE_MARKS if start.startswith(mark)), None)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unpacked(raw: IO[bytes], compression: str) -> IO[bytes]:
    if compression == "gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if compression == "zst":
        import pyarrow as pa

        # Arrow's reader notices a file cut short, and unpacks no more than is asked for: 1 kB of zstd can hold 32 MB.
        return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
    return raw


class _Prefixed:
    """Bytes already read, then the rest of the stream."""

    def __init__(self, start: bytes, rest: Any) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int) -> bytes:
        if self._start:
            part, self._start = self._start[:size], self._start[size:]
            return part
        return cast(bytes, self._rest.read(size))


class _Transcoded(io.RawIOBase):
    """UTF-16 or UTF-32 as UTF-8."""

    def __init__(self, raw: _Prefixed, encoding: str) -> None:
        self._raw = raw
        codecs.register_error("nexus.as_byte_ff", _as_byte_ff)
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="nexus.as_byte_ff")
        self._pending = b""

    def read(self, size: int = -1) -> bytes:
        while not self._pending:
            chunk = self._raw.read(_CHUNK_BYTES)
            self._pending = self._decoder.decode(chunk, final=not chunk).encode(errors="surrogateescape")
            if not chunk:
                break
        part, self._pending = self._pending[:size], self._pending[size:]
        return part


def _as_byte_ff(error: UnicodeError) -> tuple[str, int]:
    return "\udcff", cast(UnicodeDecodeError, error).end  # surrogateescape writes it as the byte 0xFF
