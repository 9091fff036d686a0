"""All records of one file, as the data stage reads them."""

from __future__ import annotations

from pathlib import Path

from nexus_llm.data.reading.blocks import BrokenRecord, ReadSettings
from nexus_llm.data.reading.readers import blocks_of, records_of
from nexus_llm.records import Document


def read_records(path: Path, *, source: str = "s", text_field: str = "text") -> list[Document | BrokenRecord]:
    """In order; the file's name is its origin."""
    settings = ReadSettings(text_field=text_field)
    return [
        record
        for block in blocks_of(path, origin=path.name, source=source)
        for _, record in records_of(block, settings)
    ]
