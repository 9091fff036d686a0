from __future__ import annotations

import subprocess
import sys

from nexus_llm.train.progress_note import step_note

GROWTH = """
from nexus_llm.train.progress_note import memory_in_use
before = memory_in_use()
held = bytearray(b"x") * (64 * 2**20)
print(memory_in_use() - before)
"""


def test_memory_in_use_grows_with_what_is_held() -> None:
    # In a process of its own: what other tests let go of at this moment would count against it.
    grown = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True).stdout
    assert 60 * 2**20 < int(grown) < 80 * 2**20


def test_a_validation_is_told_and_a_missing_speed_is_not() -> None:
    note = step_note({"loss": 2.0, "tokens_per_second": None, "validation_loss": 2.25}, used_bytes=0)
    assert note == "loss 2.000, validation 2.250, 0 MiB"
