"""How well and how fast main text is taken out of web pages: our reader beside trafilatura's modes and resiliparse.

    python benchmarks/data_extraction.py [--data DIR] [--pages N] [--write]

Ground truth: 200 pages of trafilatura's own evaluation (github.com/adbar/trafilatura, tests/evaldata.py), each with
strings that must survive and strings that must not. A string that must survive and does is a true positive; one that
must not and does is a false positive. Shown: precision, recall, F1, accuracy over all strings (as in trafilatura's
evaluation), pages that gave no text, and pages a CPU second of one process, without reading the file.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from nexus_llm.data.reading import pages
from nexus_llm.data.reading.blocks import UnusableError, items_of
from nexus_llm.data.reading.readers import blocks_of
from nexus_llm.data.reading.warc import _fields, _split_head, warc_text

ROOT = Path(__file__).resolve().parents[1]
WARC = "pages.warc.gz"


@dataclass
class Score:
    """What one extractor did with all pages."""

    name: str
    kept_wanted: int = 0
    lost_wanted: int = 0
    kept_unwanted: int = 0
    lost_unwanted: int = 0
    empty: int = 0
    pages: int = 0
    cpu_seconds: float = 0.0

    def row(self) -> str:
        """One line of the table."""
        precision = self.kept_wanted / max(1, self.kept_wanted + self.kept_unwanted)
        recall = self.kept_wanted / max(1, self.kept_wanted + self.lost_wanted)
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        total = self.kept_wanted + self.lost_wanted + self.kept_unwanted + self.lost_unwanted
        accuracy = (self.kept_wanted + self.lost_unwanted) / max(1, total)
        speed = self.pages / self.cpu_seconds
        return (
            f"| {self.name} | {precision:.3f} | {recall:.3f} | {f1:.3f} | {accuracy:.3f} | {self.empty} | {speed:.0f} |"
        )


def main() -> None:
    """Prints the table; `--write` stores it in benchmarks/results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/html-trafilatura-warc")
    parser.add_argument("--pages", type=int, default=None, help="only the first N pages")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    truth = json.loads((arguments.data / "ground_truth.json").read_text(encoding="utf-8"))
    truth = {url.strip(): wanted for url, wanted in truth.items()}
    records = list(_records(arguments.data / WARC))[: arguments.pages]
    lines = [
        "| extractor | precision | recall | F1 | accuracy | empty | pages/CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, extract in _extractors().items():
        score = Score(name)
        for url, record, html in records:
            _measure(score, truth[url], lambda record=record, html=html, extract=extract: extract(record, html))
        lines.append(score.row())
        print(lines[-1], flush=True)
    text = "\n".join([_title(len(records)), "", *lines, ""])
    print("\n" + text)
    if arguments.write:
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        (ROOT / f"benchmarks/results/data-extraction_{day}.md").write_text(text, encoding="utf-8")


def _measure(score: Score, truth: dict[str, list[str]], extract: Callable[[], str]) -> None:
    started = time.process_time()
    found = extract()
    score.cpu_seconds += time.process_time() - started
    text = " ".join(found.split())
    score.pages += 1
    score.empty += not text
    for wanted in truth["with"]:
        is_there = " ".join(wanted.split()) in text
        score.kept_wanted += is_there
        score.lost_wanted += not is_there
    for unwanted in truth["without"]:
        is_there = " ".join(unwanted.split()) in text
        score.kept_unwanted += is_there
        score.lost_unwanted += not is_there


def _extractors() -> dict[str, Callable[[bytes, bytes], str]]:
    import trafilatura

    def ours(record: bytes, _html: bytes) -> str:
        try:
            return warc_text(record).text
        except UnusableError:
            return ""

    def mode(**options: bool) -> Callable[[bytes, bytes], str]:
        return lambda _record, html: trafilatura.extract(html, **options) or ""

    found: dict[str, Callable[[bytes, bytes], str]] = {
        "ours, the whole way from a WARC record": ours,
        "trafilatura as it comes": mode(),
        "trafilatura, no comments": mode(include_comments=False),
        "trafilatura, fast, no comments": mode(include_comments=False, fast=True),
        "trafilatura, precision, no comments": mode(include_comments=False, favor_precision=True),
        "trafilatura, fast, precision, no comments": mode(include_comments=False, favor_precision=True, fast=True),
        "trafilatura, recall, no comments": mode(include_comments=False, favor_recall=True),
        "trafilatura, fast, recall, no comments": mode(include_comments=False, favor_recall=True, fast=True),
    }
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError:
        return found

    def resiliparse(_record: bytes, html: bytes) -> str:
        return str(extract_plain_text(pages.decoded(html), main_content=True, comments=False))

    return {**found, "resiliparse, main content, no comments": resiliparse}


def _records(path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """(URL, WARC record, HTML) of every page."""
    for block in blocks_of(path, origin=path.name, source="benchmark"):
        for _, record in items_of(block, "page"):
            assert isinstance(record, bytes)
            head, content = _split_head(record)
            yield _fields(head)["warc-target-uri"], record, _split_head(content)[1]


def _title(count: int) -> str:
    versions = Counter({name: metadata.version(name) for name in ("trafilatura", "resiliparse") if _is_there(name)})
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{count} pages · {named} · Python {platform.python_version()} · {datetime.now(UTC):%Y-%m-%d}"


def _is_there(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
