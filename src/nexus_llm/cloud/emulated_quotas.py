"""Service Quotas without AWS: what a rehearsal and tests put in the place of boto3's client. moto knows none but VPC's.

It echoes the values that it was given: it proves that questions are asked and answers are read rightly, not what an
account has. A test holds requests, answers and errors against botocore's own service model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from nexus_llm.deploy.quotas import Quota

PAGE = 2
"""Quotas in one answer: small, so that every rehearsal turns pages."""


class EmulatedQuotas:
    """The calls of boto3's client `service-quotas` that a preflight makes."""

    def __init__(self, values: Mapping[Quota, float], *, defaults: Mapping[Quota, float] | None = None) -> None:
        """`values` were given to this account; `defaults` are AWS' own, for quotas that the account never changed."""
        self._values, self._defaults = values, defaults or {}

    def get_service_quota(self, *, ServiceCode: str, QuotaCode: str) -> dict[str, Any]:
        """See AWS' API reference."""
        return _one(self._values, ServiceCode, QuotaCode, "GetServiceQuota")

    def get_aws_default_service_quota(self, *, ServiceCode: str, QuotaCode: str) -> dict[str, Any]:
        """See AWS' API reference."""
        return _one(self._defaults, ServiceCode, QuotaCode, "GetAWSDefaultServiceQuota")

    def get_paginator(self, method: str) -> _Pages:
        """Of `list_service_quotas` or `list_aws_default_service_quotas`."""
        return _Pages({"list_service_quotas": self._values, "list_aws_default_service_quotas": self._defaults}[method])


class _Pages:
    def __init__(self, values: Mapping[Quota, float]) -> None:
        self._values = values

    def paginate(self, *, ServiceCode: str) -> Iterator[dict[str, Any]]:
        found = [_entry(quota, value) for quota, value in self._values.items() if quota.service == ServiceCode]
        for start in range(0, max(len(found), 1), PAGE):
            yield {"Quotas": found[start : start + PAGE]}


def _one(values: Mapping[Quota, float], service: str, code: str, operation: str) -> dict[str, Any]:
    for quota, value in values.items():
        if quota.service == service and _code(quota) == code:
            return {"Quota": _entry(quota, value)}
    error = {"Code": "NoSuchResourceException", "Message": f"no quota {code} of {service}"}
    raise ClientError({"Error": error}, operation)


def _code(quota: Quota) -> str:
    return quota.code or f"L-{hashlib.sha256(quota.name.encode()).hexdigest()[:8].upper()}"


def _entry(quota: Quota, value: float) -> dict[str, Any]:
    return {
        "ServiceCode": quota.service,
        "QuotaCode": _code(quota),
        "QuotaName": quota.name,
        "Value": float(value),
        "Adjustable": True,
        "GlobalQuota": False,
    }
