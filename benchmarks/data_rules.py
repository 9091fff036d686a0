"""The judging rules against datatrove's, in one run: speed a core second, and how often each rule says the same.

    python -m venv build/datatrove
    build/datatrove/bin/pip install datatrove==0.10.1 spacy
    python benchmarks/data_rules.py --data ../shared/data --megabytes 20 --datatrove-python build/datatrove/bin/python

Slices of documents take turns between the two. datatrove runs as its pipelines do: a dropped document is not seen by
the next filter; ours always measures every rule. Without --datatrove-python only ours is timed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from nexus_llm.data.judging.rules import Rule, Spec, judge, load_spec
from nexus_llm.data.judging.text_statistics import measure

CORPORA = ("awsdocs-ec2", "awsdocs-s3", "awsdocs-sagemaker", "tos-contracts", "web-and-pile-samples", "wikitext2")
BOOKS = "classic-books-dev"
_SLICE_BYTES = 2_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder a corpus")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--datatrove-python", type=Path)
    name = f"data_rules_{platform.machine()}_{date.today().isoformat()}.json"
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / name)
    options = parser.parse_args()
    spec = load_spec()
    documents = _sample(options.data, int(options.megabytes * 1e6))
    judge(documents["text"].head(1), spec, families=list(spec.families), overrides={})  # compile
    peer = _Peer(options.datatrove_python) if options.datatrove_python else None
    result = {
        "date": date.today().isoformat(),
        "hardware": f"{platform.processor() or platform.machine()}, one core each",
        "megabytes": round(documents["text"].str.len_bytes().sum() / 1e6, 1),
        "documents": len(documents),
        **_speed(documents, spec, peer),
        "rejected_share_by_corpus": _rejections(documents, spec),
    }
    if peer:
        result["agreement"] = _agreement(documents, spec, peer)
        peer.close()
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "rejected_share_by_corpus"}, indent=1))


class _Peer:
    """datatrove in a process of its own."""

    def __init__(self, python: Path) -> None:
        script = Path(__file__).parent / "peers" / "datatrove_rules.py"
        self._process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def _speed(documents: pl.DataFrame, spec: Spec, peer: _Peer | None) -> dict[str, float]:
    ours = theirs = plain = 0.0
    for part in _slices(documents):
        started = time.process_time()
        judge(part["text"], spec, families=list(spec.families), overrides={})
        ours += time.process_time() - started
        started = time.process_time()
        judge(part["text"], spec, families=["nexus"], overrides={})
        plain += time.process_time() - started
        if peer:
            theirs += peer.ask({"time": part["text"].to_list()})
    megabytes = documents["text"].str.len_bytes().sum() / 1e6
    speeds = {
        "nexus_all_rules_megabytes_per_core_second": round(megabytes / ours, 2),
        "nexus_own_six_rules_megabytes_per_core_second": round(megabytes / plain, 2),
    }
    if peer:
        speeds["datatrove_megabytes_per_core_second"] = round(megabytes / theirs, 3)
        speeds["times_datatrove"] = round(theirs / ours, 1)
    return speeds


def _rejections(documents: pl.DataFrame, spec: Spec) -> dict[str, dict[str, float]]:
    """Corpus → rule → share of its documents that break the rule."""
    broken = _decisions(documents["text"], spec.rules).select(~pl.all())
    rows = pl.concat([documents.select("corpus"), broken], how="horizontal").group_by("corpus").mean().sort("corpus")
    return {row.pop("corpus"): {rule: round(value, 4) for rule, value in row.items()} for row in rows.to_dicts()}


def _decisions(texts: pl.Series, rules: Iterable[Rule]) -> pl.DataFrame:
    """One row a text, one column a rule: whether the text keeps to the rule, whatever the others say."""
    return measure(texts).select((~rule.is_broken(rule.threshold)).alias(rule.id) for rule in rules)


def _as_datatrove(rule: Rule) -> Rule:
    """The rule with datatrove's statistic and threshold, where the spec notes that they differ from ours."""
    theirs, bound = rule.datatrove, "at_most" if rule.at_least is None else "at_least"
    if theirs is None:
        return rule
    threshold = rule.threshold if theirs.threshold is None else theirs.threshold
    return rule.model_copy(update={"statistic": theirs.statistic or rule.statistic, bound: threshold})


def _agreement(documents: pl.DataFrame, spec: Spec, peer: _Peer) -> list[dict[str, Any]]:
    """One row a rule that datatrove has too: how many documents both decide alike, as published and as datatrove."""
    rules = [rule for rule in spec.rules if rule.datatrove]
    peer.ask({"decide": [rule.datatrove.model_dump() for rule in rules if rule.datatrove]})
    theirs = []
    for part in _slices(documents):
        theirs += peer.ask({"judge": part["text"].to_list()})
    published = _decisions(documents["text"], spec.rules)
    imitated = _decisions(documents["text"], map(_as_datatrove, spec.rules))
    table = []
    for index, rule in enumerate(rules):
        peers = pl.Series([row[index] for row in theirs], dtype=pl.Boolean)
        same = int((published[rule.id] == peers).sum())
        row = {
            "rule": rule.id,
            "compared": int(peers.is_not_null().sum()),
            "nexus_rejects": int((~published[rule.id]).sum()),
            "datatrove_rejects": int((~peers).sum()),
            "agree": same,
            "agree_share": round(same / max(1, int(peers.is_not_null().sum())), 4),
        }
        if rule.datatrove and (rule.datatrove.statistic or rule.datatrove.threshold is not None):
            same = int((imitated[rule.id] == peers).sum())
            row["agree_share_without_named_deviation"] = round(same / max(1, row["compared"]), 4)
            row["deviation"] = rule.deviation
        table.append(row)
    return table


def _slices(documents: pl.DataFrame) -> Iterator[pl.DataFrame]:
    size = documents["text"].str.len_bytes().cum_sum() // _SLICE_BYTES
    yield from documents.with_columns(slice=size).partition_by("slice", maintain_order=True)


def _sample(folder: Path, size: int) -> pl.DataFrame:
    """Documents of all corpora in turn until `size` bytes, and one book."""
    queues = [(name, _texts(folder / name)) for name in CORPORA if (folder / name).is_dir()]
    rows: list[dict[str, str]] = []
    if (folder / BOOKS).is_dir():
        rows.append({"corpus": BOOKS, "text": next(_texts(folder / BOOKS))})
    taken = sum(len(row["text"]) for row in rows)
    while queues and taken < size:
        for name, texts in list(queues):
            text = next(texts, None)
            if text is None:
                queues.remove((name, texts))
            elif text.strip():
                rows.append({"corpus": name, "text": text})
                taken += len(text)
    return pl.DataFrame(rows, schema={"corpus": pl.String, "text": pl.String})


def _texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.name.removesuffix(".gz")
        if not path.is_file() or not name.endswith((".md", ".txt", ".json", ".jsonl")):
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = content.decode("utf-8", "replace")
        if name.endswith((".md", ".txt")):
            yield from _articles(text) if folder.name == "wikitext2" else [text]
        else:
            yield from _rows(text, is_lines=name.endswith("l"))


def _articles(text: str) -> Iterator[str]:
    """WikiText's articles: a title has one equals sign at each end."""
    article: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith(" = ") and not line.startswith(" = =") and article:
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)


def _rows(text: str, *, is_lines: bool) -> Iterator[str]:
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if is_lines else json.loads(text)
    except json.JSONDecodeError:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    for row in rows if isinstance(rows, list) else [rows]:
        found = [row[key] for key in ("text", "raw_content", "content") if isinstance(row, dict) and key in row]
        if found and isinstance(found[0], str):
            yield found[0]


if __name__ == "__main__":
    main()
