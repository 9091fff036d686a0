"""How long things are kept: long enough where somebody demands it, and never for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from infrastructure_plans import plans, resources

pytestmark = [pytest.mark.xdist_group("infrastructure_plans"), pytest.mark.timeout(1800)]

SIX_YEARS_DAYS = 2192  # with two leap days: 45 CFR 164.316(b)(2)(i)


def test_the_regulated_environment_keeps_its_records_for_six_years(planned: Callable[[str], dict[str, Any]]) -> None:
    platform, serving = (resources(planned(f"{stage}-regulated")) for stage in ("platform", "serving"))
    audit = {one.type: one.values for one in platform if one.address.startswith("module.audit")}
    (rule,) = audit["aws_s3_bucket_lifecycle_configuration"]["rule"]
    assert rule["expiration"][0]["days"] >= SIX_YEARS_DAYS
    (lock,) = audit["aws_s3_bucket_object_lock_configuration"]["rule"]
    assert lock["default_retention"][0]["days"] >= 365
    days = [one.values["retention_in_days"] for one in serving if one.type == "aws_cloudwatch_log_group"]
    assert len(days) == 4
    assert min(days) >= SIX_YEARS_DAYS


@pytest.mark.parametrize("name", sorted(plans()))
def test_every_log_group_forgets_after_stated_days(planned: Callable[[str], dict[str, Any]], name: str) -> None:
    groups = [one for one in resources(planned(name)) if one.type == "aws_cloudwatch_log_group"]
    assert groups or name == "state"
    assert [one.address for one in groups if not 0 < (one.values["retention_in_days"] or 0) <= 3653] == []
