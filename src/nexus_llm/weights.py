"""Safetensors files through numpy alone: bfloat16 in and out, one tensor in memory at a time.

numpy has no bfloat16, so such a tensor is held as the upper 16 bits of float32 in a uint16 array.

Format: eight bytes with the header's length (little endian), a JSON header, then the tensors' bytes
(https://huggingface.co/docs/safetensors, read 2026-11).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nexus_llm.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_NUMPY_TYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}

Float32 = npt.NDArray[np.float32]
Bits16 = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor's bytes lie."""

    file: Path
    dtype: str
    """As the format names it: `BF16`, `F32`, …"""
    shape: tuple[int, ...]
    start: int
    """Byte in the file at which it begins."""


class Weights:
    """Named tensors in one or more safetensors files, read when asked for."""

    def __init__(self, tensors: Mapping[str, TensorPlace]) -> None:
        self._tensors = dict(sorted(tensors.items()))

    @classmethod
    def open(cls, path: Path) -> Weights:
        """The tensors of a safetensors file, or of a model folder with one file or an index of several.

        Raises:
            ModelError: there are none, a file is truncated or not safetensors, or a type is not a float type.
        """
        tensors: dict[str, TensorPlace] = {}
        for file in [path] if path.is_file() else weight_files(path):
            tensors |= _read_header(file)
        return cls(tensors)

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return list(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's sizes."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """A tensor's type as the format names it."""
        return self._tensors[name].dtype

    def bytes(self, name: str) -> int:
        """How many bytes a tensor takes in its file."""
        place = self._tensors[name]
        return int(np.prod(place.shape, dtype=np.int64)) * np.dtype(_NUMPY_TYPES[place.dtype]).itemsize

    def bits(self, name: str) -> Bits16:
        """A tensor as bfloat16, exact where it is stored so, else rounded to the nearest."""
        stored = self._stored(name)
        return np.array(stored) if self.dtype(name) == "BF16" else to_bfloat16(np.asarray(stored, dtype=np.float32))

    def float32(self, name: str) -> Float32:
        """A tensor as float32."""
        stored = self._stored(name)
        return from_bfloat16(stored) if self.dtype(name) == "BF16" else np.array(stored, dtype=np.float32)

    def _stored(self, name: str) -> npt.NDArray[Any]:
        place = self._tensors[name]
        if 0 in place.shape:
            return np.empty(place.shape, dtype=_NUMPY_TYPES[place.dtype])
        return np.memmap(place.file, _NUMPY_TYPES[place.dtype], "r", offset=place.start, shape=place.shape)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, sorted.

    Raises:
        ModelError: it has none, only pickled weights, or an index that names absent files.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            files = sorted({folder / name for name in json.loads(index.read_bytes())["weight_map"].values()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index} is not a readable index ({error})", fix="fetch the model again") from error
        for file in files:
            if not file.is_file():
                raise ModelError(f"{index} names {file.name}, which is not there", fix="fetch the model again")
        return files
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt")) or list(folder.glob("*.pth")):
        raise ModelError(
            f"{folder} has only pickled weights (.bin, .pt), which can run code when they are read",
            fix="use a safetensors version of the model",
        )
    raise ModelError(f"{folder} has no weights ({SINGLE_FILE})", fix="give a Hugging Face model folder or a GGUF file")


def write_bfloat16(path: Path, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], Bits16]) -> None:
    """Writes a safetensors file of bfloat16 tensors, asking for each by its name, in sorted order.

    The same tensors always give the same bytes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 2 * int(np.prod(shapes[name], dtype=np.int64))
        header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format asks for tensors that begin at a multiple of eight
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in sorted(shapes):
            bits = np.ascontiguousarray(tensor(name), dtype="<u2")
            assert bits.shape == tuple(shapes[name]), name
            stream.write(bits.data)


def to_bfloat16(values: Float32) -> Bits16:
    """float32 rounded to bfloat16, half to even; a NaN stays a NaN.

    >>> [hex(bits) for bits in to_bfloat16(np.array([1.0, -2.0, 1.00390625], dtype=np.float32))]
    ['0x3f80', '0xc000', '0x3f80']
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # Rounding could carry a NaN's bits over into an infinity or a zero.
    return np.where(np.isnan(values), (bits >> 16).astype(np.uint16) | np.uint16(0x40), rounded)


def to_bfloat16_unbiased(values: Float32, name: str) -> Bits16:
    """float32 rounded to bfloat16 up or down, each as often as it lies near: right on average (stochastic rounding).

    Adding what is less than half a step to a bfloat16 number and rounding to the nearest gives the number back: a small
    change to all weights would be lost. The draws hang on `name` alone; bfloat16 numbers, infinities and NaNs stay.

    >>> [hex(bits) for bits in to_bfloat16_unbiased(np.array([1.0, -2.0, np.inf], dtype=np.float32), "w")]
    ['0x3f80', '0xc000', '0x7f80']
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(-(-bits.size // 4))  # the same in every numpy
    draws = raw.astype("<u8").view("<u2")[: bits.size].reshape(bits.shape)
    rounded = ((bits + draws) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), (bits >> 16).astype(np.uint16) | np.uint16(0x40), rounded)


def from_bfloat16(bits: Bits16) -> Float32:
    """bfloat16 as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _read_header(file: Path) -> dict[str, TensorPlace]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise _broken(file, f"its header cannot be {length} bytes long in a file of {size}")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            places = {name: _place(file, entry, data_start=8 + length) for name, entry in header.items()}
            end = 8 + length + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _broken(file, f"its header is not readable ({error})") from error
    if end != size:
        raise _broken(file, f"it holds {size} bytes where its header names {end}")
    return places


def _place(file: Path, entry: dict[str, Any], *, data_start: int) -> TensorPlace:
    dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
    if dtype not in _NUMPY_TYPES:
        raise ModelError(
            f"{file} holds {dtype} tensors; {', '.join(sorted(_NUMPY_TYPES))} are read",
            fix="use a version of the model that is not quantised",
        )
    start, end = entry["data_offsets"]
    expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(_NUMPY_TYPES[dtype]).itemsize
    if end - start != expected:
        raise ValueError(f"a {dtype} tensor of shape {shape} in {end - start} bytes")
    return TensorPlace(file, dtype, shape, data_start + int(start))


def _broken(file: Path, why: str) -> ModelError:
    return ModelError(f"{file} is truncated or not safetensors: {why}", fix="delete it and fetch the model again")
