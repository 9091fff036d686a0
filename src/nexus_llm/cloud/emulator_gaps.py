"""What the emulator forgets: attributes that a second plan would change although nothing changed.

Each is known, has a reason and is printed. One that no longer appears has to go from the list, and the proof says so:
a list that only grows would hide what really drifts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """One attribute of one kind of resource."""

    stage: str
    kind: str
    attribute: str
    reason: str


_LAUNCH_TEMPLATE = "moto lists the template's own tags among those of what it starts"
_REFERENCED = "moto forgets the description of a rule whose other side is a security group"
GAPS = (
    Gap("1-platform", "aws_backup_plan", "tags_all", "moto keeps tags of backup plans, and gives none back"),
    Gap("1-platform", "aws_backup_vault", "tags_all", "moto keeps tags of vaults, and gives none back"),
    Gap("1-platform", "aws_batch_compute_environment", "update_policy", "moto forgets it"),
    Gap("1-platform", "aws_batch_job_queue", "job_state_time_limit_action", "moto forgets it"),
    Gap("1-platform", "aws_emrserverless_application", "architecture", "moto leaves the default out"),
    Gap("1-platform", "aws_glue_connection", "connection_type", "moto forgets it"),
    Gap("1-platform", "aws_launch_template", "default_version", _LAUNCH_TEMPLATE),
    Gap("1-platform", "aws_launch_template", "latest_version", _LAUNCH_TEMPLATE),
    Gap("1-platform", "aws_launch_template", "tag_specifications", _LAUNCH_TEMPLATE),
    Gap("1-platform", "aws_vpc_security_group_egress_rule", "description", _REFERENCED),
    Gap("1-platform", "aws_vpc_security_group_ingress_rule", "description", _REFERENCED),
    Gap("2-serving", "aws_rds_cluster", "scaling_configuration", "moto gives that of the oldest kind of cluster, too"),
    Gap("2-serving", "aws_rds_cluster_instance", "performance_insights_enabled", "moto forgets it"),
    Gap("2-serving", "aws_rds_cluster_instance", "performance_insights_kms_key_id", "moto forgets it"),
    Gap("2-serving", "aws_vpc_security_group_egress_rule", "description", _REFERENCED),
    Gap("2-serving", "aws_vpc_security_group_ingress_rule", "description", _REFERENCED),
)


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
