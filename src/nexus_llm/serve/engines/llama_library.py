"""llama.cpp's C interface inside the wheel `xllamacpp`: a model, its cache, and batches of tokens in, logits out.

The wheel's own server was tried first (version 2026.10.11549) and cannot carry the engine's contract: in a stream
it leaves out the ids of every token that ends inside a character (only the last id of each emoji comes), it stops only
at the vocabulary's own end tokens, its seeds have 32 bits, and it tells nothing of the prompt's log probabilities.
The wheel exports llama.cpp's C functions as well, so these are called directly.

Structures that are passed by value change between versions. They are used as opaque bytes with the few fields below,
and the defaults of this very version have to be found at their places before anything is called with them.

Source: llama.cpp, include/llama.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ
ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_CACHE_FULL = 1  # llama_decode's answer

# Field → (offset in bytes, format). Larger than any version's structure: what lies behind is never read.
_CONTEXT_FIELDS = {
    "n_ctx": (0, "I"), "n_batch": (4, "I"), "n_ubatch": (8, "I"), "n_seq_max": (12, "I"), "n_threads": (28, "i"),
    "n_threads_batch": (32, "i"), "kv_unified": (141, "?"),
}  # fmt: skip
_CONTEXT_DEFAULTS = struct.pack(
    "<IIIIIIIiiiiiii8f", *(512, 2048, 512, 1, 0, 0, 1), *(4, 4), 0, *(-1, -1, -1, -1), *(0, 0, -1, -1, -1, -1), 0, -1
)
_FLAG_DEFAULTS = bytes((0, 1, 1, 1, 1, 0))  # embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified
_FLAGS_AT = 136


class _Opaque(ctypes.Structure):
    _fields_ = (("content", ctypes.c_uint8 * 512),)


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.c_void_p),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


class CacheFullError(Exception):
    """The batch needs more room than the cache has."""


class LlamaModel:
    """A model in memory with one cache for up to 256 sequences."""

    def __init__(
        self, weights: Path, *, cache_tokens: int | None, cache_bytes: int, sequences: int, batch: int, threads: int
    ) -> None:
        """Reads the weights. The cache holds `cache_tokens`, or as many as fit into `cache_bytes`.

        Raises:
            RuntimeError: the wheel has another version, or the file cannot be read.
        """
        self._c = _library()
        self._model = self._c.llama_model_load_from_file(os.fsencode(weights), self._c.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot read {weights}")
        self.vocabulary = int(self._c.llama_vocab_n_tokens(self._c.llama_model_get_vocab(self._model)))
        fitting = cache_bytes // self._bytes_per_token()
        longest = sequences * int(self._c.llama_model_n_ctx_train(self._model))
        wanted = cache_tokens or max(256, min(fitting, longest) // 256 * 256)
        self._context = self._open_context(wanted, sequences=sequences, batch=batch, threads=threads)
        self._memory = self._c.llama_get_memory(self._context)
        self.cache_tokens = int(self._c.llama_n_ctx(self._context)) if cache_tokens is None else cache_tokens
        self._buffers = _Buffers(batch)

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """Reads (token id, position, sequence, are its logits wanted) for each token.

        Raises:
            CacheFullError: nothing was read.
            RuntimeError: the library failed.
        """
        batch = self._buffers.fill(tokens)
        result = self._c.llama_decode(self._context, batch)
        if result == _CACHE_FULL:
            raise CacheFullError
        if result != 0:
            raise RuntimeError(f"llama_decode returned {result}")

    def logits(self, place: int) -> NDArray[np.float32]:
        """The logits after the token at that place of the last batch; a view that the next batch overwrites."""
        pointer = self._c.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary,))

    def forget(self, sequence: int) -> None:
        """Frees what the sequence holds in the cache."""
        self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def share(self, source: int, target: int, *, tokens: int) -> None:
        """Lets a sequence begin with the first tokens of another one; the cache holds them once, for both."""
        self._c.llama_memory_seq_cp(self._memory, source, target, 0, tokens)

    def load_adapter(self, path: Path) -> int:
        """A LoRA adapter in GGUF form, for `use_adapter`.

        Raises:
            RuntimeError: it cannot be read or does not fit.
        """
        adapter = self._c.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not adapter:
            raise RuntimeError(f"llama.cpp cannot use the adapter {path}")
        return int(adapter)

    def use_adapter(self, adapter: int | None) -> None:
        adapters = (ctypes.c_void_p * 1)(adapter or 0)
        scales = (ctypes.c_float * 1)(1.0)
        self._c.llama_set_adapters_lora(self._context, adapters, int(adapter is not None), scales)

    def close(self) -> None:
        self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)

    def _bytes_per_token(self) -> int:
        layers, heads = self._c.llama_model_n_layer(self._model), self._c.llama_model_n_head(self._model)
        head_size = self._c.llama_model_n_embd(self._model) // heads
        # Keys and values in half precision.
        return int(layers * self._c.llama_model_n_head_kv(self._model) * head_size * 2 * 2)

    def _open_context(self, cache_tokens: int, *, sequences: int, batch: int, threads: int) -> int:
        values = {
            "n_ctx": cache_tokens, "n_batch": batch, "n_ubatch": batch, "n_seq_max": sequences,
            "n_threads": threads, "n_threads_batch": threads, "kv_unified": True,
        }  # fmt: skip
        parameters = self._c.llama_context_default_params()
        for name, value in values.items():
            offset, form = _CONTEXT_FIELDS[name]
            struct.pack_into(f"<{form}", parameters.content, offset, value)
        context = self._c.llama_init_from_model(self._model, parameters)
        if not context:
            raise RuntimeError("llama.cpp has no memory for its cache: lower serve.kv_cache_gib")
        return int(context)


class _Buffers:
    """The arrays of a batch, made once."""

    def __init__(self, size: int) -> None:
        self._tokens = np.zeros(size, dtype=np.int32)
        self._positions = np.zeros(size, dtype=np.int32)
        self._sequences = np.zeros(size, dtype=np.int32)
        self._counts = np.ones(size, dtype=np.int32)
        self._wanted = np.zeros(size, dtype=np.int8)
        start = self._sequences.ctypes.data
        self._pointers = np.arange(start, start + 4 * size, 4, dtype=np.uint64)  # one sequence a token

    def fill(self, tokens: list[tuple[int, int, int, bool]]) -> _Batch:
        count = len(tokens)
        columns = np.array(tokens, dtype=np.int32).reshape(count, 4)
        self._tokens[:count], self._positions[:count] = columns[:, 0], columns[:, 1]
        self._sequences[:count], self._wanted[:count] = columns[:, 2], columns[:, 3]
        arrays = (self._positions, self._counts, self._pointers, self._wanted)
        return _Batch(count, self._tokens.ctypes.data, None, *(array.ctypes.data for array in arrays))


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _errors_only(level: int, text: bytes, _data: object) -> None:
    if level == ERROR_LEVEL:
        os.write(2, text)


_LOADED: list[ctypes.CDLL] = []


def _library() -> Any:
    """The C interface, checked.

    Raises:
        RuntimeError: the structures are not those of the version that this was written for.
    """
    if _LOADED:
        return _LOADED[0]
    # GNU OpenMP's threads otherwise spin between layers: on a shared machine that made a token take 30 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    import xllamacpp.xllamacpp

    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    _declare(library)
    found = bytes(library.llama_context_default_params().content)
    flags = found[_FLAGS_AT : _FLAGS_AT + len(_FLAG_DEFAULTS)]
    if found[: len(_CONTEXT_DEFAULTS)] != _CONTEXT_DEFAULTS or flags != _FLAG_DEFAULTS:
        raise RuntimeError("this version of xllamacpp has other structures: install the pinned one")
    library.llama_log_set(_errors_only, None)
    library.llama_backend_init()
    _LOADED.append(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    pointer, integer, unsigned, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_char_p
    declared: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "llama_backend_init": (None, ()),
        "llama_log_set": (None, (type(_errors_only), pointer)),
        "llama_model_default_params": (_Opaque, ()),
        "llama_context_default_params": (_Opaque, ()),
        "llama_model_load_from_file": (pointer, (text, _Opaque)),
        "llama_model_free": (None, (pointer,)),
        "llama_model_get_vocab": (pointer, (pointer,)),
        "llama_vocab_n_tokens": (integer, (pointer,)),
        **{
            f"llama_model_n_{name}": (integer, (pointer,)) for name in ("layer", "head", "head_kv", "embd", "ctx_train")
        },
        "llama_init_from_model": (pointer, (pointer, _Opaque)),
        "llama_free": (None, (pointer,)),
        "llama_n_ctx": (unsigned, (pointer,)),
        "llama_get_memory": (pointer, (pointer,)),
        "llama_memory_seq_rm": (ctypes.c_bool, (pointer, integer, integer, integer)),
        "llama_memory_seq_cp": (None, (pointer, integer, integer, integer, integer)),
        "llama_decode": (integer, (pointer, _Batch)),
        "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), (pointer, integer)),
        "llama_adapter_lora_init": (pointer, (pointer, text)),
        "llama_set_adapters_lora": (integer, (pointer, pointer, ctypes.c_size_t, pointer)),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
