"""Second plans of the stages against the list of what the emulator forgets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_llm.cloud.emulator_gaps import GAPS, Gap


@dataclass(frozen=True, slots=True)
class Verdict:
    """A second plan against the list."""

    met: tuple[Gap, ...]
    unexplained: tuple[str, ...]
    """`stage: address: attribute or action` that no gap explains."""
    unused: tuple[Gap, ...]
    """Gaps that did not appear."""

    @property
    def holds(self) -> bool:
        """Whether the list is exactly what was met."""
        return not self.unexplained and not self.unused


def judge(plans: Mapping[str, Mapping[str, Any]], gaps: Collection[Gap] = GAPS) -> Verdict:
    """What second plans (stage → `terraform show -json`) say of the list; gaps of other stages are left out."""
    known = {(one.stage, one.kind, one.attribute): one for one in gaps if one.stage in plans}
    met, unexplained = set(), []
    for stage, plan in sorted(plans.items()):
        for change in plan.get("resource_changes", []):
            for attribute in _changed(change["change"]):
                gap = known.get((stage, str(change["type"]), attribute))
                if gap:
                    met.add(gap)
                else:
                    unexplained.append(f"{stage}: {change['address']}: {attribute}")
    return Verdict(tuple(sorted(met)), tuple(unexplained), tuple(sorted(set(known.values()) - met)))


def _changed(change: Mapping[str, Any]) -> Iterable[str]:
    """Names of the attributes that differ; for anything but an update, what is done instead."""
    actions = change["actions"]
    if actions in (["no-op"], ["read"]):
        return []
    if actions != ["update"]:
        return [f"({'/'.join(actions)})"]
    before, after = change.get("before") or {}, change.get("after") or {}
    unknown = change.get("after_unknown") or {}
    names = set(before) | set(after)
    return sorted(
        {name for name in names if before.get(name) != after.get(name)}
        | {name for name, is_new in unknown.items() if is_new is True}
    )
