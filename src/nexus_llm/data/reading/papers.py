"""The text of PDF files."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from typing import Any

from nexus_llm.data.reading.blocks import TextRecord, UnusableError
from nexus_llm.errors import MissingExtraError

# Bounds are counts, not seconds: what is read must not depend on how fast a machine is. A file at all of them takes
# about half a minute; books have below 2,000 pages and 2 million drawing operations.
MAX_PAGES = 5_000
MAX_OPERATIONS = 3_000_000
_BOUNDS: Mapping[str, Any] = {
    "zlib_maximum_output_length": 16 * 2**20,
    "lzw_maximum_output_length": 16 * 2**20,
    "run_length_maximum_output_length": 16 * 2**20,
    "page_tree_maximum_entries": 4 * MAX_PAGES,
    "xform_maximum_invocations_per_extraction": 1_000,
}
"""pypdf's own bounds (`pypdf.Configuration`) where its defaults would let a page take minutes."""


class _TooManyOperations(BaseException):
    """No Exception, since pypdf swallows those of a form within a page."""


def pdf_text(raw: bytes) -> TextRecord:
    """The text of a PDF file, an empty line between pages; `date` from its properties.

    Scanned pages have no text: nothing is recognised here.

    Raises:
        UnusableError: the file is encrypted, damaged, without text, or beyond the bounds above.
        MissingExtraError: pypdf is not installed.
    """
    try:
        import pypdf
    except ImportError as error:
        raise MissingExtraError.for_extra("documents", "pypdf") from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells of every oddity; damage is an error here
    try:
        with pypdf.apply_configuration(**_BOUNDS):
            file = pypdf.PdfReader(io.BytesIO(raw), strict=False)
            if file.is_encrypted and not _opens_without_password(file):
                raise UnusableError("the PDF file is encrypted")
            if len(file.pages) > MAX_PAGES:
                raise UnusableError(f"the PDF file has {len(file.pages):,} pages, more than {MAX_PAGES:,}")
            pages = _page_texts(file)
            date = _creation_date(file)
    except UnusableError:
        raise
    except _TooManyOperations:
        raise UnusableError(f"the PDF file draws more than {MAX_OPERATIONS:,} things") from None
    except Exception as error:
        raise UnusableError(f"the PDF file is damaged ({type(error).__name__}: {error})") from error
    if not any(page.strip() for page in pages):
        raise UnusableError("the PDF file has no text (scanned pages are not recognised)")
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    return TextRecord(text + "\n", {"date": date} if date else {})


def _opens_without_password(file: Any) -> bool:
    from pypdf.errors import DependencyError

    try:
        return bool(file.decrypt(""))
    except DependencyError as error:
        raise UnusableError("the PDF file is encrypted with AES, which needs pip install 'pypdf[crypto]'") from error


def _creation_date(file: Any) -> str:
    """As ISO 8601, empty where there is none or it is no date."""
    try:
        made = file.metadata.creation_date if file.metadata else None
    except ValueError:
        return ""
    return made.isoformat() if made else ""


def _page_texts(file: Any) -> list[str]:
    operations = 0

    def count(*_operation: object) -> None:
        nonlocal operations
        operations += 1
        if operations > MAX_OPERATIONS:
            raise _TooManyOperations

    return [page.extract_text(visitor_operand_before=count) for page in file.pages]
