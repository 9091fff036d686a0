from __future__ import annotations

from nexus_llm.train.progress_note import memory_in_use, step_note


def test_memory_in_use_grows_with_what_is_held() -> None:
    before = memory_in_use()
    held = bytearray(b"x") * (64 * 2**20)
    assert memory_in_use() - before > 48 * 2**20
    del held


def test_a_validation_is_told_and_a_missing_speed_is_not() -> None:
    note = step_note({"loss": 2.0, "tokens_per_second": None, "validation_loss": 2.25}, used_bytes=0)
    assert note == "loss 2.000, validation 2.250, 0 MiB"
