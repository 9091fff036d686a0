"""A corpus of any size out of real text, with planted exact and near duplicates: `data_corpus.py OUT --megabytes 205`.

Documents are random paragraphs of real pages, contracts, books and web text, so that two of them hardly ever resemble
one another by chance, however large the corpus. Three in a hundred are exact copies of an earlier document and five are
copies with words replaced; `planted.json` lists them. Equal arguments give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SHARED = Path(__file__).parents[2] / "shared" / "data"
FOLDERS = (
    "awsdocs-sagemaker",
    "awsdocs-ec2",
    "awsdocs-s3",
    "tos-contracts",
    "classic-books-dev",
    "wikitext2",
    "tinyshakespeare",
    "web-and-pile-samples",
    "paul-graham-essays",
)
EXACT_SHARE, NEAR_SHARE = 0.03, 0.05
MEAN_CHARACTERS = 2_450  # as in the stored baselines: 204.8 MB in 83,492 documents
PARAGRAPH_CHARACTERS = 400
FILE_MEGABYTES = 32
# A copy may resemble one of so many documents before it.
_REMEMBERED = 20_000


def paragraphs(folder: Path) -> list[list[str]]:
    """The paragraphs of every real document, one list a kind of text."""
    kinds = []
    for name in FOLDERS:
        found: list[str] = []
        for path in sorted((folder / name).rglob("*")):
            if path.suffix in (".md", ".txt"):
                found += path.read_text(encoding="utf-8", errors="ignore").split("\n\n")
            elif path.suffix == ".jsonl":
                for line in path.read_text(encoding="utf-8").splitlines():
                    found += str(json.loads(line).get("text", "")).split("\n\n")
        pieces = (piece for paragraph in found for piece in cut(paragraph))
        kinds.append([one for one in dict.fromkeys(pieces) if len(one) > 40])
    return [kind for kind in kinds if kind]


def cut(paragraph: str) -> list[str]:
    """A paragraph in pieces of about PARAGRAPH_CHARACTERS, cut behind lines or sentences."""
    pieces = [""]
    for part in re.split(r"(?<=\n)|(?<=[.!?] )", paragraph):
        if len(pieces[-1]) > PARAGRAPH_CHARACTERS:
            pieces.append("")
        pieces[-1] += part
    return [piece.strip() for piece in pieces]


def documents(
    kinds: list[list[str]], megabytes: float, seed: int
) -> Iterator[tuple[str, tuple[str, int, float] | None]]:
    """(text, what it repeats: kind, number of the earlier document, share of words replaced; or None)."""
    draw = np.random.default_rng(seed)
    # Kinds in proportion to their text, so that no small one is used up first.
    shares = np.array([sum(map(len, kind)) for kind in kinds], float)
    earlier: list[tuple[int, str]] = []
    size = number = 0
    while size < megabytes * 1e6:
        kind = kinds[draw.choice(len(kinds), p=shares / shares.sum())]
        chance = draw.random()
        planted = None
        if earlier and chance < EXACT_SHARE + NEAR_SHARE:
            original, text = earlier[draw.integers(len(earlier))]
            if chance < EXACT_SHARE:
                planted = ("exact", original, 0.0)
            else:
                share = float(draw.choice([0.002, 0.005, 0.01, 0.02, 0.03, 0.05]))
                text, planted = changed(text, share, draw), ("near", original, share)
        else:
            wanted, parts = draw.exponential(MEAN_CHARACTERS), []
            while sum(map(len, parts)) < wanted:
                parts.append(kind[draw.integers(len(kind))])
            text = "\n\n".join(parts)
            if len(earlier) < _REMEMBERED:
                earlier.append((number, text))
            else:
                earlier[draw.integers(_REMEMBERED)] = (number, text)
        yield text, planted
        size += len(text.encode())
        number += 1


def changed(text: str, share: float, draw: np.random.Generator) -> str:
    """The text with that share of its words replaced by new ones."""
    words = text.split(" ")
    for place in draw.choice(len(words), size=max(1, round(share * len(words))), replace=False):
        words[place] = f"word{draw.integers(10**9)}"
    return " ".join(words)


def build(out: Path, *, megabytes: float, seed: int = 17) -> None:
    """Writes `part-00000.jsonl`, … and `planted.json` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    kinds = paragraphs(SHARED)
    file, size, number = -1, FILE_MEGABYTES * 1e6, 0
    stream = None
    with (out / "planted.json").open("w") as pairs:
        for number, (text, planted) in enumerate(documents(kinds, megabytes, seed)):
            if size >= FILE_MEGABYTES * 1e6:
                file, size = file + 1, 0
                if stream:
                    stream.close()
                stream = (out / f"part-{file:05d}.jsonl").open("w", encoding="utf-8")
            assert stream is not None
            stream.write(json.dumps({"number": number, "text": text}, ensure_ascii=False) + "\n")
            size += len(text.encode())
            if planted:
                pairs.write(json.dumps([number, *planted]) + "\n")
    if stream:
        stream.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=205)
    arguments = parser.parse_args()
    build(arguments.out, megabytes=arguments.megabytes)
