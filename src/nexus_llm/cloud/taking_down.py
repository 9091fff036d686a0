"""A platform taken down: emptied where that was allowed, the last stage first, and then looked for once more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nexus_llm.cloud.emptying import LAST_SNAPSHOT, Clients, Holder, emptied, holders, refuse_data
from nexus_llm.cloud.leftovers import DATABASE, last_snapshot, rescan
from nexus_llm.cloud.stack_life import StackLife
from nexus_llm.cloud.terraform import Planned
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.deploy.receipt import Leftover, Receipt
from nexus_llm.deploy.stack import STAGES, STATE, Stage, chosen
from nexus_llm.errors import DeploymentError, NexusError, UsageError

_ROUNDS = 3  # logs are delivered late: a bucket that was emptied may hold one more by the time it is deleted
Plans = Sequence[tuple[Stage, Planned]]


@dataclass
class TakingDown:
    """The end of one deployment."""

    life: StackLife
    clients: Clients
    may_delete_data: bool
    _emptied: dict[str, int] = field(default_factory=dict)
    _regions: set[str] = field(default_factory=set)

    def plan(self, asked: Sequence[str]) -> Plans:
        """What would be destroyed, the last stage first; nothing is. Data that may not be deleted is refused here.

        Raises:
            UsageError: a stage that builds on the asked ones would stay.
            DeploymentError: something holds data, and nobody said that it may go.
        """
        stages = chosen(asked or [one.name for one in STAGES], with_variables=())
        held = [one for one in self.life.kept() if self.life.addresses(one)]
        for one in held:
            if one not in stages and any(need in {gone.name for gone in stages} for need in one.needs):
                raise UsageError(
                    f"{one.name} is still there and builds on what is to go", fix=f"nexus aws down --stage {one.name}"
                )
        plans = [(one, self.life.plan(one, destroy=True)) for one in reversed(held) if one in stages]
        if not self.may_delete_data:
            refuse_data([holder for one, planned in plans if one.name != STATE for holder in self._holders(planned)],
                        self.clients)  # fmt: skip
        return plans

    def run(self, plans: Plans, *, pricing: Pricing) -> Receipt:
        """Destroys what was planned, and says what is left."""
        destroyed = {}
        for stage, planned in plans:
            self._regions |= _regions(planned.document)
            destroyed[stage.name] = len(planned.changes)
            self._destroy(stage, planned)
        deployment = self.life.deployment
        found = rescan(deployment.name, self._regions | {deployment.region}, self.clients, pricing)
        if self.may_delete_data and not any(one.kind == DATABASE for one in found.left):
            found.left = [one for one in found.left if not self._is_deleted(one, found.not_asked)]
        return Receipt(
            deployment.name,
            deployment.account,
            deployment.region,
            destroyed,
            self._emptied,
            found.left,
            found.pending,
            found.not_asked,
        )

    def _is_deleted(self, found: Leftover, refused: list[str]) -> bool:
        """Whether it was the snapshot that the database left when it went, and is gone now, too."""
        place = self.life.deployment
        if not found.id.endswith(f":cluster-snapshot:{last_snapshot(place.name)}"):
            return False
        try:
            self._empty([Holder(LAST_SNAPSHOT, last_snapshot(place.name), place.region)])
        except NexusError as error:
            refused.append(error.what)
            return False
        return True

    def _destroy(self, stage: Stage, planned: Planned) -> None:
        for attempt in range(1, _ROUNDS + 1):
            # States of stages that are gone describe nothing: their bucket is emptied unasked.
            if self.may_delete_data or stage.name == STATE:
                self._empty(self._holders(planned))
            try:
                self.life.apply(stage, planned)
                return
            except DeploymentError as error:
                if "still holds something" not in error.what or attempt == _ROUNDS or not self.may_delete_data:
                    raise
            planned = self.life.plan(stage, destroy=True)

    def _empty(self, found: Iterable[Holder]) -> None:
        for holder in found:
            key = f"{holder.kind} {holder.name}"
            self._emptied[key] = self._emptied.get(key, 0) + emptied(holder, self.clients)

    def _holders(self, planned: Planned) -> list[Holder]:
        return holders(planned.document, region=self.life.deployment.region)


def _regions(plan: Mapping[str, Any]) -> set[str]:
    """Regions of everything in a plan whose ARN names one: copies lie in a second region."""
    arns = (str((one["change"]["before"] or {}).get("arn", "")).split(":") for one in plan.get("resource_changes", []))
    return {parts[3] for parts in arns if len(parts) > 4 and parts[3]}
