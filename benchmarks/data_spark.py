"""CPU and wall seconds of the data stage on Spark and embedded, in one run on the same files; both must agree.

    python benchmarks/data_corpus.py /tmp/corpus --megabytes 50
    python benchmarks/data_spark.py --corpus /tmp/corpus [--model FOLDER] [--output benchmarks/results/NAME.md]

CPU seconds are those of all processes of a run, Java and its Python workers included: `/proc` is read four times a
second, because what a killed worker has used is told to nobody.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ENGINES: dict[str, list[str]] = {
    "embedded": ["data.engine=embedded", "data.workers=2"],
    "spark": ["data.engine=spark", "data.spark.master=local[2]", "data.spark.partitions=8"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder that data_corpus.py made")
    parser.add_argument("--model", help="a model's folder or name, for its tokenizer")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as scratch:
        root = Path(scratch)
        size = sum(path.stat().st_size for path in given.corpus.rglob("*.jsonl"))
        recipe = root / "recipe.json"
        source = {"type": "files", "path": str(given.corpus.absolute() / "**" / "*.jsonl"), "name": "own"}
        content = {"name": "b", "data": {"sources": [source]}}
        recipe.write_text(json.dumps(content | ({"model": {"base": given.model}} if given.model else {})))
        rows = [measure(engine, recipe, root) for engine in ENGINES]
    assert len({row["id"] for row in rows}) == 1, f"the engines disagree: {rows}"
    report = table(rows, size)
    print(report)
    if given.output:
        given.output.write_text(report, encoding="utf-8")


def measure(engine: str, recipe: Path, root: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    settings = [word for one in ENGINES[engine] for word in ("--set", one)]
    command = [
        sys.executable,
        "-m",
        "nexus_llm.cli",
        "data",
        str(recipe),
        "--root",
        str(root / engine),
        "--json",
        *settings,
    ]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        sampler = Sampler(process.pid)
        sampler.start()
        output, _ = process.communicate()
        wall = time.monotonic() - start
        sampler.is_over.set()
        sampler.join()
    if process.returncode:
        sys.exit(f"{engine} ended with {process.returncode}: {output}")
    return {"engine": engine, "id": json.loads(output)["stages"][-1]["id"], "cpu": sampler.seconds(), "wall": wall}


class Sampler(threading.Thread):
    """The CPU seconds of a process and of all that it starts."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.is_over = threading.Event()
        self._family = {root}
        self._used: dict[int, float] = {}

    def run(self) -> None:
        while not self.is_over.wait(0.25):
            self._look()

    def seconds(self) -> float:
        return sum(self._used.values())

    def _look(self) -> None:
        for name in sorted((name for name in (one.name for one in Path("/proc").iterdir()) if name.isdigit()), key=int):
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            # proc(5): parent is the 4th field, user and system ticks are the 14th and 15th; two stand before ")".
            if int(name) in self._family or int(fields[1]) in self._family:
                self._family.add(int(name))
                self._used[int(name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(rows: list[dict[str, Any]], size: int) -> str:
    lines = [f"{size / 1e6:.0f} MB of text, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end", ""]
    lines += ["| engine | CPU seconds | MB/s of CPU | wall seconds |", "|---|---:|---:|---:|"]
    for row in rows:
        lines.append(f"| {row['engine']} | {row['cpu']:.1f} | {size / 1e6 / row['cpu']:.1f} | {row['wall']:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
