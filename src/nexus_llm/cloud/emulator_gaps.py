"""What the emulator forgets: attributes that a second plan would change although nothing changed.

Each is known, has a reason and is printed. One that no longer appears has to go from the list, and the proof says so:
a list that only grows would hide what really drifts.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    Gap("2-serving", "aws_appautoscaling_target", "tags_all", "moto forgets it"),
    Gap("2-serving", "aws_rds_cluster", "scaling_configuration", "moto gives that of the oldest kind of cluster, too"),
    Gap("2-serving", "aws_rds_cluster_instance", "performance_insights_enabled", "moto forgets it"),
    Gap("2-serving", "aws_rds_cluster_instance", "performance_insights_kms_key_id", "moto forgets it"),
    Gap("2-serving", "aws_vpc_security_group_egress_rule", "description", _REFERENCED),
    Gap("2-serving", "aws_vpc_security_group_ingress_rule", "description", _REFERENCED),
    Gap("3-delivery", "aws_codebuild_project", "concurrent_build_limit", "moto forgets it"),
    Gap("3-delivery", "aws_codebuild_project", "encryption_key", "moto always tells S3's own key"),
)
