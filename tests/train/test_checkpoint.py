from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import pytest
import torch

from nexus_llm.train import checkpoint
from nexus_llm.train.checkpoint import STATE, TENSORS, Found, broken_checkpoints


def tensors_at(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((5,), float(step)), "b": torch.arange(step)}


def save(folder: Path, step: int, *, keep: int) -> Path:
    checkpoint.write_part(folder, step, tensors_at(step))
    path = checkpoint.publish(folder, step, state={"note": step / 3}, run={})
    checkpoint.prune(folder, keep=keep)
    return path


def load_newest(folder: Path) -> Found | None:
    checkpoint.remove_partial(folder)
    return checkpoint.find_newest(folder)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    return tmp_path


def test_what_was_saved_comes_back_exactly(three):
    found = load_newest(three)
    assert found is not None
    assert (found.step, found.state) == (30, {"note": 10.0})
    assert all(torch.equal(found.tensors()[name], tensor) for name, tensor in tensors_at(30).items())


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert load_newest(tmp_path) is None


def test_only_the_newest_are_kept(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000030", "step-00000040"]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [TENSORS, STATE])
@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_set_aside_with_a_reason_and_the_one_before_is_used(three, name, damage):
    damage(three / "step-00000030" / name)
    found = load_newest(three)
    assert found is not None
    assert found.step == 20
    (broken,) = broken_checkpoints(three)
    assert broken.name == "step-00000030"
    assert name in broken.reason
    assert not (three / "step-00000030").exists()


def test_every_single_flipped_byte_is_noticed(tmp_path):
    folder = save(tmp_path, 2, keep=2)
    for name in (TENSORS, STATE):
        whole = (folder / name).read_bytes()
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 4
            (folder / name).write_bytes(damaged)
            with pytest.raises(checkpoint._BrokenError):
                checkpoint._verified(folder)
        (folder / name).write_bytes(whole)


def test_a_state_that_is_json_but_no_state_is_noticed(three):
    (three / "step-00000030" / STATE).write_text(json.dumps([1, 2]))
    found = load_newest(three)
    assert found is not None
    assert found.step == 20


def test_two_broken_ones_of_the_same_step_are_both_kept(three):
    for _ in range(2):
        cut_off(three / "step-00000030" / TENSORS)
        load_newest(three)
        save(three, 30, keep=3)
    assert [broken.name for broken in broken_checkpoints(three)] == ["step-00000030", "step-00000030-2"]


def test_a_half_written_one_is_ignored_and_cleaned_up(three):
    half = three / ".partial-step-00000040"
    half.mkdir()
    (half / TENSORS).write_bytes(b"half")
    found = load_newest(three)
    assert found is not None
    assert found.step == 30
    assert not half.exists()


def test_all_broken_means_starting_again(three):
    for path in three.glob("step-*"):
        cut_off(path / TENSORS)
    assert load_newest(three) is None
    assert len(broken_checkpoints(three)) == 3


def test_a_refusal_of_the_disk_is_an_oserror_with_its_number(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # stands in for a full disk
    try:
        with pytest.raises(OSError, match="too large") as refused:
            checkpoint.write_tensors({"a": torch.zeros(9999)}, tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.errno == errno.EFBIG
