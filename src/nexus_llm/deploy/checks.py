"""One row of a preflight, and the rows about quotas. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nexus_llm.deploy.facts import NOT_ASKED, Facts, MachineFact, NotKnown, QuotaFact
from nexus_llm.deploy.needs import Needs, QuotaNeed
from nexus_llm.deploy.quotas import increase_command

Verdict = Literal["ok", "warn", "unknown", "fail"]
_ORDER: tuple[Verdict, ...] = ("ok", "warn", "unknown", "fail")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    needed: str
    found: str
    verdict: Verdict
    fix: str = ""
    """What to do; empty where nothing has to be done."""


def unknown(name: str, needed: str, reason: NotKnown) -> Check:
    """The row of a question that got no answer."""
    return Check(name, needed, reason.why, "unknown", reason.fix)


def document(checks: Iterable[Check]) -> dict[str, Any]:
    """`{"verdict", "checks": [{"name", "needed", "found", "verdict", "fix"}]}`; the verdict is the worst one."""
    rows = list(checks)
    worst = max((one.verdict for one in rows), key=_ORDER.index, default="ok")
    return {"verdict": worst, "checks": [asdict(one) for one in rows]}


def quota_checks(needs: Needs, facts: Facts, region: str) -> list[Check]:
    """A row for each quota that somebody needs a part of."""
    return [_quota_check(need, needs, facts, region) for need in needs.quotas]


def _quota_check(need: QuotaNeed, needs: Needs, facts: Facts, region: str) -> Check:
    name = f"{need.what}: {need.quota.name}"
    amounts = _amounts(need, facts)
    if isinstance(amounts, NotKnown):
        return unknown(name, f"{need.least:g} tasks on {need.machine}", amounts)
    least, wanted = amounts
    needed = _needed_words(least, wanted, need.quota.unit)
    fact = facts.quotas.get(need.quota, NOT_ASKED)
    if isinstance(fact, NotKnown):
        return unknown(name, needed, fact)
    if fact is None:
        return _missing_quota(need, name, needed, region)
    found = f"{fact.value:g} {need.quota.unit}" + _used_words(fact)
    verdict = _quota_verdict(fact, least, wanted, is_platform_there=needs.platform is not None)
    if verdict == "unknown" and isinstance(fact.used, NotKnown):
        return Check(name, needed, f"{found} ({fact.used.why})", verdict, fact.used.fix)
    return Check(name, needed, found, verdict, "" if verdict == "ok" else _increase(need, needs, facts, fact, region))


def _increase(need: QuotaNeed, needs: Needs, facts: Facts, fact: QuotaFact, region: str) -> str:
    if not fact.is_adjustable:
        return "AWS does not raise this quota: need less, or use another region"
    used = 0 if isinstance(fact.used, NotKnown) else fact.used or 0
    desired = math.ceil(_desired(need, needs, facts) + used)
    return increase_command(need.quota, fact.code, desired=desired, region=region)


def _quota_verdict(fact: QuotaFact, least: float, wanted: float, *, is_platform_there: bool) -> Verdict:
    if fact.value < least:
        return "fail"
    if isinstance(fact.used, NotKnown):
        return "unknown"
    free = fact.value - (fact.used or 0)
    if free < least:
        # What is in use may be this platform's own, which needs no second place.
        return "warn" if is_platform_there else "fail"
    return "ok" if free >= wanted else "warn"


def _missing_quota(need: QuotaNeed, name: str, needed: str, region: str) -> Check:
    found = f"Service Quotas lists no such quota in {region}"
    if need.quota.name.startswith("ml."):
        fix = "--set train.sagemaker.instance_type=…: this one is misspelt, or SageMaker does not offer it there"
        return Check(name, needed, found, "fail", fix)
    place = f"aws service-quotas list-service-quotas --service-code {need.quota.service} --region {region}"
    return Check(name, needed, found, "unknown", f"look for it under another name: {place}")


def machines_for(tasks: float, gpus_per_task: int, machine: MachineFact) -> int:
    """Machines that so many tasks fill.

    >>> machines_for(5, 1, MachineFact(vcpus=48, gpus=4))
    2
    """
    return math.ceil(tasks * gpus_per_task / max(machine.gpus, 1))


def _amounts(need: QuotaNeed, facts: Facts) -> tuple[float, float] | NotKnown:
    """Least and wanted, in the quota's unit."""
    if need.machine is None:
        return need.least, need.wanted
    if isinstance(facts.machines, NotKnown):
        return facts.machines
    machine = facts.machines.get(need.machine)
    if machine is None:
        return NotKnown(f"EC2 knows no type {need.machine} there", "repair the check of that machine type")
    least, wanted = (machines_for(tasks, need.gpus_per_task, machine) for tasks in (need.least, need.wanted))
    return least * machine.vcpus, wanted * machine.vcpus


def _desired(need: QuotaNeed, needs: Needs, facts: Facts) -> float:
    """What every need of this quota wants at once: serving's rollout holds serving itself, jobs come on top."""
    found: dict[str, float] = {}
    for one in needs.quotas:
        amounts = _amounts(one, facts)
        if one.quota == need.quota and not isinstance(amounts, NotKnown):
            group = "serving" if one.what == "rollout headroom" else one.what
            found[group] = max(found.get(group, 0), amounts[1])
    return sum(found.values())


def _needed_words(least: float, wanted: float, unit: str) -> str:
    if not least:
        return f"up to {wanted:g} {unit}"
    return f"{least:g} {unit}" + (f", up to {wanted:g}" if wanted > least else "")


def _used_words(fact: QuotaFact) -> str:
    if isinstance(fact.used, NotKnown):
        return ", use not known"
    return ", use not published" if fact.used is None else f", {fact.used:g} in use"
