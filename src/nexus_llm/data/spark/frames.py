"""Frames between polars on the driver and Spark, packed: a row object for each of a million rows takes 10 seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ROWS_A_PIECE = 500_000


def to_spark(session: SparkSession, frame: pl.DataFrame, *, rows_a_piece: int = _ROWS_A_PIECE) -> DataFrame:
    """A polars frame of Int64 columns as a Spark frame, one partition a piece."""
    pieces = [(_ipc(piece.to_arrow()),) for piece in frame.iter_slices(rows_a_piece)]
    sent = session.sparkContext.parallelize(pieces, max(len(pieces), 1))
    schema = ", ".join(f"{name} bigint" for name in frame.columns)
    return session.createDataFrame(sent, "packed binary").mapInArrow(_unpacked, schema)


def collected(frame: DataFrame) -> pl.DataFrame:
    """All rows of a Spark frame of numbers and strings, in no order."""
    from pyspark.sql.types import DoubleType, StringType

    kinds = {DoubleType: pl.Float64, StringType: pl.String}
    schema = {one.name: kinds.get(type(one.dataType), pl.Int64) for one in frame.schema}
    packed = frame.mapInArrow(_packed, "packed binary").collect()
    parts = [pl.DataFrame(pa.ipc.open_stream(row.packed).read_all()) for row in packed]
    return pl.concat([pl.DataFrame(schema=schema), *(part.cast(schema) for part in parts)])


def _packed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    found = list(batches)
    if found:
        content = _ipc(pa.Table.from_batches(found))
        yield pa.RecordBatch.from_arrays([pa.array([content], pa.binary())], names=["packed"])


def _unpacked(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for packed in batch.column("packed"):
            yield from pa.ipc.open_stream(packed.as_buffer())


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())
