"""Several ranks: the same result as one, sharded checkpoints, and other numbers of processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bigram_learner import BigramLearner, ShardedBigramLearner
from bigram_training import rows, run, train_recipe
from nexus_llm.errors import StorageError, TrainingError, TryAgainError
from nexus_llm.train import checkpoint
from nexus_llm.train.loop import share_of_rank
from thread_ranks import ThreadRanks, run_ranks

TWO = train_recipe(per_device_train_batch_size=2, eval_documents=1)  # one row of validation for two ranks
ONE = train_recipe(per_device_train_batch_size=4, eval_documents=1)


def run_two(folder: Path, kind: type[BigramLearner], *, stop_at: int | None = None) -> list[BigramLearner]:
    def work(ranks: ThreadRanks) -> BigramLearner:
        learner = kind(ranks=ranks)
        # Only one of them is asked to stop: the other must hear of it.
        run(folder, learner, TWO, stop_at=stop_at if ranks.rank else None, ranks=ranks)
        return learner

    return run_ranks(2, work)


def test_every_row_goes_to_one_rank_and_all_get_equally_many():
    batch = rows("train").batch(1, 0, size=5)
    shares = [share_of_rank(batch, ThreadRanks(rank, [None] * 3, None)) for rank in range(3)]
    assert [len(share.token_ids) for share in shares] == [2, 2, 2]
    assert sum(share.learned_tokens for share in shares) == batch.learned_tokens
    assert sum(share.tokens for share in shares) == batch.tokens


@pytest.mark.parametrize("kind", [BigramLearner, ShardedBigramLearner])
def test_two_ranks_learn_what_one_learns_and_go_on_exactly(tmp_path, kind):
    alone = BigramLearner()
    training = run(tmp_path / "alone", alone, ONE)
    first, second = run_two(tmp_path / "two", kind)
    assert first.weights.equal(second.weights)
    assert first.weights.allclose(alone.weights, atol=1e-5)
    log = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, 41))
    assert log[-1]["validation_loss"] == pytest.approx(training.validation_losses[-1][1], rel=1e-4)
    for stop_at in (7, 11):
        with pytest.raises(TryAgainError):
            run_two(tmp_path / "stopped", kind, stop_at=stop_at)
    resumed, _ = run_two(tmp_path / "stopped", kind)
    assert resumed.weights.equal(first.weights)


def saved(folder: Path) -> Path:
    with pytest.raises(TryAgainError):
        run_two(folder, ShardedBigramLearner, stop_at=12)
    return folder / "checkpoints" / "step-00000012"


def test_a_sharded_checkpoint_has_a_file_of_each_rank_and_one_state(tmp_path):
    place = saved(tmp_path)
    names = ["state.json", "tensors-00000-of-00002.safetensors", "tensors-00001-of-00002.safetensors"]
    assert sorted(path.name for path in place.iterdir()) == names
    state = json.loads((place / "state.json").read_text())
    assert {name: entry["bytes"] for name, entry in state["files"].items()} == {
        name: (place / name).stat().st_size for name in names[1:]
    }


def cut_off(place: Path, name: str) -> None:
    (place / name).write_bytes((place / name).read_bytes()[:-1])


def older(place: Path, name: str) -> None:
    shutil.copy(place.with_name("step-00000010") / name, place / name)


@pytest.mark.parametrize("damage", [cut_off, older, lambda place, name: (place / name).unlink()])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_folder_that_arrived_in_part_is_set_aside_and_the_one_before_is_used(tmp_path, damage, number):
    whole, _ = run_two(tmp_path / "whole", ShardedBigramLearner)
    place = saved(tmp_path / "arrived")
    name = sorted(path.name for path in place.iterdir())[number]
    damage(place, name)
    resumed, _ = run_two(tmp_path / "arrived", ShardedBigramLearner)
    assert resumed.weights.equal(whole.weights)
    (broken,) = checkpoint.broken_checkpoints(tmp_path / "arrived" / "checkpoints")
    assert broken.name == "step-00000012"
    assert name.split("-")[0] in broken.reason


def test_another_number_of_processes_goes_on_where_the_rows_of_a_step_stay_the_same(tmp_path):
    whole, _ = run_two(tmp_path / "whole", ShardedBigramLearner)
    saved(tmp_path / "two")
    one = ShardedBigramLearner()
    training = run(tmp_path / "two", one, ONE)
    assert training.step == 40
    assert one.weights.allclose(whole.weights, atol=1e-5)


def test_another_number_of_processes_is_refused_with_an_explanation_where_it_cannot_be(tmp_path):
    saved(tmp_path)
    with pytest.raises(TrainingError, match=r"4 rows a step \(2 processes\), this one has 2 \(1\)"):
        run(tmp_path, ShardedBigramLearner(), TWO)
    with pytest.raises(TrainingError, match="in 2 parts, of as many processes, and this run has 1: this kind"):
        run(tmp_path, BigramLearner(), ONE)


def test_when_one_rank_cannot_go_on_all_of_them_stop(tmp_path):
    class Full(ShardedBigramLearner):
        def tensors(self):
            found = super().tensors()
            # Stands in for a disk that refuses one process: what cannot be copied cannot be written.
            return found if self.ranks.rank == 0 else found | {"x": Refusing()}

    class Refusing:
        is_cuda, shape, dtype = False, (1,), None

        def isfinite(self):
            raise StorageError("the disk of process 1 is full", fix="free some")

        detach = isfinite

    def work(ranks: ThreadRanks) -> str:
        try:
            run(tmp_path, Full(ranks=ranks), TWO, ranks=ranks)
        except (StorageError, TrainingError) as error:
            return error.what
        return "finished"

    assert run_ranks(2, work) == [
        "another process of this run could not go on",
        "the disk of process 1 is full",
    ]
