"""The processes that torchrun started, as `train.ranks.Ranks` over torch.distributed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from nexus_llm.errors import TrainingError, UsageError

# A rank that saves or validates makes the others wait; torch's own limits are 10 (NCCL) and 30 (Gloo) minutes.
PATIENCE_SECONDS = 1800


@dataclass(frozen=True)
class Place:
    """Which of the processes this is, as torchrun's environment says."""

    rank: int
    size: int
    local_rank: int
    """Among the processes of this machine: the number of its GPU."""


def place(environment: Mapping[str, str]) -> Place | None:
    """This process's place among all; None when no launcher started it.

    Source: "Environment Variables" in docs.pytorch.org/docs/stable/elastic/run.html, read 2026-11.

    Raises:
        UsageError: only some of the variables are there, or one is no number.

    >>> place({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    Place(rank=3, size=4, local_rank=1)
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: environment[name] for name in (*names, "MASTER_ADDR", "MASTER_PORT") if name in environment}
    if "RANK" not in given:
        return None
    absent = sorted({*names, "MASTER_ADDR", "MASTER_PORT"} - set(given))
    if absent or not all(given[name].isdigit() for name in names):
        wrong = absent[0] + " is missing" if absent else "RANK, WORLD_SIZE or LOCAL_RANK is no number"
        raise UsageError(
            f"the environment says RANK={given['RANK']!r}, but {wrong}",
            fix="start the processes with torchrun, or unset RANK to train in one process",
        )
    return Place(int(given["RANK"]), int(given["WORLD_SIZE"]), int(given["LOCAL_RANK"]))


class TorchRanks:
    """`Ranks` over an open process group.

    What they say to one another goes over Gloo, also beside GPUs: it is a few bytes a step, and NCCL would make each
    wait for all that its GPU has been asked to do.
    """

    def __init__(self, here: Place) -> None:
        self.rank, self.size, self.local_rank = here.rank, here.size, here.local_rank

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def total(self, value: float) -> float:
        return math.fsum(self.everybodys(value))  # exact, so the order of the ranks cannot matter

    def any(self, flag: bool) -> bool:
        return any(self.everybodys(float(flag)))

    def barrier(self) -> None:
        """Waits until all are here."""
        self.everybodys(0.0)

    def everybodys(self, value: float) -> list[float]:
        """The values of all processes, by rank.

        Raises:
            TrainingError: another process is gone.
        """
        answers = torch.zeros(self.size, dtype=torch.float64)
        with explained(self.rank):
            dist.all_gather_single(answers, torch.tensor([value], dtype=torch.float64))
        found: list[float] = answers.tolist()
        return found


@contextmanager
def joined(here: Place, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[TorchRanks]:
    """The ranks of this run while their process group is open: NCCL among GPUs, Gloo among CPUs.

    Reads MASTER_ADDR and MASTER_PORT from the environment, as torch does.

    Raises:
        UsageError: a machine has fewer GPUs than processes.
        TrainingError: the others cannot be reached.
    """
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        if here.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"process {here.rank} wants GPU {here.local_rank}, and this machine has {torch.cuda.device_count()}",
                fix=f"set train.distributed.num_processes to {torch.cuda.device_count()}",
            )
        torch.cuda.set_device(here.local_rank)
    with explained(here.rank):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=timedelta(seconds=patience_seconds)
        )
    try:
        yield TorchRanks(here)
    finally:
        dist.destroy_process_group()


@contextmanager
def explained(rank: int) -> Iterator[None]:
    """Makes torch.distributed's own errors ours."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise TrainingError(
            f"process {rank} lost contact with the others ({(str(error).strip() or 'no reason').splitlines()[0]})",
            fix="look for the process that failed first; the same command continues from the last checkpoint",
        ) from error


def summed_over_ranks(tensors: list[Tensor]) -> None:
    """Replaces each tensor by its sum over all processes, in buckets of up to 64 MiB."""
    for bucket in _buckets(tensors, limit_bytes=64 * 2**20):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: list[Tensor], *, limit_bytes: int) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > limit_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
