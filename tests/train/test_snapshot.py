from __future__ import annotations

import threading

import pytest
import torch

from nexus_llm.train.snapshot import SnapshotWriter


@pytest.fixture
def writer():
    made = SnapshotWriter()
    yield made
    made.close()


def test_what_is_written_is_the_moment_of_the_start_while_training_goes_on(writer):
    tensor, may_write, seen = torch.ones(4), threading.Event(), []

    def write(copies):
        assert may_write.wait(30)
        seen.append(copies["a"].tolist())

    writer.start({"a": tensor}, write)
    assert not writer.is_done()
    tensor.add_(5)  # the next step
    may_write.set()
    writer.wait()
    assert seen == [[1.0] * 4]
    assert writer.is_done()


def test_a_second_one_waits_for_the_first_and_the_copies_are_used_again(writer):
    order, places = [], set()

    def write(copies):
        places.add(copies["a"].data_ptr())
        order.append(copies["a"].item())

    for number in range(5):
        writer.start({"a": torch.tensor(float(number))}, write)
    writer.wait()
    assert order == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(places) == 1


def test_an_error_of_the_thread_is_raised_once_where_it_is_asked_for(writer):
    def refuse(_copies):
        raise OSError(28, "No space left on device")

    writer.start({}, refuse)
    with pytest.raises(OSError, match="No space"):
        writer.wait()
    writer.wait()
    writer.raise_if_failed()
