"""llama.cpp's own rounding of rows to its block types, through the C interface inside the wheel `xllamacpp`.

The `gguf` package can read Q4_K and Q6_K but not write them. The one function that is called here takes numbers and
pointers only, no structures, so it does not change between versions as others do.

Source: llama.cpp, ggml/include/ggml.h, `ggml_quantize_chunk`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from nexus_llm.errors import MissingExtraError
from nexus_llm.package.tensor_types import TensorType


def quantised_rows(values: npt.NDArray[np.float32], kind: TensorType) -> npt.NDArray[np.uint8]:
    """The rows of a matrix in blocks, of shape (rows, bytes of a row). The same values always give the same bytes.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    quantise = _library().ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    quantise.argtypes = (ctypes.c_int, pointer, pointer, count, count, count, pointer)
    number = GGMLQuantizationType[kind]
    source = np.ascontiguousarray(values, dtype=np.float32)
    target = np.empty(quant_shape_to_byte_shape(source.shape, number), dtype=np.uint8)
    written = quantise(int(number), source.ctypes.data, target.ctypes.data, 0, *source.shape, None)
    assert written == target.nbytes, (kind, written, target.nbytes)
    return target


def _library() -> Any:
    try:
        import xllamacpp.xllamacpp
    except ImportError as error:
        raise MissingExtraError.for_extra("llama", "xllamacpp") from error
    return ctypes.CDLL(xllamacpp.xllamacpp.__file__)
