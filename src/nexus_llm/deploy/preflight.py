"""Everything that would make a deployment, its jobs or a rollout fail later, found before anything is made. Pure.

`Needs` (what the recipe wants) and `Facts` (what AWS says) become rows: what was needed, what was found, a verdict and
the fix. `fail` stops; `warn` works with less; `unknown` got no answer, and the row says what would give one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from nexus_llm.deploy.checks import Check, Verdict, machines_for, quota_checks, unknown
from nexus_llm.deploy.facts import NOT_ASKED, Facts, NotKnown
from nexus_llm.deploy.needs import Needs

_ENGINES = ("openvino", "vllm", "openai")  # stages/2-serving, engine.kind


@dataclass(frozen=True)
class Local:
    """What is known here, without AWS."""

    model_kind: str
    """As `nexus_llm.model.sources.kind_of` tells it."""
    is_model_here: bool
    """For a folder or file: whether it exists."""
    budget_usd: float
    usd_per_month: float | NotKnown
    problems: Mapping[str, NotKnown] = field(default_factory=dict)
    """Job → what its part of the recipe lacks."""


def preflight(needs: Needs, facts: Facts, local: Local) -> tuple[Check, ...]:
    """All rows, in the order in which they should be repaired."""
    region = facts.region or "REGION"
    return (
        *_caller(needs, facts),
        *_region(needs, facts),
        _zones(needs, facts),
        *quota_checks(needs, facts, region),
        *_machines(needs, facts),
        *_scaling_group(needs, facts),
        *_machine_image(needs, facts),
        *_subnets(needs, facts),
        *_images(needs, facts),
        *_buckets(needs, facts),
        *_recipe(needs, local),
        _model(needs, local),
        _price(local),
    )


def _caller(needs: Needs, facts: Facts) -> list[Check]:
    needed = "credentials that AWS knows"
    if isinstance(facts.caller, NotKnown):
        verdict: Verdict = "unknown" if facts.is_signed_in else "fail"
        return [Check("credentials", needed, facts.caller.why, verdict, facts.caller.fix)]
    rows = [Check("credentials", needed, facts.caller.arn, "ok")]
    if needs.account_id:
        is_right = facts.caller.account == needs.account_id
        fix = "" if is_right else f"sign in to {needs.account_id} (AWS_PROFILE, aws sso login), or change --account"
        rows.append(Check("account", needs.account_id, f"signed in to {facts.caller.account}", _verdict(is_right), fix))
    return rows


def _region(needs: Needs, facts: Facts) -> list[Check]:
    if facts.region is None:
        return [Check("region", "a region", "none is set", "fail", "--region eu-central-1, or set AWS_REGION")]
    if facts.region not in facts.known_regions:
        near = difflib.get_close_matches(facts.region, facts.known_regions, n=2)
        fix = f"--region {near[0]}" if near else "aws account list-regions lists them"
        return [Check("region", "a region of AWS", f"AWS has no region {facts.region!r}", "fail", fix)]
    rows = [_enabled("region", facts.region, facts)]
    if needs.replica_region:
        rows.append(_enabled("region of the copies", needs.replica_region, facts))
    for place, named in sorted(needs.recipe_regions.items()):
        if named != facts.region:
            fix = f"--set {place}={facts.region}, or --region {named}"
            rows.append(Check(place, facts.region, named, "warn", fix))
    return rows


def _enabled(name: str, region: str, facts: Facts) -> Check:
    needed = f"{region} enabled for the account"
    if isinstance(facts.region_status, NotKnown):
        return unknown(name, needed, facts.region_status)
    status = facts.region_status.get(region, "not listed")
    is_open = status in ("opt-in-not-required", "opted-in")
    fix = "" if is_open else f"aws account enable-region --region-name {region} (takes minutes to hours)"
    return Check(name, needed, status, _verdict(is_open), fix)


def _zones(needs: Needs, facts: Facts) -> Check:
    needed = ", ".join(needs.chosen_zones) or f"{needs.zones} zones"
    if isinstance(facts.zones, NotKnown):
        return unknown("availability zones", needed, facts.zones)
    found = ", ".join(facts.zones)
    if missing := sorted(set(needs.chosen_zones) - set(facts.zones)):
        fix = f"--zones {','.join(facts.zones[: needs.zones])}: {', '.join(missing)} is none of the account's"
        return Check("availability zones", needed, found, "fail", fix)
    is_enough = len(facts.zones) >= needs.zones
    fix = "" if is_enough else f"another region, or --environment small: {needs.environment} spreads over {needs.zones}"
    return Check("availability zones", needed, found, _verdict(is_enough), fix)


def zones_used(needs: Needs, facts: Facts) -> tuple[str, ...]:
    """The zones that machines will be started in: those of the subnets that exist, the chosen, or the first by name."""
    if not isinstance(facts.subnets, NotKnown) and facts.subnets:
        return tuple(sorted({one.zone for one in facts.subnets}))
    if needs.chosen_zones or isinstance(facts.zones, NotKnown):
        return needs.chosen_zones
    return facts.zones[: needs.zones]


def _machines(needs: Needs, facts: Facts) -> list[Check]:
    purposes: dict[str, list[str]] = {}
    for machine, purpose in needs.machines.items():
        purposes.setdefault(purpose, []).append(machine)
    return [_offered(purpose, sorted(types), needs, facts) for purpose, types in sorted(purposes.items())]


def _offered(purpose: str, types: list[str], needs: Needs, facts: Facts) -> Check:
    name, used = f"{purpose}: machine types", zones_used(needs, facts)
    needed = f"{', '.join(types)} in {', '.join(used) or 'the zones'}"
    if isinstance(facts.offered, NotKnown):
        return unknown(name, needed, facts.offered)
    there = {one: [zone for zone in used if zone in facts.offered.get(one, ())] for one in types}
    if all(len(zones) == len(used) for zones in there.values()):
        return Check(name, needed, "offered in all", "ok")
    found = "; ".join(f"{one}: {', '.join(zones) or 'nowhere'}" for one, zones in there.items())
    if any(there.values()):
        return Check(name, needed, found, "warn", "works; fewer zones or types find capacity less often")
    elsewhere = sorted({zone for one in types for zone in facts.offered.get(one, ())})
    fix = "another machine type, or another --region: nowhere in this one"
    if elsewhere:
        fix = f"--zones with some of {', '.join(elsewhere)}, or another machine type"
    return Check(name, needed, found, "fail", fix)


def _scaling_group(needs: Needs, facts: Facts) -> list[Check]:
    """Green starts beside blue only where the group may hold both."""
    serving = needs.serving
    if serving.engine != "vllm" or isinstance(facts.machines, NotKnown) or serving.machine not in facts.machines:
        return []
    kind = facts.machines[serving.machine]
    needed, most = (
        machines_for(2 * one, serving.gpus_per_task, kind) for one in (serving.min_tasks, serving.max_tasks)
    )
    found = f"gpu.max_instances {serving.max_machines}"
    words = f"{needed} {serving.machine} during blue/green, up to {most}"
    if serving.max_machines >= most:
        return [Check("rollout headroom: scaling group", words, found, "ok")]
    verdict: Verdict = "warn" if serving.max_machines >= needed else "fail"
    fix = f"gpu = {{ max_instances = {most} }} in the variables of stage 2-serving"
    return [Check("rollout headroom: scaling group", words, found, verdict, fix)]


def _machine_image(needs: Needs, facts: Facts) -> list[Check]:
    if not needs.image_parameter:
        return []
    name, needed = "ECS GPU machine image", needs.image_parameter
    if isinstance(facts.image_id, NotKnown):
        return [unknown(name, needed, facts.image_id)]
    if facts.image_id is None:
        return [Check(name, needed, "SSM has no such parameter there", "fail", "another --region")]
    return [Check(name, needed, facts.image_id, "ok")]


def _subnets(needs: Needs, facts: Facts) -> list[Check]:
    if needs.platform is None:
        return []
    name, needed = "subnet addresses", f"{needs.addresses} free in each private subnet"
    if isinstance(facts.subnets, NotKnown):
        return [unknown(name, needed, facts.subnets)]
    if gone := sorted(set(needs.platform.private_subnet_ids) - {one.id for one in facts.subnets}):
        fix = "run stage 1-platform again: somebody has deleted what its platform.json names"
        return [Check(name, needed, f"{', '.join(gone)} does not exist", "fail", fix)]
    least = min(facts.subnets, key=lambda one: (one.free_addresses, one.id))
    found = f"{least.free_addresses} in {least.id} ({least.zone})"
    is_enough = least.free_addresses >= needs.addresses
    fix = (
        "" if is_enough else "stop what is idle in it, or a larger network.vpc_cidr of stage 1-platform (a new network)"
    )
    return [Check(name, needed, found, _verdict(is_enough), fix)]


def _images(needs: Needs, facts: Facts) -> list[Check]:
    rows, needed = [], "in its registry"
    if needs.platform is None:
        reason = NotKnown("not asked: stage 1-platform makes the repositories", "push images after it, and look again")
        rows.append(unknown("images of the platform", "images in its repositories", reason))
    for image in needs.images:
        folder = image.partition("@")[0].split("/")[-1].split(":")[0]
        name, answer = f"image {image.split('/', 1)[-1]}", facts.images.get(image, NOT_ASKED)
        if isinstance(answer, NotKnown):
            rows.append(unknown(name, needed, answer))
            continue
        build = f"docker build --file containers/{folder}/Dockerfile --tag {image} . && docker push {image}"
        rows.append(Check(name, needed, "there" if answer else "missing", _verdict(answer), "" if answer else build))
    return rows


def _buckets(needs: Needs, facts: Facts) -> list[Check]:
    account = facts.caller.account if not isinstance(facts.caller, NotKnown) else "ACCOUNT"
    prefix = needs.platform.name if needs.platform else f"nexus-{needs.environment}"
    own = {f"{prefix}-{kind}-{account}" for kind in ("data", "models")}
    rows, needed = [], "a bucket that exists"
    for bucket in needs.buckets:
        name, answer = f"bucket {bucket}", facts.buckets.get(bucket, NOT_ASKED)
        if isinstance(answer, NotKnown):
            rows.append(unknown(name, needed, answer))
        elif answer:
            rows.append(Check(name, needed, "there", "ok"))
        elif bucket in own and not needs.platform:
            rows.append(Check(name, needed, "not yet: stage 1-platform makes it", "ok"))
        else:
            fix = f"name one that exists in the recipe; the platform's are {' and '.join(sorted(own))}"
            rows.append(Check(name, needed, "does not exist", "fail", fix))
    return rows


def _recipe(needs: Needs, local: Local) -> list[Check]:
    """What the recipe itself lacks. Before the platform is there, roles and images have no names that it could hold."""
    verdict: Verdict = "fail" if needs.platform else "warn"
    rows = [
        Check(f"recipe: {job}", "a complete recipe", problem.why, verdict, problem.fix)
        for job, problem in sorted(local.problems.items())
    ]
    engine = needs.serving.engine
    fix = "" if engine in _ENGINES else "--set serve.engine=openvino (CPU) or vllm (GPU)"
    return [*rows, Check("serving engine", " or ".join(_ENGINES), engine, _verdict(engine in _ENGINES), fix)]


def _model(needs: Needs, local: Local) -> Check:
    """A hub is no part of AWS, and nobody asked for a call to it."""
    if local.model_kind in ("folder", "gguf"):
        fix = "" if local.is_model_here else "--set model.base=…: the folder or file does not exist here"
        found = "on this machine" if local.is_model_here else "missing"
        return Check("base model", needs.model, found, _verdict(local.is_model_here), fix)
    if local.model_kind == "bucket":
        return Check("base model", needs.model, "in a bucket: see its row; the files in it were not asked for", "ok")
    why = "not asked: only AWS is called; the hub may want a licence accepted and HF_TOKEN"
    return unknown("base model", needs.model, NotKnown(why, f"nexus model pull {needs.model} asks the hub"))


def _price(local: Local) -> Check:
    needed = f"at most {local.budget_usd:,.2f} USD a month"
    if isinstance(local.usd_per_month, NotKnown):
        return unknown("price", needed, local.usd_per_month)
    found = f"{local.usd_per_month:,.2f} USD a month planned"
    if local.usd_per_month <= local.budget_usd:
        return Check("price", needed, found, "ok")
    fix = f"--budget {local.usd_per_month:.0f}, or a cheaper plan: nexus cost plan shows the parts"
    return Check("price", needed, found, "fail", fix)


def _verdict(is_fine: bool) -> Verdict:
    return "ok" if is_fine else "fail"
