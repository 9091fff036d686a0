"""Near-duplicates: recall and precision against exact similarities, speed, and memory at scale; beside peers if given.

    python benchmarks/data_duplicates.py --data ../shared/data [--documents 100000 1000000] [--peer-python PYTHON]

PYTHON is the interpreter of an environment with rensa, datasketch, datatrove 0.10.1, spacy, tokenizers and xxhash<3.6
(datatrove breaks with newer ones); missing peers are left out. All get the same texts, 5-word shingles and 14 × 8
permutations. Texts: `awsdocs-neardup` (real pages in two revisions, with the exact Jaccard of every pair), and pairs
made to have a known Jaccard. A found pair shares a band; *verified* also has an exact Jaccard of 0.7 or more. Speeds
are of one process, from its processor seconds, compilation excluded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

WORDS, BANDS, ROWS, LEAST = 5, 14, 8, 0.7
GRADES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
PAIRS_PER_GRADE = 200
REPEATS = 3
PEERS = ("datasketch", "rensa R", "datatrove")

Pairs = set[tuple[int, int]]


def main() -> None:
    arguments = _arguments()
    if arguments.child == "peers":
        print(json.dumps(_peers(json.load(sys.stdin))))
    elif arguments.child == "scale":
        _scale(1_000)  # loads the compiled kernels, which take memory once
        print(json.dumps(_scale(arguments.documents[0])))
    else:
        lines = [f"{datetime.datetime.now(tz=datetime.UTC).date()}, {platform.machine()}, {os.cpu_count()} cores", ""]
        for line in _report(arguments):
            print(line, flush=True)
            lines.append(line)
        name = f"data_duplicates_{platform.machine()}_{lines[0][:10]}.md"
        (Path(__file__).parent / "results" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--documents", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--peer-python")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _report(arguments: argparse.Namespace) -> Iterator[str]:
    pages, page_truth = _pages(arguments.data / "awsdocs-neardup")
    graded, graded_truth = _graded()
    ours = {"pages": _found(pages), "graded": _found(graded)}
    tables: dict[str, dict[str, tuple[Pairs, float]]] = {"nexus": {k: v[:2] for k, v in ours.items()}}
    tables["nexus, verified"] = {
        name: (_verified(texts, ours[name][0]), ours[name][1]) for name, texts in (("pages", pages), ("graded", graded))
    }
    if arguments.peer_python:
        command = [arguments.peer_python, __file__, "--child", "peers"]
        given = json.dumps({"pages": pages, "graded": graded})
        answer = json.loads(subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout)
        for name, found in answer.items():
            tables[name] = {corpus: ({(a, b) for a, b in pairs}, speed) for corpus, (pairs, speed) in found.items()}
    yield (
        "| tool | recall J ≥ 0.7 | recall J ≥ 0.8 | precision at 0.7 | graded, recall at "
        + " / ".join(map(str, GRADES))
        + " | MB/s |"
    )
    yield "|---|---|---|---|---|---|"
    for name, found in tables.items():
        pairs, speed = found["pages"]
        recalls = [_recall(pairs, {p for p, j in page_truth.items() if j >= least}) for least in (0.7, 0.8)]
        precision = sum(page_truth.get(pair, 0) >= LEAST - 5e-5 for pair in pairs) / max(1, len(pairs))
        grades = [_recall(found["graded"][0], {p for p, j in graded_truth.items() if j == grade}) for grade in GRADES]
        shown = " / ".join(f"{one:.2f}" for one in grades)
        yield f"| {name} | {recalls[0]:.3f} | {recalls[1]:.3f} | {precision:.3f} | {shown} | {speed:.1f} |"
    theory = " / ".join(f"{1 - (1 - grade**ROWS) ** BANDS:.2f}" for grade in GRADES)
    yield f"| theory | | | | {theory} | |"
    yield from _other_speeds(pages, arguments.data)
    for documents in arguments.documents:
        command = [sys.executable, __file__, "--child", "scale", "--documents", str(documents)]
        yield subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _pages(folder: Path) -> tuple[list[str], dict[tuple[int, int], float]]:
    rows = [json.loads(line) for line in (folder / "documents.jsonl").open(encoding="utf-8")]
    places = {row["id"]: place for place, row in enumerate(rows)}
    truth = {}
    for line in (folder / "pairs_jaccard.tsv").read_text().splitlines()[1:]:
        a, b, jaccard, _ = line.split("\t")
        left, right = sorted((places[a], places[b]))
        truth[left, right] = float(jaccard)
    return [row["text"] for row in rows], truth


def _graded() -> tuple[list[str], dict[tuple[int, int], float]]:
    """Pairs of texts of which the first part is equal, as long as it takes for each Jaccard."""
    chance = random.Random(7)
    texts, truth = [], {}
    for grade in GRADES:
        for _ in range(PAIRS_PER_GRADE):
            size = 400
            # With s shared runs of n in each, J = s / (2n − s).
            shared = math.ceil(2 * size * grade / (1 + grade) - 1e-9)
            left = [f"{chance.getrandbits(40):x}" for _ in range(size + WORDS - 1)]
            same = shared + WORDS - 1
            right = left[:same] + [f"{chance.getrandbits(40):x}" for _ in range(len(left) - same)]
            truth[len(texts), len(texts) + 1] = grade
            texts += [" ".join(left), " ".join(right)]
    return texts, truth


def _recall(pairs: Pairs, wanted: Pairs) -> float:
    return len(pairs & wanted) / len(wanted) if wanted else float("nan")


def _found(texts: list[str]) -> tuple[Pairs, float]:
    """(candidate pairs, MB/s of signing) of this project."""
    import numpy as np
    import polars as pl

    from nexus_llm.data.duplicates import buckets, minhash

    column = pl.Series(texts)
    keys = minhash.band_keys(column, words=WORDS)
    speed = _speed(lambda: minhash.band_keys(column, words=WORDS), texts)
    rows = buckets.key_rows(np.arange(len(texts), dtype=np.uint64), keys)
    rows = rows[np.lexsort([rows[:, 1], rows[:, 0]])]
    return {(int(a), int(b)) for some in buckets.candidate_pairs([rows]) for a, b in some}, speed


def _verified(texts: list[str], pairs: Pairs) -> Pairs:
    import numpy as np
    import polars as pl

    from nexus_llm.data.duplicates import minhash

    sets = minhash.shingle_sets(pl.Series(texts), words=WORDS)
    ends = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    is_similar = minhash.jaccards(*sets, ends[:, 0], ends[:, 1]) >= LEAST
    return {(int(a), int(b)) for a, b in ends[is_similar]}


def _speed(work: Callable[[], Any], texts: Iterable[str], repeats: int = REPEATS) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return sum(len(text.encode()) for text in texts) / min(seconds) / 1e6


def _other_speeds(pages: list[str], data: Path) -> Iterator[str]:
    import polars as pl

    from nexus_llm.data.duplicates import minhash
    from nexus_llm.data.judging import decontaminate

    column = pl.Series(pages)
    minhash.shingle_sets(column[:1], words=WORDS)
    yield f"shingle_sets {_speed(lambda: minhash.shingle_sets(column, words=WORDS), pages):.0f} MB/s"
    sets = {
        name: list(decontaminate.items_of(data / path, origin=path))
        for name, path in (("gsm8k", "gsm8k/test.jsonl"), ("hellaswag", "hellaswag-val/hellaswag_val.jsonl"))
        if (data / path).exists()
    }
    index = decontaminate.build_index(sets)
    decontaminate.contaminated(column[:1], index)
    speed = _speed(lambda: decontaminate.contaminated(column, index), pages)
    yield f"contaminated {speed:.0f} MB/s against {len(index.runs):,} runs of {len(index.items):,} items"


def _scale(documents: int) -> dict[str, Any]:
    """A tenth are exact copies and a fifth belong to near-duplicates, of documents of 300 shingles."""
    import numpy as np

    from nexus_llm.data.duplicates.find import Signed, find_duplicates
    from nexus_llm.data.duplicates.word_hashes import Hashes

    memory_bytes, at_once, size = 150 * 2**20, 20_000, 300

    # A number that its copies and its near-duplicates share, without an array of all documents.
    def kinds(ordinals: Hashes) -> tuple[Hashes, Hashes]:
        kind = ordinals % np.uint64(20)
        content = np.where(kind < 2, ordinals - kind, ordinals)
        return content, np.where((kind >= 10) & (kind < 14), ordinals - kind + np.uint64(10), content)

    def mixed(values: Hashes) -> Hashes:
        values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        return (values ^ (values >> np.uint64(29))) * np.uint64(0xC4CEB9FE1A85EC53) | np.uint64(1)

    def blocks() -> Iterator[Signed]:
        for start in range(0, documents, at_once):
            ordinals = np.arange(start, min(start + at_once, documents), dtype=np.uint64)
            content, group = kinds(ordinals)
            hashes = np.stack([mixed(content), content], axis=1)
            bands = np.arange(BANDS, dtype=np.uint64)
            # Near-duplicates agree in half of the bands.
            source = np.where(bands % np.uint64(2) == 0, group[:, None], content[:, None])
            keys = mixed(source * np.uint64(BANDS) + bands)
            yield Signed(ordinals, hashes, np.full(len(ordinals), 2_000), keys)

    def shingles_of(ordinals: Hashes) -> Iterator[tuple[int, Hashes]]:
        content, group = kinds(ordinals)
        for ordinal, one, own in zip(ordinals.tolist(), group, content, strict=True):
            values = mixed(one * np.uint64(size) + np.arange(size, dtype=np.uint64))
            values[:10] = mixed(own * np.uint64(size) + np.arange(10, dtype=np.uint64) + np.uint64(1 << 60))
            yield ordinal, np.sort(values)

    before, start, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as work:
        found = sum(
            len(frame)
            for frame in find_duplicates(
                blocks(), shingles_of, work=Path(work), jaccard=LEAST, memory_bytes=memory_bytes
            )
        )
    return {
        "documents": documents,
        "not_alone": found,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "resident_mib_before": before,
        "resident_mib_peak": _peak_mib(),
    }


def _peak_mib() -> int:
    # Not getrusage where it can be helped: there, a child starts with its parent's peak.
    status = Path("/proc/self/status")
    if status.exists():
        return next(
            int(line.split()[1]) // 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM")
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _peers(corpora: dict[str, list[str]]) -> dict[str, dict[str, tuple[list[tuple[int, int]], float]]]:
    answer = {}
    for name in PEERS:
        try:
            answer[name] = {corpus: _peer(name, texts) for corpus, texts in corpora.items()}
        except ImportError as error:
            print(f"{name} left out: {error}", file=sys.stderr)
    return answer


def _peer(name: str, texts: list[str]) -> tuple[list[tuple[int, int]], float]:
    keys: list[list[Any]] = []
    bands = {"datasketch": _datasketch, "rensa R": _rensa, "datatrove": _datatrove}[name]()
    bands("the first call of a peer loads its tables")
    speed = _speed(lambda: keys.extend(bands(text) for text in texts), texts, repeats=1)
    met: dict[Any, list[int]] = {}
    for place, own in enumerate(keys):
        for band, key in enumerate(own):
            met.setdefault((band, key), []).append(place)
    pairs = {(a, b) for group in met.values() for at, a in enumerate(group) for b in group[at + 1 :]}
    return sorted(pairs), speed


def _shingles(text: str) -> list[str]:
    import re

    words = re.findall(r"\w+", text.lower())
    width = min(WORDS, len(words))
    return [" ".join(words[start : start + width]) for start in range(len(words) - width + 1)] if words else []


def _datasketch() -> Callable[[str], list[Any]]:
    from datasketch import MinHash

    def bands(text: str) -> list[Any]:
        signed = MinHash(num_perm=BANDS * ROWS)
        signed.update_batch([one.encode() for one in _shingles(text)])
        return [signed.hashvalues[band * ROWS : (band + 1) * ROWS].tobytes() for band in range(BANDS)]

    return bands


def _rensa() -> Callable[[str], list[Any]]:
    from rensa import RMinHash

    def bands(text: str) -> list[Any]:
        signed = RMinHash(num_perm=BANDS * ROWS, seed=42)
        signed.update(_shingles(text))
        values = signed.digest()
        return [tuple(values[band * ROWS : (band + 1) * ROWS]) for band in range(BANDS)]

    return bands


def _datatrove() -> Callable[[str], list[Any]]:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    config = MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    signer = MinhashDedupSignature(output_folder=tempfile.mkdtemp(), config=config)

    def bands(text: str) -> list[Any]:
        return [tuple(band) for band in signer.get_signature(signer.get_shingles(text))]

    return bands


if __name__ == "__main__":
    main()
