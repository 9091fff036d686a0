"""`nexus observe`: what a gateway in service does, and whether whoever looks at it looks at something that exists."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Root, json_object, key_headers
from nexus_llm.errors import NexusError, ServingError, UsageError

if TYPE_CHECKING:
    from nexus_llm.observe.contract import Named
    from nexus_llm.observe.snapshots import Snapshot

group = typer.Typer(help="What a gateway in service is doing: objectives, latency, usage, drift, and the contract.")


@group.command()
def report(
    target: Annotated[str, typer.Argument(help="A gateway's address, or a run that is served.", metavar="URL|RUN")],
    run: Annotated[str | None, typer.Option(help="Whose training data to compare with, for a URL.")] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Folder of serve.samples [default: the run's recipe's].", metavar="DIR")
    ] = None,
    embed: Annotated[bool, typer.Option("--embed", help="Also compare embeddings, made by the gateway.")] = False,
    history: Annotated[
        Path | None, typer.Option(help="Keep this look here; earlier ones give the burn rates.", metavar="FILE.jsonl")
    ] = None,
    page: Annotated[Path | None, typer.Option("--report", help="Write a page.", metavar="FILE.html")] = None,
    root: Root = Path(),
    as_json: AsJson = False,
) -> int:
    """Objectives, burn rates, latency, usage and drift. $NEXUS_API_KEY is sent where set."""
    from nexus_llm.cli.observe_drift import compared, served_run
    from nexus_llm.observe.report import report_document, report_html
    from nexus_llm.storage import write_atomically

    url = target
    if "://" not in target:
        run = target
        url, samples = served_run(target, root, samples)
    looks = _looks(_metrics(url), history)
    drift, notes = compared(run, root, samples, looks[-1], embedder=url if embed else None)
    if len(looks) == 1:
        notes.append("Burn rates need earlier looks: give --history FILE and look again.")
    document = report_document(target, looks, drift, notes)
    if page is not None:
        write_atomically(page, report_html(document).encode())
    if as_json:
        print_json(document)
    else:
        _print(document)
    return 0


@group.command()
def contract(
    plan: Annotated[
        list[Path],
        typer.Option("--plan", help="terraform show -json PLANFILE; may be given twice.", metavar="PLAN.json"),
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    runbooks: Annotated[Path, typer.Option(help="Folder of the runbooks.", metavar="DIR")] = Path("docs/runbooks"),
    as_json: AsJson = False,
) -> int:
    """Whether every metric and log field that a rule, panel, page, alarm or policy names is emitted; exit 1 if not."""
    from nexus_llm.observe.contract import broken, never_looked_at, recorded_by, shipped
    from nexus_llm.observe.objectives import prometheus_rules
    from nexus_llm.observe.terraform import emitted_by, named_by, resources_of

    emitted = shipped()
    emitted["prometheus"] |= recorded_by(prometheus_rules())
    named = [*_shipped_looks(), *_runbook_looks(runbooks)]
    for path in plan:
        resources = resources_of(json_object(path, fix="terraform show -json PLANFILE > plan.json"))
        emitted["cloudwatch"] |= emitted_by(resources)
        named += named_by(resources)
    faults = broken(named, emitted)
    own = {**emitted, "cloudwatch": {name: one for name, one in emitted["cloudwatch"].items() if "NexusLLM/" in name}}
    unseen = {kind: never_looked_at(named, own, kind) for kind in ("prometheus", "cloudwatch", "log")}
    if as_json:
        print_json({"named": len(named), "broken": faults, "never_looked_at": unseen})
    else:
        for kind, names in unseen.items():
            print(f"{kind}: {len(names)} emitted and never looked at: {', '.join(names) or '–'}")
        print(f"{len(named)} looks, {len(faults)} at nothing", *faults, sep="\n  ")
        if not plan:
            print("alarms, policies and CloudWatch's dashboard were not asked: give --plan", file=sys.stderr)
    if not faults:
        return 0
    raise NexusError(f"{len(faults)} looks at what nothing emits", fix="emit it, or look at something that exists")


@group.command()
def rules() -> int:
    """Print Prometheus' rules: burn rates of each objective, and their alerts."""
    import yaml

    from nexus_llm.observe.objectives import prometheus_rules

    print(yaml.safe_dump(prometheus_rules(), sort_keys=False, width=1000, allow_unicode=True), end="")
    return 0


@group.command()
def dashboard() -> int:
    """Print the Grafana dashboard, as JSON that Grafana imports."""
    from nexus_llm.observe.dashboard import grafana_dashboard

    print_json(grafana_dashboard())
    return 0


def _metrics(url: str) -> Snapshot:
    import httpx

    from nexus_llm.observe.snapshots import snapshot

    base = url.rstrip("/").removesuffix("/v1")
    try:
        answer = httpx.get(f"{base}/metrics", headers=key_headers(), timeout=30)
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        fix = "set NEXUS_API_KEY to a key of this gateway" if error.response.status_code == 401 else "check the address"
        raise ServingError(f"{base}/metrics answers {error.response.status_code}", fix=fix) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServingError(f"nothing answers at {url}", fix="start a gateway with: nexus serve RUN") from error
    return snapshot(answer.text, time=time.time())


def _looks(now: Snapshot, history: Path | None) -> list[Snapshot]:
    from nexus_llm.observe.objectives import WINDOW_SECONDS
    from nexus_llm.observe.snapshots import Snapshot, worth_keeping
    from nexus_llm.storage import explained, write_atomically

    if history is None:
        return [now]
    lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
    try:
        earlier = [Snapshot(one["time"], one["values"]) for one in map(json.loads, lines)]
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{history} is no history of looks ({error})", fix="name another file") from error
    longest = max(WINDOW_SECONDS.values())
    if earlier and now.time - earlier[0].time > 2 * longest:  # what no window reaches goes, now and then
        earlier = [one for one in earlier if now.time - one.time <= 1.2 * longest]
        write_atomically(history, b"".join(map(_line, earlier)))
    with explained(str(history)), history.open("ab") as stream:
        stream.write(_line(worth_keeping(now)))
    return [*earlier, now]


def _line(look: Snapshot) -> bytes:
    return json.dumps({"time": look.time, "values": dict(look.values)}).encode() + b"\n"


def _shipped_looks() -> list[Named]:
    from nexus_llm.observe.contract import in_promql
    from nexus_llm.observe.dashboard import grafana_dashboard
    from nexus_llm.observe.objectives import prometheus_rules

    found = [
        one
        for group in prometheus_rules()["groups"]
        for rule in group["rules"]
        for one in in_promql(rule["expr"], f"rule {rule.get('alert') or rule['record']}")
    ]
    for panel in grafana_dashboard()["panels"]:
        found += [one for query in panel["targets"] for one in in_promql(query["expr"], f"Grafana, {panel['title']}")]
    return found


def _runbook_looks(folder: Path) -> list[Named]:
    from nexus_llm.observe.runbooks import looks, read_runbook

    return [one for path in sorted(folder.glob("*.md")) for one in looks(read_runbook(path))]


def _print(document: dict[str, Any]) -> None:
    for one in document["objectives"]:
        share = "–" if one["good_share"] is None else f"{100 * one['good_share']:.3f} %"
        burn = ", ".join(f"{window} {rate:.2f}" for window, rate in one["burn_rates"].items() if rate is not None)
        alerts = " ".join(one["alerts"]) or "no alert"
        print(f"{one['title']}: {share} of {one['all']:.0f}, {one['state']}; {alerts}; burn {burn or 'unknown'}")
    for name, values in document["latency"].items():
        told = ", ".join(f"{share} {'–' if value is None else f'{value:.3f}'}" for share, value in values.items())
        print(f"{name}: {told}")
    print(", ".join(f"{name} {value:.0f}" for name, value in document["usage"].items()))
    for one in document["drift"]:
        value = "–" if one["value"] is None else one["value"]
        print(f"{one['what']}: {one['verdict']} ({one['statistic']} {value}, limit {one['limit']}, n {one['samples']})")
    for note in document["notes"]:
        print(note, file=sys.stderr)
