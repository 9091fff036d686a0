"""The brief's claims about money."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nexus_llm.cost.break_even import break_even
from nexus_llm.cost.claims import BRIEF_API, TRAFFIC, Claim, Ground, Verdict, dollars, option_words
from nexus_llm.cost.money import DAYS_PER_MONTH, HOURS_PER_MONTH
from nexus_llm.cost.plan import Scenario
from nexus_llm.cost.training import INTERRUPTIONS_PER_HOUR, expected_interruptions, spot_saving

BRIEF_TRAINING, BRIEF_HOURS = "p4d.24xlarge", 72.0
_STAFF = "no people's hours, as in the brief"


def money_claims(ground: Ground) -> Iterator[Claim]:
    """Every one, in the order of the brief."""
    yield _development(ground)
    yield _month(ground, "Production costs $287 a month at 100K requests", 287, ground.month_100k, tasks=2)
    yield _month(ground, "Estimated production: $300 a month", 300, ground.month_100k, tasks=2)
    yield _commercial(ground)
    yield from _savings(ground)
    yield _break_even_days(ground)
    yield _three_years(ground)
    yield _spot(ground)
    yield _committed(ground)
    yield _month(ground, "1M requests cost $1,704 a month (8 tasks)", 1704, ground.month_1m, tasks=8)
    yield _saved(ground, 1e6, ground.month_1m, 31_296, "95 %")
    yield _month(ground, "10M requests cost $1,316 a month (reserved EC2)", 1316, ground.month_10m, tasks=0)
    yield _saved(ground, 1e7, ground.month_10m, 328_684, "99.6 %")
    yield _order(ground)
    yield _budget(ground)


def _development(ground: Ground) -> Claim:
    region = ground.planner.cost.region
    hourly = ground.table.lookup("sagemaker", f"ml.{BRIEF_TRAINING} training", region).usd
    on_demand, saving = BRIEF_HOURS * hourly, spot_saving(BRIEF_TRAINING, ground.table, region=region)
    restarted = expected_interruptions(BRIEF_HOURS, saved_every_hours=0.5).billed_hours * hourly * (1 - saving)
    needed = 1 - 697 / on_demand
    return Claim(
        "Development costs $697, once ($700 in the guide)",
        "$697",
        f"72 h of ml.{BRIEF_TRAINING}: {dollars(on_demand)} on demand, {dollars(on_demand * (1 - saving))} on spot "
        f"at {saving:.0%} off, {dollars(restarted)} with restarts",
        "holds if" if on_demand * (1 - saving) <= 697 else "fails",
        (
            f"spot must save {needed:.1%} for all 72 hours, and nothing be interrupted",
            f"restarts: {INTERRUPTIONS_PER_HOUR:g} an hour as V100 machines had in 2023, a checkpoint every half hour",
            "SageMaker's price derived from EC2's; people, data and failed attempts cost nothing in the brief",
        ),
    )


def _month(ground: Ground, claim: str, stated: float, scenario: Scenario, *, tasks: int) -> Claim:
    requests = scenario.traffic.requests_per_month
    lean = ground.lean.scenario(requests)
    verdict: Verdict = "fails"
    assumed = "one spare machine, two zones, everything around the engines on the bill"
    if scenario.usd_per_month <= stated:
        instead = f"the {tasks} tasks" if tasks else "reserved ones"
        verdict, assumed = "holds if", f"GPU machines on {scenario.best.purchase} instead of {instead}; {assumed}"
    elif lean.usd_per_month <= stated:
        verdict, assumed = "holds if", f"{_least(lean)}: the service ends with its one machine, or zone"
    drawn = ""
    if tasks:
        drawn = f"; as drawn, {tasks} Fargate tasks alone are {dollars(ground.fargate_usd(tasks))} and have no GPU"
    by = ", ".join(f"{one.purchase} {dollars(one.usd_per_month)}" for one in scenario.by_purchase if not one.is_assumed)
    return Claim(
        claim,
        dollars(stated),
        f"{dollars(scenario.usd_per_month)} with {option_words(scenario)} (cheapest by purchase: {by}); "
        f"at the very least {dollars(lean.usd_per_month)}, {_least(lean)}{drawn}",
        verdict,
        (TRAFFIC, assumed, _STAFF),
    )


def _commercial(ground: Ground) -> Claim:
    others = ", ".join(f"{api} {dollars(ground.api_usd(1e5, api))}" for api in ("gpt-4.1", "gpt-4o-mini"))
    usd = ground.api_usd(1e5)
    return Claim(
        "The commercial API costs $3,300 a month for the same",
        "$3,300",
        f"{dollars(usd)} with {BRIEF_API} (8K); {others}",
        "holds if" if round(usd) == 3300 else "fails",
        (f"the API is {BRIEF_API}", "100,000 requests of 500 + 300 tokens"),
    )


def _savings(ground: Ground) -> Iterator[Claim]:
    own, api = ground.month_100k.usd_per_month, ground.api_usd(1e5)
    small = ground.api_usd(1e5, "gpt-4o-mini")
    computed = (
        f"{dollars(api - own)} ({1 - own / api:.0%}) against {BRIEF_API}; against gpt-4o-mini self-hosting costs "
        f"{dollars(own - small)} more"
    )
    assumptions = (TRAFFIC, _STAFF, "an 8B model answers as well as the API: not measured")
    for claim, stated, share in (
        ("Monthly savings of $3,014 (91 %)", "$3,014, 91 %", 3014 / 3300),
        ("90 % cheaper than commercial APIs", "90 %", 0.9),
    ):
        yield Claim(claim, stated, computed, "holds if" if own <= (1 - share) * api else "fails", assumptions)


def _break_even_days(ground: Ground) -> Claim:
    own, api = ground.month_100k.usd_per_month, ground.api_usd(1e5)
    found = break_even(ground.planner, BRIEF_API, requests_per_month=1e5, upfront_usd=697)
    with_people = f"{found.payback_days:,.0f} days" if found.payback_days else "never"
    mini = break_even(ground.planner, "gpt-4o-mini", requests_per_month=1e5, upfront_usd=697)
    days = 697 / (api - own) * DAYS_PER_MONTH if api > own else math.inf
    return Claim(
        "Break-even 7 days after deployment",
        "7 days",
        f"{days:.1f} days against {BRIEF_API} without people, {with_people} with them; "
        f"{mini.words[0].lower()}{mini.words[1:].rstrip('.')}",
        "holds if" if days <= 7 else "fails",
        (
            "697 / 3,014 of a month is 7.0 days: the brief's own figures, none of which holds",
            f"people: {ground.planner.cost.staff_hours_to_build:g} h to build, "
            f"{ground.planner.cost.staff_hours_per_month:g} h a month, "
            f"${ground.planner.cost.staff_usd_per_hour:g} an hour (inputs)",
        ),
    )


def _three_years(ground: Ground) -> Claim:
    saved = 36 * (ground.api_usd(1e5) - ground.month_100k.usd_per_month) - 697
    return Claim(
        "3-year savings of $113,207",
        "$113,207",
        f"the brief's own figures give ${36 * (3300 - 287) - 697:,}; ours {dollars(saved)} against {BRIEF_API}",
        "holds if" if saved >= 113_207 else "fails",
        ("36 months of the monthly saving less the development cost", _STAFF, "prices stay as they are"),
    )


def _spot(ground: Ground) -> Claim:
    region, table = ground.planner.cost.region, ground.table
    families = ("g5.", "g6.", "g6e.", "p4d.", "p5.", "p5en.")
    names = [sku.removesuffix(" spot") for sku in table.skus("ec2", region) if sku.endswith(" spot")]
    shares = {name: spot_saving(name, table, region=region) for name in names if name.startswith(families)}
    enough = sorted(name for name, share in shares.items() if share >= 0.7)
    listed = table.lookup("ec2", f"{BRIEF_TRAINING} spot", region)
    return Claim(
        "Spot saves 70 %",
        "70 %",
        f"{min(shares.values()):.0%} to {max(shares.values()):.0%} over {len(shares)} GPU machines, p4d "
        f"{shares[BRIEF_TRAINING]:.0%}; 70 % or more: {', '.join(enough) or 'none'}",
        "holds if" if enough else "fails",
        (f"{listed.source.split(' (')[0]}, {region}, {listed.as_of}; it moves every day and differs by zone",),
    )


def _committed(ground: Ground) -> Claim:
    region, table = ground.planner.cost.region, ground.table

    def saved(years: int) -> list[float]:
        found = [sku.split()[0] for sku in table.skus("ec2", region) if sku.endswith(f" savings-{years}y")]
        pairs = [
            [table.lookup("ec2", f"{name} {how}", region).usd for how in (f"savings-{years}y", "on-demand")]
            for name in found
        ]
        return [1 - committed / hourly for committed, hourly in pairs]

    listed = [table.lookup("ec2", f"{BRIEF_TRAINING} savings-{years}y", region) for years in (1, 3)]
    told = [
        " to ".join(dict.fromkeys(f"{share:.1%}" for share in (min(shares), max(shares))))
        + f" for {words}{', assumed and never chosen' if row.is_assumed else ''}"
        for shares, words, row in zip((saved(1), saved(3)), ("one year", "three years"), listed, strict=True)
    ]
    return Claim(
        "Reserved instances save 40 to 60 %",
        "40-60 %",
        "; ".join(told),
        "holds if" if min(saved(1)) >= 0.4 else "fails",
        (f"one year, p4d: {listed[0].source}", "a commitment is paid for idle hours too"),
    )


def _saved(ground: Ground, requests: float, scenario: Scenario, stated: float, share: str) -> Claim:
    api, lean = ground.api_usd(requests), ground.lean.scenario(requests)
    saved, small = api - scenario.usd_per_month, ground.api_usd(requests, "gpt-4o-mini") - scenario.usd_per_month
    return Claim(
        f"{requests / 1e6:g}M requests save ${stated:,} a month ({share})",
        f"${stated:,}, {share}",
        f"{dollars(saved)} ({saved / api:.1%}) against {BRIEF_API}; against gpt-4o-mini "
        + (f"{dollars(small)} saved" if small > 0 else f"{dollars(-small)} lost"),
        "holds if" if api - lean.usd_per_month >= stated else "fails",
        (f"the alternative is {BRIEF_API}", *([_least(lean)] if saved < stated else ()), TRAFFIC, _STAFF),
    )


def _order(ground: Ground) -> Claim:
    months = (ground.month_100k, ground.month_1m, ground.month_10m)
    return Claim(
        "10M requests cost less than 1M ($1,316 against $1,704)",
        "$1,704 → $1,316",
        " → ".join(dollars(one.usd_per_month) for one in months) + " for 100K, 1M and 10M",
        "fails",
        ("the same purchase options at every volume: more requests never cost less",),
    )


def _budget(ground: Ground) -> Claim:
    usd = ground.month_100k.usd_per_month
    lean = ground.lean.scenario(1e5)
    hourly = ground.table.lookup("sagemaker", f"ml.{BRIEF_TRAINING} training", ground.planner.cost.region).usd
    return Claim(
        "A budget of $500 a month covers it",
        "$500",
        f"production {dollars(usd)}, at the very least {dollars(lean.usd_per_month)}; one on-demand training run of "
        f"72 h is {dollars(BRIEF_HOURS * hourly)} more. As drawn, two tasks are {dollars(ground.fargate_usd(2))} for "
        f"{HOURS_PER_MONTH:g} hours",
        "holds if" if lean.usd_per_month <= 500 else "fails",
        (f"{_least(lean)}: the service ends with its one machine", "no training in that month"),
    )


def _least(lean: Scenario) -> str:
    spare = "" if lean.best.spare_machines else ", no spare"
    return f"{option_words(lean)} in one zone, no database of keys, no endpoints{spare}"
