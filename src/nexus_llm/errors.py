"""Every error a user can meet: what is wrong, and the fix.

    NexusError ................. 1   something failed
    ├── UsageError ............. 2   the command line is wrong
    │   └── RecipeError ........ 2   the recipe is wrong (message starts with file:line)
    ├── MissingExtraError ...... 1   an optional dependency is not installed
    ├── DataError .............. 1   the text cannot be used
    ├── ModelError ............. 1   a model cannot be found or read
    ├── ArtifactError .......... 1   an artifact is missing, half-made or altered
    ├── StorageError ........... 1   a disk or bucket refused (full, forbidden, gone)
    ├── TrainingError .......... 1   training cannot go on
    ├── PackagingError ......... 1   a packaged model would not equal the trained one
    ├── ServingError ........... 1   the server or its engine cannot start
    ├── CostError .............. 1   a price is missing or stale, or no machine meets the objective
    ├── BudgetError ............ 5   it would cost more than was allowed, or more than was locked
    ├── DeploymentError ........ 1   AWS or terraform refused
    ├── PreflightError ......... 6   something that was asked for would fail later
    ├── LeftoversError ......... 7   something was not taken down, and may cost
    ├── GateFailedError ........ 3   measured, and worse than the gate allows
    ├── GateInconclusiveError .. 4   measured, and the data cannot tell
    └── TryAgainError .......... 75  stopped half-way; the same command continues

The number is the exit code. Raise at the first place that knows; only the command line prints and exits.
"""

from __future__ import annotations


class NexusError(Exception):
    """An error with a remedy. `what` names the value and the place; `fix` is something the user can do."""

    exit_code = 1

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, which worker processes rely on.
        return _rebuild, (type(self), self.what, self.fix)


class UsageError(NexusError):
    """The command line asks for something that does not exist or does not fit."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe has a wrong key, type or value; `what` starts with `file:line`."""


class MissingExtraError(NexusError):
    """A command needs an optional dependency that is not installed."""

    @classmethod
    def for_extra(cls, extra: str, module: str) -> MissingExtraError:
        """The error for `module`, which the optional dependencies `[extra]` install."""
        return cls(
            f"this needs the Python module {module!r}, which is not installed",
            fix=f"pip install 'nexus-llm-platform[{extra}]'",
        )


class DataError(NexusError):
    """The text is missing, empty or not usable."""


class ModelError(NexusError):
    """A model, tokenizer or chat template is missing, unknown or unreadable."""


class ArtifactError(NexusError):
    """An artifact is missing, half-made, altered or in use."""


class StorageError(NexusError):
    """A disk or bucket refused: full, forbidden, or gone."""


class TrainingError(NexusError):
    """Training cannot start or go on."""


class PackagingError(NexusError):
    """The packaged model would differ from the trained one."""


class EvaluationError(NexusError):
    """A model cannot be judged: nobody answers, or what is asked is not well formed."""


class ServingError(NexusError):
    """The server or its engine cannot start or go on."""


class CostError(NexusError):
    """A cost cannot be told: a price, a size or a machine is missing, or units do not fit."""


class BudgetError(NexusError):
    """Something costs more than its budget or its lock allows."""

    exit_code = 5


class DeploymentError(NexusError):
    """What was to be made or taken down in an AWS account was refused."""


class PreflightError(NexusError):
    """A check before the start says that something would fail later; nothing was made."""

    exit_code = 6


class LeftoversError(NexusError):
    """Something that was made is still there after all was taken down."""

    exit_code = 7


class GateFailedError(NexusError):
    """A quality gate was measured and failed."""

    exit_code = 3


class GateInconclusiveError(NexusError):
    """A quality gate was measured and the data cannot tell."""

    exit_code = 4


class TryAgainError(NexusError):
    """Stopped before the end with nothing lost: the same command continues."""

    exit_code = 75


def _rebuild(kind: type[NexusError], what: str, fix: str) -> NexusError:
    return kind(what, fix=fix)
