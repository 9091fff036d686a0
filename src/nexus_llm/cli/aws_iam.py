"""`nexus aws iam`: the least that each principal must be allowed, from calls that were recorded."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson
from nexus_llm.errors import PreflightError, UsageError

if TYPE_CHECKING:
    from nexus_llm.deploy.policies import Place, Recordings


def register(group: typer.Typer) -> None:
    """Adds the command to the group `nexus aws`."""
    group.command("iam")(iam)


def iam(
    role: Annotated[str | None, typer.Option(help="up, jobs, rollout, recovery or preflight [default: all].")] = None,
    name: Annotated[str, typer.Option(help="Prefix of the platform's names, as in its .tfvars.")] = "nexus-small",
    account: Annotated[str, typer.Option(help="12 digits [default: any account, as *].")] = "*",
    region: Annotated[list[str] | None, typer.Option(help="May be given twice [default: any region, as *].")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Say what this policy (JSON) lacks for the role.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Print the least that who runs what must be allowed: IAM policies generated from recorded calls."""
    from nexus_llm.deploy.policies import Place, recordings

    if not re.fullmatch(r"\d{12}|\*", account):
        raise UsageError(f"--account {account} is no account", fix="give its 12 digits")
    heard = recordings()
    place = Place(name, account, tuple(region or ("*",)))
    if check is not None:
        return _check(check, role, heard, place, as_json=as_json)
    shown = {one: _shown(one, heard, place) for one in ([role] if role else heard.roles)}
    if as_json:
        print_json({"name": name, "account": account, "regions": list(place.regions), "recorded_with": dict(heard.made),
                    "roles": shown})  # fmt: skip
        return 0
    for one, found in shown.items():
        print(f"{one}: {found['title']}; {len(found['policies'])} managed policies", file=sys.stderr)
        for gap in found["not_recorded"]:
            print(f"  not recorded: {gap}", file=sys.stderr)
        for document in found["policies"]:
            print(json.dumps(document, indent=2))
    return 0


def _shown(role: str, heard: Recordings, place: Place) -> dict[str, Any]:
    from nexus_llm.deploy.policies import documents, wide_actions

    policies = documents(role, heard, place)
    return {
        "title": heard.roles[role].title,
        "policies": policies,
        "allowed_on_everything_because": wide_actions(role, heard),
        "not_recorded": list(heard.roles[role].gaps),
    }


def _check(path: Path, role: str | None, heard: Recordings, place: Place, *, as_json: bool) -> int:
    """Prints what a policy lacks; nothing is asked of AWS."""
    from nexus_llm.deploy.policies import lacking

    if role is None:
        raise UsageError("--check needs to know for whom", fix="add --role up, jobs, rollout, recovery or preflight")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no JSON that can be read ({error})", fix="give an IAM policy document") from error
    absent = lacking(role, heard, place, found if isinstance(found, list) else [found])
    if as_json:
        print_json({"role": role, "file": str(path), "lacks": absent})
        return PreflightError.exit_code if absent else 0
    if absent:
        more = f" and {len(absent) - 5} more actions" if len(absent) > 5 else ""
        raise PreflightError(
            f"{path} lacks {', '.join(sorted(absent)[:5])}{more} for {role}",
            fix=f"add what `nexus aws iam --role {role}` prints; --json names all, with their resources",
        )
    print(f"{path} allows all that was recorded of {role}")
    return 0
