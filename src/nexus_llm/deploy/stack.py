"""The stages of the platform: their order, what each hands on, and the variables that each is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Stage:
    """One folder of `infra/stages`, with a state of its own."""

    name: str
    hands_on: tuple[str, ...]
    """Its outputs that are written to `OUTPUT.json`."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """Variable → output of an earlier stage, as the path of its file."""
    asks: tuple[str, ...] = ()
    """Variables without a default that only the user knows."""
    is_told: bool = False
    """Whether it takes name, account and region as variables; later stages read them from `platform`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Stages that have to be made before."""
        if self.name == STATE:
            return ()
        makers = {output: stage.name for stage in STAGES for output in stage.hands_on}
        return (STATE, *(makers[output] for output in self.reads.values()))


STATE = "0-state"
STAGES = (
    Stage(STATE, ("state",), is_told=True),
    Stage("1-platform", ("platform", "jobs"), is_told=True),
    Stage(
        "2-serving",
        ("serving",),
        {"platform_file": "platform"},
        asks=("gateway_version", "certificate_arn", "model"),
    ),
    Stage(
        "3-delivery",
        ("delivery",),
        {"platform_file": "platform", "serving_file": "serving"},
        asks=("source_code",),
    ),
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One platform in one account: what stays the same through its life."""

    name: str
    """Prefix of every name, as in `nexus-small`."""
    environment: str
    """Folder below `infra/environments`."""
    account: str
    region: str
    zones: tuple[str, ...]

    @property
    def state_bucket(self) -> str:
        """Where the states lie: predictable, so that they are found again from another machine."""
        return f"{self.name}-state-{self.account}"


def chosen(asked: Sequence[str], *, with_variables: Collection[str]) -> tuple[Stage, ...]:
    """The stages to work on, in their order: those asked for, else the platform and each stage that has variables.

    >>> [one.name for one in chosen((), with_variables={"2-serving"})]
    ['0-state', '1-platform', '2-serving']

    Raises:
        UsageError: a stage does not exist.
    """
    names = [one.name for one in STAGES]
    if unknown := [one for one in asked if one not in names]:
        raise UsageError(f"there is no stage {unknown[0]!r}", fix=f"--stage is one of: {', '.join(names)}")
    if asked:
        return tuple(one for one in STAGES if one.name in asked)
    return tuple(one for one in STAGES if not one.asks or one.name in with_variables)


def ready(stage: Stage, made: Collection[str]) -> None:
    """Nothing, where all that `stage` builds on is there.

    Raises:
        UsageError: an earlier stage was not made.
    """
    if missing := [one for one in stage.needs if one not in made]:
        raise UsageError(
            f"{stage.name} builds on {missing[0]}, which is not made yet", fix=f"nexus aws up --stage {missing[0]}"
        )


def variables(stage: Stage, deployment: Deployment, outputs: Path) -> dict[str, Any]:
    """The variables that `stage` is given beside its environment's; `outputs` is the folder of `OUTPUT.json`."""
    told: dict[str, Any] = {}
    if stage.is_told:
        told = {"name": deployment.name, "account_id": deployment.account, "region": deployment.region}
    if stage.name == "1-platform":
        told["availability_zones"] = list(deployment.zones)
    return told | {variable: str(outputs / f"{output}.json") for variable, output in stage.reads.items()}


def backend(stage: Stage, state: Mapping[str, Any]) -> dict[str, str | bool]:
    """Settings of the bucket that keeps a stage's state; `state` is what stage 0 handed on. None for stage 0 itself."""
    if stage.name == STATE:
        return {}
    return {
        "bucket": str(state["bucket"]),
        "region": str(state["region"]),
        "key": f"{stage.name}.tfstate",
        "encrypt": True,
        "kms_key_id": str(state["kms_key_arn"]),
        "use_lockfile": True,
    }
