"""Measures how long nobody likes to wait: `nexus aws preflight` on the emulator, and all of `terraform test`.

    python benchmarks/aws_speed.py [--runs 3] [--only preflight modules]

The preflight is the command as users start it, Python's start included, asked about the large recipe; the emulator is a
process of its own and has answered once before. Quotas are not known to it, so the command ends with 0 or 6. The suite
is that of every module and stage with a mocked provider: one provider for all, folders initialised before, as many at
once as there are cores. Writes `results/aws_speed_HARDWARE_DATE.json` and `.md`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from claims import Claim, median_claim, store, tell  # noqa: E402
from nexus_llm.cloud.emulator import REGION, running_emulator, without_aws  # noqa: E402
from terraform_here import TESTED, copy_of_infra, run  # noqa: E402

RECIPE = ROOT / "recipes" / "domain-8b-sagemaker.yaml"
PASSED = re.compile(r"Success! (\d+) passed")


def main() -> int:
    """Measures, stores, and says whether the targets are met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="of the preflight")
    parser.add_argument("--only", nargs="+", choices=["preflight", "modules"], default=["preflight", "modules"])
    parser.add_argument("--note", default="", help="a line for the result, such as what else the machine was doing")
    given = parser.parse_args()
    found: list[Claim] = []
    if "preflight" in given.only:
        found.append(median_claim("nexus aws preflight", preflights(given.runs), unit="s", target="< 5"))
    if "modules" in given.only:
        found += modules()
    command = f"benchmarks/aws_speed.py --runs {given.runs}"
    store("aws_speed", "Preflight and Terraform's tests", found, details={}, note=given.note, command=command)
    return 1 if any(claim.holds is False for claim in found) else 0


def preflights(runs: int) -> list[float]:
    """Seconds of each run of the command but the first."""
    command = [sys.executable, "-m", "nexus_llm.cli", "aws", "preflight", str(RECIPE), "--region", REGION, "--json"]
    seconds = []
    with running_emulator() as emulator:
        environment = without_aws(os.environ) | emulator.environment
        for _ in range(runs + 1):
            began = time.monotonic()
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            seconds.append(time.monotonic() - began)
            if done.returncode not in (0, 6):
                raise SystemExit(done.stderr)
            tell(f"preflight: {seconds[-1]:.2f} s, exit code {done.returncode}")
    return seconds[1:]


def modules() -> list[Claim]:
    """All suites at once; a failed run ends the measurement."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as together:
        copy = copy_of_infra(Path(folder))
        began = time.monotonic()
        list(together.map(lambda one: run(copy / one, "validate", "-no-color"), TESTED))
        between = time.monotonic()
        ends = list(together.map(lambda one: run(copy / one, "test", "-no-color"), TESTED))
        seconds = time.monotonic() - between
    for folder_, done in zip(TESTED, ends, strict=True):
        if done.returncode != 0:
            raise SystemExit(f"{folder_}: {done.stdout[-2000:]}{done.stderr}")
    passed = sum(int(PASSED.findall(done.stdout)[-1]) for done in ends)
    return [
        Claim("terraform init and validate of all folders", between - began, "s"),
        Claim("terraform test of all folders", seconds, "s", "< 60"),
        Claim("folders with tests", len(TESTED)),
        Claim("runs that passed", passed),
    ]


if __name__ == "__main__":
    sys.exit(main())
