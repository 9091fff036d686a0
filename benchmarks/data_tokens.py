"""Tokenizing: MB of text per CPU second and MiB of memory of every library that gives exactly Hugging Face's ids.

Run `python benchmarks/data_tokens.py TOKENIZER_FOLDER TEXT_FOLDER... [--megabytes 20]`. Needs the libraries that shall
be compared (`pip install splintr-rs`); an absent one is reported as absent. Every library runs in a
process of its own, on one thread, through the adapter that the data stage uses; then `encode_block` as a whole, and
writing the shards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ENDINGS = (".md", ".txt", ".jsonl", ".json", ".rst", ".py", ".html")
DOCUMENT_CHARACTERS = 5_000
BLOCK_BYTES = 8_000_000


def memory_mib() -> float:
    """Resident memory of this process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def documents(folders: list[Path], megabytes: float) -> list[str]:
    """Pieces of 5,000 characters of the files, taken from all folders in turn until there is enough text."""
    per_folder = megabytes * 1e6 / len(folders)
    found: list[str] = []
    for folder in folders:
        size = 0
        for file in sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS):
            text = file.read_text(encoding="utf-8", errors="ignore")
            pieces = [text[start : start + DOCUMENT_CHARACTERS] for start in range(0, len(text), DOCUMENT_CHARACTERS)]
            for piece in pieces:
                if size < per_folder:
                    found.append(piece)
                    size += len(piece.encode())
    return found


def blocks_of(texts: list[str]) -> list[list[str]]:
    """The texts in lists of 8 MB, as the data stage gets them."""
    blocks: list[list[str]] = []
    room = 0
    for text in texts:
        if room <= 0:
            blocks.append([])
            room = BLOCK_BYTES
        blocks[-1].append(text)
        room -= len(text.encode())
    return blocks


def measure(name: str, tokenizer_folder: Path, texts: list[str]) -> dict[str, Any]:
    """One library over all blocks: what `choose` would measure it by, and its cost."""
    import numpy as np

    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.data.tokens import fast_tokenizers

    tokenizer = ChatTokenizer.load(tokenizer_folder)
    reference = fast_tokenizers.reference(tokenizer)
    blocks = blocks_of(texts)
    before, started = memory_mib(), time.perf_counter()
    try:
        encoder = reference if name == reference.name else fast_tokenizers.fast(tokenizer)
        probes = fast_tokenizers.adversarial_texts(tokenizer.tokenizer_json)
        encoder.encode(["a"])
    except ImportError:
        return {"refused": "not installed"}
    except BaseException as error:  # noqa: BLE001 - a panic in Rust
        return {"refused": str(error)[:100]}
    loaded = time.perf_counter() - started
    cpu, wall = time.process_time(), time.perf_counter()
    results, peak = [], 0.0
    for block in blocks:
        results.append(encoder.encode(block))
        peak = max(peak, memory_mib())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    kept = sum(ids.nbytes + offsets.nbytes for ids, offsets in results) / 2**20
    size = sum(len(text.encode()) for text in texts) / 1e6
    checked = texts[:: max(1, len(texts) // 400)]
    differs = fast_tokenizers.first_difference(checked, encoder.encode(checked), reference.encode(checked))
    probe_differs = fast_tokenizers.first_difference(probes, encoder.encode(probes), reference.encode(probes))
    return {
        "megabytes_per_cpu_second": round(size / cpu, 1),
        "megabytes_per_second": round(size / wall, 1),
        "load_seconds": round(loaded, 2),
        "memory_mib": round(peak - before - kept),
        "tokens": int(sum(len(ids) for ids, _ in results)),
        "ids_equal_on": f"{len(checked)} documents: {differs is None}, probes: {probe_differs is None}",
        "crc": int(np.bitwise_xor.reduce(np.concatenate([ids for ids, _ in results]))),
    }


def measure_blocks(tokenizer_folder: Path, texts: list[str]) -> dict[str, Any]:
    """`encode_block`, `save_block` and `write_shard` over all blocks, on one core."""
    import numpy as np
    import polars as pl

    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.data.tokens import encode as tokens
    from nexus_llm.data.tokens import fast_tokenizers, shards

    tokenizer = ChatTokenizer.load(tokenizer_folder)
    started = time.perf_counter()
    encoder = fast_tokenizers.choose(tokenizer, texts[:64])
    seconds = {"choose": time.perf_counter() - started, "encode_block": 0.0, "save_block": 0.0}
    size = sum(len(text.encode()) for text in texts) / 1e6
    ordinal, frames = 0, []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for number, block in enumerate(blocks_of(texts)):
            frame = pl.DataFrame({"text": block}).with_columns(
                *(pl.lit(None, pl.String).alias(column) for column in ("messages", "language")),
                *(pl.lit("x").alias(column) for column in ("source", "origin", "cluster")),
                ordinal=pl.int_range(ordinal, ordinal + len(block), dtype=pl.UInt64, eager=True),
                id=pl.Series([f"{row:032x}" for row in range(ordinal, ordinal + len(block))]),
                split=pl.lit("train"),
            )
            ordinal += len(block)
            frames.append(frame)
            started = time.process_time()
            encoded = tokens.encode_block(frame, encoder, tokenizer)
            seconds["encode_block"] += time.process_time() - started
            started = time.process_time()
            tokens.save_block(encoded, work / f"{number}")
            seconds["save_block"] += time.process_time() - started
        del encoded
        before, started = memory_mib(), time.process_time()
        blocks = range(len(blocks_of(texts)))
        plan = shards.plan_shards(
            ((number, tokens.load_sizes(work / f"{number}")) for number in blocks), shard_tokens=100_000_000
        )
        for shard in plan:
            shards.write_shard(
                work, shard, block=lambda number: tokens.load_block(work / f"{number}", frames[number]), dtype=np.uint16
            )
        seconds["write_shards"] = time.process_time() - started
        grown = memory_mib() - before
    return {
        "encoder": encoder.name,
        "choose_seconds": round(seconds.pop("choose"), 2),
        "megabytes_per_cpu_second": {name: round(size / spent, 1) for name, spent in seconds.items()},
        "memory_mib_that_writing_adds": round(grown),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--only", help="one library, or `blocks`, in this process")
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results")
    arguments = parser.parse_args()
    texts = documents(arguments.texts, arguments.megabytes) if arguments.only else []
    if arguments.only == "blocks":
        print(json.dumps(measure_blocks(arguments.tokenizer, texts)))
        return
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.tokenizer, texts)))
        return
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "POLARS_MAX_THREADS": "1"}
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, Python {platform.python_version()}",
        "megabytes": arguments.megabytes,
        "texts": [folder.name for folder in arguments.texts],
    }
    for only in ("tokenizers", "splintr", "blocks"):
        command = [sys.executable, __file__, str(arguments.tokenizer), *map(str, arguments.texts), "--only", only]
        command += ["--megabytes", str(arguments.megabytes)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        result[only] = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-300:]}
    print(json.dumps(result, indent=2))
    if arguments.save:
        target = Path(__file__).parent / "results" / f"data_tokens_{platform.machine()}_{result['date']}.json"
        target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
