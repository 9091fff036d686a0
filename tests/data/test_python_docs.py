from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nexus_llm.data.reading.python_docs import (
    documents_of,
    fingerprint,
    source_files,
    split_at_headings,
    standard_library,
)
from nexus_llm.records import Document


@pytest.fixture(scope="module")
def harvested() -> list[Document]:
    library = standard_library()
    return [one for path in source_files(library) for one in documents_of(library, path, source="docs")]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "loud.py").write_text(
        '"""Shouts."""\nprint("imported!")\ndef shout(word: str = "hey", /, *, times=2) -> None:\n    """Louder."""\n'
        'def _hidden():\n    """Nobody reads this."""\nclass Voice(object):\n    """A voice."""\n'
    )
    for folder in ("test", "site-packages", "_private"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "more.py").write_text('"""Not for reading."""')
    return tmp_path


def test_the_standard_library_gives_a_corpus_of_a_few_megabytes(harvested: list[Document]) -> None:
    texts = [one.text for one in harvested]
    assert sum(map(len, texts)) > 1_000_000
    assert sum(500 <= len(text) <= 4_000 for text in texts) > 600
    assert len({one.id for one in harvested}) == len(harvested)


def test_known_modules_and_topics_are_in_it(harvested: list[Document]) -> None:
    by_origin = {one.origin: one.text for one in harvested}
    assert "textwrap.wrap(text, width=70, **kwargs)" in by_origin["textwrap"]
    assert by_origin["textwrap.TextWrapper#1"].startswith("class textwrap.TextWrapper")
    assert "context manager" in by_origin["topics.with"]


def test_harvesting_imports_nothing_and_warns_of_nothing() -> None:
    # In an interpreter of its own: here an earlier test may have imported what harvesting must not.
    code = (
        "import sys; from nexus_llm.data.reading.python_docs import *;"
        "library = standard_library(); before = set(sys.modules);"
        "found = sum(len(list(documents_of(library, path, source='s'))) for path in source_files(library));"
        "print(found > 500, sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True []\n", "")


def test_signatures_and_docstrings_are_read_and_private_names_are_not(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert source_files(library) == [Path("loud.py")]
    (document,) = documents_of(library, Path("loud.py"), source="docs")
    assert document.origin == "loud"
    assert "loud.shout(word: str='hey', /, *, times=2) -> None\n\n    Louder." in document.text
    assert "class loud.Voice(object)\n\n    A voice." in document.text
    assert "Nobody" not in document.text
    assert capsys.readouterr().out == ""


def test_a_file_that_does_not_parse_has_no_documents(library: Path) -> None:
    (library / "old.py").write_text("print 'python 2'")
    assert list(documents_of(library, Path("old.py"), source="docs")) == []


def test_the_fingerprint_changes_with_a_byte_and_not_with_the_folder(library: Path, tmp_path: Path) -> None:
    before = fingerprint(library)
    moved = tmp_path / "site-packages" / "elsewhere"
    moved.mkdir()
    (moved / "loud.py").write_bytes((library / "loud.py").read_bytes())
    assert fingerprint(moved) == before
    (library / "loud.py").write_text('"""Whispers."""')
    assert fingerprint(library) != before


def test_a_page_is_cut_at_its_headings_and_loses_no_line() -> None:
    sections = [
        f"{title}\n{'=' * len(title)}\n\n" + "A sentence of the page. " * 30 for title in ("One", "Two", "Three")
    ]
    pieces = split_at_headings("\n\n".join(sections))
    assert [piece.split("\n")[0] for piece in pieces] == ["One", "Two", "Three"]
    assert "".join("".join(pieces).split()) == "".join("".join(sections).split())
