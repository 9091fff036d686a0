"""datatrove's filters, MinHash deduplication and tokenizer on a folder of jsonl, two worker processes.

    python benchmarks/peers/datatrove_chain.py INPUT_FOLDER WORK_FOLDER TOKENIZER_JSON

Runs in an environment of its own: `pip install 'datatrove[processing]==0.10.1' spacy tokenizers 'xxhash<3.6'`. Prints
the seconds of each step as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig

BANDS, ROWS, SHINGLE_WORDS = 14, 8, 5


def main() -> None:
    source, work, tokenizer = (Path(one) for one in sys.argv[1:])
    files = len(list(source.glob("*.jsonl")))
    config = MinhashConfig(
        hash_config=HashConfig(precision=64), num_buckets=BANDS, hashes_per_bucket=ROWS, n_grams=SHINGLE_WORDS
    )
    steps: dict[str, tuple[list[Any], int]] = {
        "filters": (
            [
                JsonlReader(str(source), glob_pattern="*.jsonl"),
                GopherRepetitionFilter(),
                GopherQualityFilter(),
                C4QualityFilter(),
                FineWebQualityFilter(),
                JsonlWriter(str(work / "filtered"), compression=None),
            ],
            files,
        ),
        "minhash signatures": (
            [
                JsonlReader(str(source), glob_pattern="*.jsonl"),
                MinhashDedupSignature(output_folder=str(work / "signatures"), config=config),
            ],
            files,
        ),
        "minhash buckets": (
            [MinhashDedupBuckets(str(work / "signatures"), output_folder=str(work / "buckets"), config=config)],
            BANDS,
        ),
        "minhash clusters": (
            [MinhashDedupCluster(str(work / "buckets"), output_folder=str(work / "removed"), config=config)],
            1,
        ),
        "minhash filter": (
            [
                JsonlReader(str(source), glob_pattern="*.jsonl"),
                MinhashDedupFilter(str(work / "removed")),
                JsonlWriter(str(work / "deduplicated"), compression=None),
            ],
            files,
        ),
        "tokens": (
            [
                JsonlReader(str(source), glob_pattern="*.jsonl"),
                DocumentTokenizer(str(work / "tokens"), tokenizer_name_or_path=str(tokenizer), shuffle_documents=False),
            ],
            files,
        ),
    }
    found = {}
    for name, (pipeline, tasks) in steps.items():
        logs = str(work / "logs" / name.replace(" ", "-"))
        started = time.monotonic()
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=2, logging_dir=logs).run()
        found[name] = round(time.monotonic() - started, 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
