"""Stretches of tensors: what some processes saved, any number of processes can take over.

Every way to divide a weight among processes that we use (FSDP2 by rows, ZeRO by values) gives each process a stretch of
the weight laid flat. A process saves the stretch of the float32 weight and of both moments under the names that one
process alone would use (`master/NAME`, `first/NAME`, `second/NAME`), and beside them where the stretch lies:
`place/NAME`, an int64 tensor (first value, *shape of the whole weight). A name without a place is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nexus_llm.errors import TrainingError

_PLACE = "place/"

Part = Mapping[str, Tensor]
"""What one process saved."""


@dataclass(frozen=True)
class Slice:
    """`count` values of a tensor of `shape`, from value `start` of the tensor laid flat."""

    shape: tuple[int, ...]
    start: int
    count: int


def places(slices: Mapping[str, Slice]) -> dict[str, Tensor]:
    """The place tensors of weights, by the weights' names: to be saved beside the stretches."""
    return {f"{_PLACE}{name}": torch.tensor([one.start, *one.shape]) for name, one in slices.items()}


def stretches(parts: Sequence[Part], *, like: Part) -> dict[str, Tensor]:
    """From what the processes of any run saved, the stretches that `like` holds, in the shapes that it has.

    Raises:
        TrainingError: the parts lack values, or a tensor has another shape there.
    """
    return {
        name: _put_together(name, _slice_of(like, name), parts).view(tensor.shape)
        for name, tensor in like.items()
        if not name.startswith(_PLACE)
    }


def refuse_other_places(part: Part, *, like: Part) -> None:
    """Refuses a part whose stretches lie elsewhere than those that `like` holds.

    Raises:
        TrainingError: it was divided by another strategy or among other processes.
    """
    for name, place in like.items():
        if name.startswith(_PLACE) and name in part and not torch.equal(part[name], place):
            raise TrainingError(
                f"the checkpoint's {name.removeprefix(_PLACE)} was divided by another strategy (it begins at value "
                f"{int(part[name][0])} here, and at {int(place[0])} there)",
                fix="use the strategy and zero_stage of the run that saved it",
            )


def are_slices(parts: Sequence[Part]) -> bool:
    """Whether the parts say which places of the whole they hold."""
    return all(any(name.startswith(_PLACE) for name in part) for part in parts)


def whole(parts: Sequence[Part]) -> dict[str, Tensor]:
    """What one process alone would have saved.

    Raises:
        TrainingError: the parts lack values.
    """
    shapes = {name: _slice_of(part, name).shape for part in parts for name in part if not name.startswith(_PLACE)}
    return {
        name: _put_together(name, Slice(shape, 0, int(torch.Size(shape).numel())), parts).view(shape)
        for name, shape in sorted(shapes.items())
    }


def _slice_of(part: Part, name: str) -> Slice:
    place = part.get(f"{_PLACE}{name.partition('/')[2]}")
    if place is None:
        return Slice(tuple(part[name].shape), 0, part[name].numel())
    start, *shape = place.tolist()
    return Slice(tuple(shape), start, part[name].numel())


def _put_together(name: str, wanted: Slice, parts: Sequence[Part]) -> Tensor:
    found = [(_slice_of(part, name), part[name]) for part in parts if name in part]
    result, end = torch.empty(wanted.count), wanted.start + wanted.count
    done = wanted.start
    for here, values in sorted(found, key=lambda one: one[0].start):
        if here.shape != wanted.shape:
            raise TrainingError(
                f"the checkpoint holds {name} with shape {here.shape}, and the model's has {wanted.shape}",
                fix="it belongs to another model or recipe: train under another name",
            )
        last = min(here.start + here.count, end)
        if here.start <= done < last:
            result[done - wanted.start : last - wanted.start] = values.flatten()[done - here.start : last - here.start]
            done = last
    if done < end:
        raise TrainingError(
            f"the checkpoint lacks {name} from value {done} on (of {torch.Size(wanted.shape).numel()})",
            fix="let all machines see the same checkpoint folder; or it belongs to another recipe",
        )
    return result
