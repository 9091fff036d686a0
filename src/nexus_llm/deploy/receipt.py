"""What was taken down, what is left, and what that costs by the hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_llm.errors import LeftoversError


@dataclass(frozen=True, slots=True, order=True)
class Leftover:
    """Something of ours that is still in the account."""

    kind: str
    """`NAT gateway`, `EBS volume`, …"""
    id: str
    """ARN, or the id that its service knows it by."""
    usd_per_hour: float | None
    """None: it may cost, and what is not known here."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The end of a platform."""

    name: str
    account: str
    region: str
    destroyed: Mapping[str, int]
    """Stage → number of resources that were taken down now."""
    emptied: Mapping[str, int]
    """What was emptied for it → number of objects, images, recovery points or snapshots."""
    left: Sequence[Leftover]
    pending: Sequence[Leftover]
    """Keys that wait to be deleted: they cost nothing meanwhile (AWS KMS pricing, read 2026-11)."""
    not_asked: Sequence[str] = ()
    """Services that refused to answer: what they hold is not known."""

    @property
    def usd_per_hour(self) -> float:
        """What is left costs at least that."""
        return sum(one.usd_per_hour or 0.0 for one in self.left)

    def as_document(self) -> dict[str, Any]:
        """The receipt as JSON."""
        return {
            "name": self.name,
            "account": self.account,
            "region": self.region,
            "destroyed": dict(sorted(self.destroyed.items())),
            "emptied": dict(sorted(self.emptied.items())),
            "left": [_row(one) for one in sorted(self.left)],
            "pending_deletion": [_row(one) for one in sorted(self.pending)],
            "not_asked": sorted(self.not_asked),
            "usd_per_hour": round(self.usd_per_hour, 4),
        }

    def lines(self) -> list[str]:
        """The receipt for a person."""
        counts = [f"{stage}: {count} resources destroyed" for stage, count in sorted(self.destroyed.items())]
        counts += [f"{what}: {count} deleted" for what, count in sorted(self.emptied.items())]
        keys = [
            f"waits for its deletion, costs nothing: {one.kind} {one.id} {one.note}" for one in sorted(self.pending)
        ]
        asked = [f"NOT asked: {one}" for one in sorted(self.not_asked)]
        rows = [f"LEFT {_price(one)}  {one.kind} {one.id} {one.note}".rstrip() for one in sorted(self.left)]
        end = (
            f"left: {len(self.left)}, at least {self.usd_per_hour:.4f} USD an hour" if self.left else "nothing is left"
        )
        return [*counts, *keys, *asked, *rows, end]

    def refuse_leftovers(self) -> None:
        """Nothing, where nothing is left.

        Raises:
            LeftoversError: something is, or nobody could ask whether it is.
        """
        if not self.left and not self.not_asked:
            return
        dearest = max(self.left, key=lambda one: one.usd_per_hour or 0.0, default=None)
        named = f", {dearest.kind} {dearest.id} first" if dearest else ""
        unknown = f"; {len(self.not_asked)} services did not answer" if self.not_asked else ""
        raise LeftoversError(
            f"{len(self.left)} things of {self.name} are left in {self.account}, at least "
            f"{self.usd_per_hour:.4f} USD an hour{named}{unknown}",
            fix="run nexus aws down again; what it does not know, delete by the ids of the receipt",
        )


def _row(one: Leftover) -> dict[str, Any]:
    price = None if one.usd_per_hour is None else round(one.usd_per_hour, 4)
    return {"kind": one.kind, "id": one.id, "usd_per_hour": price, "note": one.note}


def _price(one: Leftover) -> str:
    return "  ? USD/hour" if one.usd_per_hour is None else f"{one.usd_per_hour:.4f} USD/hour"
