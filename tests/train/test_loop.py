from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bigram_learner import BigramLearner
from bigram_training import batch_of_step, rows, run, start, surroundings, train_recipe
from nexus_llm.errors import StorageError, TrainingError, TryAgainError
from nexus_llm.train import checkpoint
from nexus_llm.train.loop import Training
from nexus_llm.train.packing import PackedRows, pack


def log_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_batch_whose_loss_is_no_number_is_skipped_with_a_record_and_nothing_of_it_is_applied(tmp_path):
    broken = BigramLearner(factors={batch_of_step(12): math.nan})
    training = run(tmp_path, broken, train_recipe())
    (skipped,) = training.history.skipped
    assert (skipped.step, skipped.reason) == (12, "the loss became nan")
    row = log_of(tmp_path)[11]
    assert (row["step"], row["loss"], row["grad_norm"], row["skipped"]) == (12, None, None, "the loss became nan")
    assert (training.step, training.updates) == (40, 39)
    assert training.totals.last_loss < training.totals.first_loss - 0.5


@pytest.mark.parametrize("factor", [40.0, math.inf])
def test_a_spike_is_skipped_and_a_resumed_run_decides_the_same(tmp_path, factor):
    bad = {batch_of_step(step): factor for step in (14, 15, 27)}
    whole = BigramLearner(factors=bad)
    undisturbed = run(tmp_path / "whole", whole, train_recipe())
    assert [one.step for one in undisturbed.history.skipped] == [14, 15, 27]
    for _ in range(13):
        with pytest.raises(TryAgainError):
            run(tmp_path / "stopped", BigramLearner(factors=bad), train_recipe(), stop_at=3)
    last = BigramLearner(factors=bad)
    resumed = run(tmp_path / "stopped", last, train_recipe())
    assert last.digest() == whole.digest()
    assert (resumed.history, resumed.totals) == (undisturbed.history, undisturbed.totals)
    assert resumed.validation_losses == undisturbed.validation_losses


def test_one_skipped_batch_more_than_allowed_ends_the_run(tmp_path):
    bad = {batch_of_step(step): math.nan for step in (10, 20, 22)}
    with pytest.raises(
        TrainingError, match=r"nan at step 10 .*nan at step 20 .*nan at step 22 .*max_skipped_steps is 2"
    ):
        run(tmp_path, BigramLearner(factors=bad), train_recipe(guard={"max_skipped_steps": 2}))


def test_damaged_weights_are_replaced_by_those_of_a_checkpoint_from_before(tmp_path):
    training = run(tmp_path, BigramLearner(damaged_updates=[17]), train_recipe())
    (back,) = training.history.rollbacks
    assert (back.step, back.to_step) == (19, 15)  # update 17 is that of step 18; step 19 notices
    assert log_of(tmp_path)[18]["rolled_back_to_step"] == 15
    assert (training.step, training.updates) == (40, 15 + 40 - 19)
    assert training.totals.last_loss < training.totals.first_loss - 0.5


def test_weights_that_were_damaged_before_they_were_saved_are_not_gone_back_to(tmp_path):
    training = run(tmp_path, BigramLearner(damaged_updates=[14]), train_recipe())  # step 15 is saved
    assert [(back.step, back.to_step) for back in training.history.rollbacks] == [(16, 10)]


def test_it_goes_back_once_only(tmp_path):
    with pytest.raises(TrainingError, match="went back to step 15 at step 19; it went back once already"):
        run(tmp_path, BigramLearner(damaged_updates=[17, 25]), train_recipe())


def test_damage_before_the_first_checkpoint_ends_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"nan at step 4 .*no checkpoint from before it"):
        run(tmp_path, BigramLearner(damaged_updates=[2]), train_recipe())


def test_interruptions_do_not_change_where_it_goes_back_to(tmp_path):
    bad = {batch_of_step(step): 60.0 for step in (23, 24, 25)}
    whole = BigramLearner(factors=bad)
    undisturbed = run(tmp_path / "whole", whole, train_recipe())
    assert [(back.step, back.to_step) for back in undisturbed.history.rollbacks] == [(25, 20)]
    for stops in ((21,), (22, 2), (23, 1), (24, 3), (25, 9)):
        folder = tmp_path / str(stops[0])
        for stop_at in stops:
            with pytest.raises(TryAgainError):
                run(folder, BigramLearner(factors=bad), train_recipe(), stop_at=stop_at)
        last = BigramLearner(factors=bad)
        assert run(folder, last, train_recipe()).history == undisturbed.history
        assert last.digest() == whole.digest()


def odd_text(share: float) -> PackedRows:
    """Validation text of which a share counts in steps of 5, which the training text never does."""
    one = rows("validation").shards[0]
    tokens = one.tokens.copy()
    odd = int(share * len(tokens))
    tokens[:odd] = np.arange(odd) * 5 % 97
    return pack([dataclasses.replace(one, tokens=tokens)], max_length=32, objective="continued-pretraining")


def test_training_stops_when_validation_gets_no_better(tmp_path):
    recipe = train_recipe(max_steps=400, eval_steps=5, early_stopping_patience=3, load_best_model_at_end=True)
    learner = BigramLearner(speed=20)
    training = run(tmp_path, learner, recipe, validation=odd_text(0.5))
    best = training.best_step
    assert best > 0
    assert training.stopped_early
    assert training.step == best + 15 < 400
    assert len(log_of(tmp_path)) == training.step
    again = BigramLearner(speed=20)
    resumed = run(tmp_path, again, recipe, validation=odd_text(0.5))  # the last checkpoint is of a finished run
    assert (resumed.step, again.digest()) == (training.step, learner.digest())
    found = checkpoint.find(tmp_path / "checkpoints", best)
    assert found is not None
    assert found.tensors()["weights"].equal(learner.weights)


@pytest.mark.parametrize("damaged", [False, True])
def test_the_best_checkpoint_is_kept_and_comes_back_after_stops_and_damage(tmp_path, damaged):
    recipe = train_recipe(max_steps=120, eval_steps=4, load_best_model_at_end=True)
    validation = odd_text(0.5)
    whole = BigramLearner(speed=20)
    undisturbed = run(tmp_path / "whole", whole, recipe, validation=validation)
    best = undisturbed.best_step
    assert 0 < best < 60
    folder = tmp_path / "stopped"
    for stop_at in (3, best, 31):
        with pytest.raises(TryAgainError):
            run(folder, BigramLearner(speed=20), recipe, stop_at=stop_at, validation=validation)
    assert best in checkpoint.saved_steps(folder / "checkpoints")
    if damaged:
        file = folder / "checkpoints" / f"step-{best:08d}" / "tensors.safetensors"
        file.write_bytes(file.read_bytes()[:-7])
    last = BigramLearner(speed=20)
    resumed = run(folder, last, recipe, validation=validation)
    assert resumed.validation_losses == undisturbed.validation_losses
    assert last.digest() == whole.digest()
    reasons = [broken.reason for broken in checkpoint.broken_checkpoints(folder / "checkpoints")]
    assert any("has no whole checkpoint any more" in reason for reason in reasons) == damaged


def test_a_base_model_that_training_only_made_worse_is_the_best(tmp_path):
    learner = BigramLearner()
    before = learner.weights.clone()
    recipe = train_recipe(learning_rate=1.0, load_best_model_at_end=True, max_steps=10, eval_steps=5)
    training = run(tmp_path, learner, recipe, validation=odd_text(1.0))
    assert training.best_step == 0
    assert learner.weights.equal(before)


def test_a_checkpoint_of_another_run_is_refused_with_the_fields_that_differ(tmp_path):
    ids = {"data": "d1", "model": "m1"}
    with pytest.raises(TryAgainError):
        run(tmp_path, BigramLearner(), train_recipe(), stop_at=7, inputs=ids)
    other = train_recipe(learning_rate=0.25, guard={"window_steps": 5})
    with pytest.raises(TrainingError, match="another run") as refused:
        start(tmp_path, BigramLearner(), other, inputs=ids | {"data": "d2"})
    for told in ("data was 'd1' and is 'd2'", "train.learning_rate was 0.5 and is 0.25", "train.guard.window_steps"):
        assert told in refused.value.what
    assert "step-00000007" in refused.value.what
    assert "model" not in refused.value.what
    without_effect = train_recipe(
        save_steps=2, save_total_limit=4, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    run(tmp_path, BigramLearner(), without_effect, inputs=ids)


def test_other_rows_a_step_are_refused_with_what_would_make_them_equal(tmp_path):
    with pytest.raises(TryAgainError):
        run(tmp_path, BigramLearner(), train_recipe(), stop_at=7)
    with pytest.raises(TrainingError, match=r"4 rows a step .1 processes., this one has 2 .1.") as refused:
        start(tmp_path, BigramLearner(), train_recipe(per_device_train_batch_size=2))
    assert "per_device_train_batch_size x gradient_accumulation_steps 4 with 1" in refused.value.fix


def test_a_second_process_on_a_folder_is_refused_with_the_first_ones_number_until_that_is_killed(tmp_path):
    code = (
        "import pathlib, sys; from nexus_llm.train.disk import FolderLock;"
        "lock = FolderLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "checkpoints")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=f"process {holder.pid} is training in .*checkpoints"):
            start(tmp_path, BigramLearner(), train_recipe())
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        run(tmp_path, BigramLearner(), train_recipe(max_steps=2))


def test_a_folder_is_free_again_after_a_run_and_after_a_refusal(tmp_path):
    for _ in range(2):
        with pytest.raises(TryAgainError):
            run(tmp_path, BigramLearner(), train_recipe(), stop_at=2)
    with pytest.raises(TrainingError, match="another run"):
        start(tmp_path, BigramLearner(), train_recipe(weight_decay=1.0))
    run(tmp_path, BigramLearner(), train_recipe(max_steps=40))


def test_a_full_disk_ends_the_run_in_two_lines_and_the_next_one_continues(tmp_path):
    whole = BigramLearner(ballast=50_000)
    run(tmp_path / "whole", whole, train_recipe())
    folder = tmp_path / "full"
    with pytest.raises(TryAgainError):
        run(folder, BigramLearner(ballast=50_000), train_recipe(), stop_at=12)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # stands in for a full disk
    try:
        with pytest.raises(StorageError, match=r"no space left .*tensors\.safetensors") as refused:
            run(folder, BigramLearner(ballast=50_000), train_recipe())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "same command continues" in refused.value.fix
    assert not list((folder / "checkpoints").glob(".partial*"))
    last = BigramLearner(ballast=50_000)
    run(folder, last, train_recipe())
    assert last.digest() == whole.digest()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused_in_two_lines(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        start(tmp_path / "run", BigramLearner(), train_recipe())


def test_a_clock_that_jumps_back_disturbs_nothing(tmp_path):
    whole, other = BigramLearner(), BigramLearner()
    run(tmp_path / "whole", whole, train_recipe())
    times = itertools.cycle([1e9, 5.0, -3.0])
    training: Training = start(tmp_path / "jumps", other, train_recipe())
    training.run(surroundings(seconds=lambda: next(times)))
    assert other.digest() == whole.digest()


def test_metrics_that_were_left_on_another_machine_are_no_obstacle(tmp_path):
    whole = run(tmp_path / "whole", BigramLearner(), train_recipe())
    with pytest.raises(TryAgainError):
        run(tmp_path, BigramLearner(), train_recipe(), stop_at=12)
    (tmp_path / "metrics.jsonl").unlink()
    resumed = run(tmp_path, BigramLearner(), train_recipe())
    assert resumed.totals == whole.totals
    assert [row["step"] for row in log_of(tmp_path)] == list(range(13, 41))


def test_a_disk_that_is_read_only_or_forbidden_is_explained(tmp_path):
    from nexus_llm.train.disk import explained

    for number, words in ((30, "Read-only file system"), (13, "Permission denied"), (28, "No space left")):
        with pytest.raises(StorageError, match=words), explained(tmp_path):
            raise OSError(number, os.strerror(number), str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError), explained(tmp_path):
        raise FileNotFoundError(2, "No such file")
