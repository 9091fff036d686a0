"""Rows of parquet and csv files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nexus_llm.data.blocks import BLOCK_BYTES, Block, UnusableError
from nexus_llm.data.streams import first_line
from nexus_llm.errors import DataError

_MOST_ROWS = 10_000


def parquet_blocks(path: Path, *, origin: str, source: str) -> Iterator[Block]:
    """Runs of rows as Arrow IPC streams: the block needs no file, which may be gone when it is read.

    Columns of numbers in lists (embeddings) are left out: they are no text and many times its size.

    Raises:
        DataError: the file is no parquet file or is damaged, so nobody knows how much is missing.
    """
    import pyarrow as pa
    from pyarrow import parquet

    number, first = 0, 1
    try:
        with parquet.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if not _is_vector(field.type)]
            batches = file.iter_batches(batch_size=_rows_per_block(file.metadata), columns=columns, use_threads=False)
            for batch in batches:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, batch.schema) as writer:
                    writer.write_batch(batch)
                yield Block(origin, source, "parquet", number, first, sink.getvalue().to_pybytes())
                number, first = number + 1, first + len(batch)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{origin}:{first}: the parquet file is damaged ({first_line(error)})",
            fix="fetch the file again, or take it out of the source's folder",
        ) from error


def parquet_rows(block: Block) -> Iterator[tuple[int, Any]]:
    """(row number, row as a dict or an UnusableError) of a parquet block."""
    import pyarrow as pa

    number = block.first
    with pa.ipc.open_stream(pa.py_buffer(block.payload)) as reader:
        for batch in reader:
            try:
                rows: list[Any] = batch.to_pylist()
            except (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError):
                rows = [_one_row(batch.slice(index, 1)) for index in range(len(batch))]
            for row in rows:
                yield number, row
                number += 1


def _one_row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return UnusableError(f"not UTF-8 at byte {error.start + 1} of a field")
    except Exception as error:  # noqa: BLE001 - Arrow's conversions raise many kinds, and each row stands alone
        return UnusableError(f"the row has a value that cannot be read: {first_line(error)}")


def _is_vector(kind: Any) -> bool:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _rows_per_block(metadata: Any) -> int:
    """Rows that take about BLOCK_BYTES uncompressed, by the file's own account."""
    size: int = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    return max(1, min(_MOST_ROWS, int(metadata.num_rows) * BLOCK_BYTES // max(size, 1)))
