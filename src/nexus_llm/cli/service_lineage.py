"""From answers to what made them, and from artifacts to the names, deployments and answers that rest on them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.errors import ArtifactError, DataError, ServingError, UsageError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.pipeline import Workspace
    from nexus_llm.pipeline.lineage import Ancestor
    from nexus_llm.serve.telemetry.answered import Answered

Logs = Annotated[
    list[Path],
    typer.Option("--log", help="A server's access log or samples; several times; - is stdin.", metavar="FILE.jsonl"),
]


def answers_in(logs: Iterable[Path]) -> Iterator[Answered]:
    """Every answer of which these files tell.

    Raises:
        StorageError: a file cannot be read.
    """
    from nexus_llm.serve.telemetry.answered import answered
    from nexus_llm.storage import explained

    for path in logs:
        if str(path) == "-":
            yield from answered(sys.stdin)
            continue
        with explained(str(path)), path.open(encoding="utf-8", errors="replace") as lines:
            yield from answered(lines)


def answer_named(name: str, logs: Iterable[Path], place: Workspace) -> tuple[dict[str, Any], Artifact] | None:
    """The answer that a receipt or a request id means, and the package that gave it; None where `name` is neither.

    Raises:
        ArtifactError: the package is not here, or its weights are not those that answered.
    """
    from nexus_llm.pipeline.lineage import find_artifact
    from nexus_llm.serve.receipt import has_weights, read_header

    found = next((one for one in answers_in(logs) if one.request_id == name), None)
    if found is None and ";" not in name:
        return None
    answer = asdict(found) if found else {"receipt": name}
    told = read_header(answer["receipt"])
    package = find_artifact(told["artifact"], place)
    if not has_weights(asdict(package.manifest), told.get("weights", "")):
        raise ArtifactError(
            f"{package.folder} does not hold the weights {told.get('weights')} that answered",
            fix="bring back the package that was served: nexus restore, or an older version of its bucket",
        )
    return answer, package


def shards_of(rows: Iterable[Ancestor]) -> list[dict[str, Any]]:
    """The shards of each data artifact of a line, with their numbers of records; none of one that cannot be read."""
    from nexus_llm.data.looking import inspect

    found: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.kind == "data":
            with contextlib.suppress(DataError):  # of an older version
                found[row.id] = inspect.shard_sizes(Path(row.path))
    return [{"data": data, "shard": name, "records": n} for data, sizes in found.items() for name, n in sizes.items()]


def records_of(rows: Iterable[Ancestor], shard: str) -> list[dict[str, Any]]:
    """The records of one shard, in its order: id, origin, and place; never their text.

    Raises:
        UsageError: no data artifact of the line has this shard.
    """
    from nexus_llm.data.looking import inspect

    folders = {row.path for row in rows if row.kind == "data"}
    for folder in sorted(folders):
        if shard in inspect.shard_sizes(Path(folder)):
            records = inspect.of_shard(Path(folder), shard)
            return [{"id": one.id, "origin": one.origin, "shard": shard, "row": row} for row, one in enumerate(records)]
    raise UsageError(f"--shard {shard} is in no data artifact of this line", fix="leave it out to see the shards")


def registered_as(artifacts: Collection[str], root: Path) -> list[dict[str, Any]]:
    """Names, versions and aliases under which the registry below `root` (or $NEXUS_REGISTRY) knows these packages."""
    from nexus_llm.cli.model_registry import registered_models

    known = registered_models(root, os.environ.get("NEXUS_REGISTRY"))
    names = ("name", "version", "aliases", "artifact")
    return [{name: one[name] for name in names} for one in known if one["artifact"] in artifacts]


def deployed(packages: Collection[str], root: Path) -> list[dict[str, Any]]:
    """Services whose model is one of these packages (by key), as `nexus aws up` and rollouts of this machine left them.

    A service has two models while a rollout is under way, and where its platform was applied after its last rollout:
    that gives a new service its first model, and leaves a running one as it is.

    Raises:
        ArtifactError: what a rollout wrote down cannot be read.
    """
    return [row for row in _services(root) if _package_key(row["key"]) in packages]


def _services(root: Path) -> Iterator[dict[str, Any]]:
    from nexus_llm.deploy.rollout_driver import RolloutFolder

    answering = [
        one for folder in sorted((root / "runs" / "deploy").glob("*/")) for one in RolloutFolder(folder).answering()
    ]
    platforms: dict[str, tuple[str, str]] = {}
    for path in sorted((root / "runs" / "aws").glob("*/serving.json")):
        serving, platform = json.loads(path.read_text(encoding="utf-8")), path.parent.name
        model, service = serving.get("model") or {}, serving.get("service_name", platform)
        platforms[service] = (platform, model.get("name", platform))
        taken = [one.rollout for one in answering if one.rollout.plan.service == service]
        if model and all(one.status != "done" or one.began_at < path.stat().st_mtime for one in taken):
            yield {"platform": platform, "model": model["name"], "key": str(model.get("key", "")), "rollout": None}
    for one in answering:
        plan = one.rollout.plan
        name = one.rollout.facts.get("stage", {}).get("name", plan.service)
        platform, name = platforms.get(plan.service, (plan.service, name))
        yield {"platform": platform, "model": name, "key": one.model, "rollout": one.rollout.id}


def _package_key(location: str) -> str:
    """Of a place in a bucket its last part; of a folder here what its manifest says, wherever it was moved to."""
    from nexus_llm.artifacts import load

    with contextlib.suppress(ArtifactError):
        return load(Path(location)).key
    return location.rstrip("/").rpartition("/")[2]


def served(artifacts: Collection[str], servers: Iterable[str]) -> list[dict[str, Any]]:
    """Models that these gateways serve now and that are, or were made from, one of the artifacts.

    $NEXUS_API_KEY is sent where set.

    Raises:
        ServingError: a gateway does not answer.
    """
    import httpx

    from nexus_llm.serve.client import api_url

    found = []
    key = os.environ.get("NEXUS_API_KEY")
    with httpx.Client(timeout=10, headers={"authorization": f"Bearer {key}"} if key else {}) as client:
        for server in servers:
            place = f"{api_url(server)}/models"
            try:
                for card in client.get(place).raise_for_status().json()["data"]:
                    told = client.get(f"{place}/{card['id']}").raise_for_status().json().get("nexus", {})
                    if {told.get("artifact"), *told.get("made_of", {}).values()} & set(artifacts):
                        found.append({"server": server, "model": card["id"], "artifact": told.get("artifact")})
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError) as error:
                raise ServingError(
                    f"{place} does not tell its models ({type(error).__name__})", fix="is it up? is NEXUS_API_KEY set?"
                ) from error
    return found


def answers_by(artifacts: Collection[str], logs: Iterable[Path]) -> list[dict[str, Any]]:
    """What these artifacts answered: one row a model, as it was called, and receipt, with the ids of its requests."""
    rows: dict[tuple[str, str], list[Answered]] = {}
    for one in answers_in(logs):
        if one.artifact in artifacts:
            rows.setdefault((str(one.model), one.receipt), []).append(one)
    return [
        {
            "model": model,
            "receipt": receipt,
            "first": min(one.time for one in found),
            "last": max(one.time for one in found),
            "request_ids": sorted({one.request_id for one in found}),
        }
        for (model, receipt), found in sorted(rows.items())
    ]


def usage_of(names: Collection[str], database: str | None) -> list[dict[str, Any]]:
    """Requests and tokens that were counted for models of these names, whichever weights then answered to them."""
    if database is None or not names:
        return []
    from nexus_llm.cli.keys import with_database
    from nexus_llm.serve.access.usage_report import usage_rows

    rows = with_database(database, lambda opened: usage_rows(opened, by="model"))
    return [one.document("model") for one in rows if one.group in names]
