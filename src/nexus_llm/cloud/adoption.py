"""What a killed terraform made and could not write down any more, taken over by the next plan.

Terraform writes a remote state every 20 seconds. What it made in the last of them is in no state, but in its log, which
is a file of ours: address and id of each resource. The next plan imports these, and shows that it does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nexus_llm.cloud.terraform import Terraform

_FILE = "nexus_adopted.tf"
# Made again they end as the same thing, because AWS' call is a Put; and their import ids are not their ids.
_PUT_AGAIN = {
    "aws_cloudwatch_event_target",
    "aws_cloudwatch_log_metric_filter",
    "aws_iam_role_policy_attachment",
}
# Neither: their ids are hashes of terraform's own. AWS says that they exist, and the refusal names them.
_UNKNOWN_ID = {"aws_network_acl_rule", "aws_route_table_association", "aws_backup_selection", "terraform_data"}
_ROUTE = re.compile(r"^r-(rtb-[0-9a-f]{17})")


def write_adopted(terraform: Terraform) -> list[str]:
    """Addresses that the next plan of this folder will import; an `import` block for each is written beside it."""
    created = dict(_created(terraform.folder / "apply.jsonl"))
    if not created:
        return []
    known = set(terraform.addresses())
    found = {address: made for address, made in sorted(created.items()) if address not in known}
    routes = _destinations(terraform.planned_before()) if any("aws_route." in one for one in found) else {}
    blocks = {}
    for address, (kind, made) in found.items():
        identity = _route(made, routes.get(address)) if kind == "aws_route" else made
        if identity and kind not in _PUT_AGAIN | _UNKNOWN_ID:
            blocks[address] = f"import {{\n  to = {address}\n  id = {json.dumps(identity)}\n}}\n"
    if blocks:
        (terraform.folder / _FILE).write_text("\n".join(blocks.values()), encoding="utf-8")
    return sorted(blocks)


def forget_adopted(folder: Path) -> None:
    """Removes the import blocks: they were done, or cannot be."""
    (folder / _FILE).unlink(missing_ok=True)


def _created(log: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Address → kind and id of what the log says was made."""
    if not log.exists():
        return
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the line that it was killed in
        if event.get("type") == "apply_complete" and event["hook"].get("action") == "create":
            resource = event["hook"]["resource"]
            if made := event["hook"].get("id_value"):
                yield str(resource["addr"]), (str(resource["resource_type"]), str(made))


def _destinations(plan: Mapping[str, Any]) -> dict[str, str]:
    changes: Iterable[Mapping[str, Any]] = plan.get("resource_changes", [])
    found = {}
    for one in changes:
        after = one["change"].get("after") or {}
        if one["type"] == "aws_route":
            found[str(one["address"])] = str(
                after.get("destination_cidr_block") or after.get("destination_ipv6_cidr_block")
            )
    return found


def _route(made: str, destination: str | None) -> str | None:
    table = _ROUTE.match(made)
    return f"{table[1]}_{destination}" if table and destination else None
