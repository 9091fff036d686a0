"""Rows of parquet and csv files."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nexus_llm.data.reading import blocks
from nexus_llm.data.reading.blocks import BLOCK_BYTES, Block, UnusableError
from nexus_llm.data.reading.streams import ByteStream, first_line
from nexus_llm.errors import DataError

_MOST_ROWS = 10_000
_DELIMITERS = ",;\t|"
_MOST_HEADER_BYTES = 2**20


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
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's own trouble
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


def csv_blocks(stream: ByteStream, *, source: str) -> Iterator[Block]:
    """Blocks of whole csv records, numbered by the line that each starts on; the first record is the header.

    The delimiter is the one of , ; | and tab that is most frequent in the header.

    Raises:
        DataError: two columns have one name, a column has none, or a quote is not closed within MAX_RECORD_BYTES.
    """
    buffer, number, line = b"", 0, 1
    columns: tuple[str, ...] = ()
    delimiter = ","
    is_more = True
    while is_more:
        chunk = stream.read(BLOCK_BYTES)
        is_more, buffer = bool(chunk), buffer + chunk
        if not columns:
            rest = buffer.lstrip(b"\r\n")
            if not rest:
                continue
            columns, delimiter, size = _header(rest, stream.origin)
            start = len(buffer) - len(rest) + size
            line, buffer = line + buffer.count(b"\n", 0, start), buffer[start:]
        cut = _last_record_end(buffer, delimiter) if is_more else len(buffer)
        if cut:
            payload, buffer = buffer[:cut], buffer[cut:]
            yield Block(stream.origin, source, "csv", number, line, payload, stream.encoding,
                        columns=columns, delimiter=delimiter)  # fmt: skip
            number, line = number + 1, line + payload.count(b"\n")
        if len(buffer) > blocks.MAX_RECORD_BYTES:
            raise DataError(
                f"{stream.origin}:{line}: a quote opens a field and is not closed within {len(buffer)} bytes",
                fix='close the quote; a quote inside a quoted field is written twice ("")',
            )


def csv_rows(block: Block) -> Iterator[tuple[int, Any]]:
    """(line that it starts on, row as a dict or an UnusableError) of every record that is not empty."""
    csv.field_size_limit(blocks.MAX_RECORD_BYTES + BLOCK_BYTES)
    try:
        text, is_valid = block.payload.decode(), True
    except UnicodeDecodeError:
        text, is_valid = block.payload.decode(errors="surrogateescape"), False
    lines = text.split("\n")
    records = csv.reader((f"{line}\n" for line in lines), delimiter=block.delimiter, strict=True)
    while True:
        number = block.first + records.line_num
        try:
            fields = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, UnusableError(f"not CSV: {error}")
            continue
        if len(fields) != len(block.columns):
            if fields:
                reason = f"{len(fields)} fields, and the header has {len(block.columns)}"
                yield number, UnusableError(reason)
        elif not is_valid and not _is_encodable(fields):
            yield number, UnusableError(f"not {block.encoding.upper()}")
        else:
            yield number, dict(zip(block.columns, fields, strict=True))


def _is_encodable(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _quoted(delimiter: str) -> re.Pattern[bytes]:
    """A quoted field, whole or cut off by the end of the data; a quote opens one only at its start (RFC 4180)."""
    return re.compile(rb'(?<![^%b\r\n])"[^"]*+(?:""[^"]*+)*+("|\Z)' % delimiter.encode())


def _last_record_end(buffer: bytes, delimiter: str) -> int:
    """Where the last whole record ends: behind the last line end that is in no quoted field."""
    behind = end = 0
    for field in _quoted(delimiter).finditer(buffer):
        end = buffer.rfind(b"\n", behind, field.start()) + 1 or end
        behind = field.end()
    return buffer.rfind(b"\n", behind) + 1 or end


def _header(start: bytes, origin: str) -> tuple[tuple[str, ...], str, int]:
    """(column names, delimiter, bytes that they take)."""
    size = _first_record_size(start, ",")
    text = start[:size].decode(errors="replace")
    delimiter = max(_DELIMITERS, key=text.count)
    size = _first_record_size(start, delimiter)
    try:
        (names,) = csv.reader([start[:size].decode()], delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        raise _no_header(origin, f"the first line is no CSV ({first_line(error)})") from error
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not all(names):
        raise _no_header(origin, f"the column {repeated[0]!r} is there twice" if repeated else "a column has no name")
    return tuple(names), delimiter, size


def _first_record_size(start: bytes, delimiter: str) -> int:
    behind = 0
    for field in _quoted(delimiter).finditer(start, 0, _MOST_HEADER_BYTES):
        if b"\n" in start[behind : field.start()]:
            break
        behind = field.end()
    return start.find(b"\n", behind) + 1 or len(start)


def _no_header(origin: str, what: str) -> DataError:
    return DataError(f"{origin}:1: {what}", fix="give the file a first line that names each column once")


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
