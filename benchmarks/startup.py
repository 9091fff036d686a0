"""Time of `nexus --help` as a whole process: median of 20 runs, beside the bare interpreter.

Run `python benchmarks/startup.py`; it needs no extra.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

RUNS = 20


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Interleaves the two, so that a drift of the machine meets both."""
    commands = {"nexus --help": ["-m", "nexus_llm.cli", "--help"], "python -c pass": ["-c", "pass"]}
    for arguments in commands.values():
        seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, arguments in commands.items():
            times[name].append(seconds(arguments))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, Python {platform.python_version()}",
        "runs": RUNS,
        "seconds": {
            name: {
                "min": round(min(values), 3),
                "median": round(statistics.median(values), 3),
                "max": round(max(values), 3),
            }
            for name, values in times.items()
        },
    }
    target = Path(__file__).parent / "results" / f"startup_{platform.machine()}_{result['date']}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
