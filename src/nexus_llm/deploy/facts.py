"""What an AWS account says about itself, as far as a preflight asks: facts, and why one could not be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from nexus_llm.deploy.quotas import Quota

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class NotKnown:
    """Why AWS gave no answer, and what would make it answer."""

    why: str
    fix: str


NOT_ASKED = NotKnown("not asked", "repair the failed checks above, then run this again")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    account: str
    arn: str


@dataclass(frozen=True, slots=True)
class QuotaFact:
    """A quota as this account has it in this region."""

    code: str
    name: str
    value: float
    used: float | NotKnown | None
    """Of it, by CloudWatch's AWS/Usage metrics or by counting; None where AWS publishes no use."""
    is_adjustable: bool = True


@dataclass(frozen=True, slots=True)
class MachineFact:
    """An EC2 type."""

    vcpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class SubnetFact:
    """A subnet that exists."""

    id: str
    zone: str
    free_addresses: int


@dataclass(frozen=True)
class Facts:
    """Everything that was asked. What was not, or got no answer, is `NotKnown`."""

    region: str | None
    known_regions: tuple[str, ...]
    """Of the partition, as botocore ships them: no call."""
    caller: Caller | NotKnown
    is_signed_in: bool = True
    """False: `caller` says why nobody is, and nothing else was asked."""
    region_status: Mapping[str, str] | NotKnown = NOT_ASKED
    """Region → EC2's OptInStatus."""
    zones: tuple[str, ...] | NotKnown = NOT_ASKED
    """That are open to this account, sorted."""
    quotas: Mapping[Quota, QuotaFact | NotKnown | None] = field(default_factory=dict)
    """None: Service Quotas knows no such quota in this region."""
    machines: Mapping[str, MachineFact] | NotKnown = NOT_ASKED
    offered: Mapping[str, tuple[str, ...]] | NotKnown = NOT_ASKED
    """EC2 type → zones, sorted."""
    subnets: tuple[SubnetFact, ...] | NotKnown = NOT_ASKED
    image_id: str | NotKnown | None = NOT_ASKED
    """Of the ECS GPU machine image; None: the parameter does not exist there."""
    images: Mapping[str, bool | NotKnown] = field(default_factory=dict)
    """Container image → whether the registry has it."""
    buckets: Mapping[str, bool | NotKnown] = field(default_factory=dict)
    """Bucket → whether it exists and may be looked into."""
