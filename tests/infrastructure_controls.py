"""What must hold for every resource of the platform, as pure functions: resources in, violations out.

A resource is one entry of Terraform's JSON (`address`, `type`, `values`), of a plan or of a state. In a plan much is
not known yet, keys' ARNs above all; a state made with a mocked provider knows everything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nexus_llm.deploy.authorization import Need
from nexus_llm.deploy.policy_evaluation import is_allowed

Resource = Mapping[str, Any]

# Where each kind of resource that keeps something names its key.
KEYS: Mapping[str, Callable[[Mapping[str, Any]], Iterable[Any]]] = {
    "aws_athena_workgroup": lambda v: [
        v["configuration"][0]["result_configuration"][0]["encryption_configuration"][0]["kms_key_arn"]
    ],
    "aws_backup_vault": lambda v: [v["kms_key_arn"]],
    "aws_cloudtrail": lambda v: [v["kms_key_id"]],
    "aws_cloudwatch_log_group": lambda v: [v["kms_key_id"]],
    "aws_config_delivery_channel": lambda v: [v["s3_kms_key_arn"]],
    "aws_ecr_repository": lambda v: [v["encryption_configuration"][0]["kms_key"]],
    "aws_glue_job": lambda v: [v["security_configuration"]],
    "aws_glue_security_configuration": lambda v: [
        block[0]["kms_key_arn"] for block in v["encryption_configuration"][0].values()
    ],
    "aws_launch_template": lambda v: [
        disk["ebs"][0]["encrypted"] in (True, "true") and disk["ebs"][0]["kms_key_id"]
        for disk in v["block_device_mappings"]
    ],
    "aws_scheduler_schedule": lambda v: [v["kms_key_arn"]],
    "aws_sns_topic": lambda v: [v["kms_master_key_id"]],
}
# Kinds that keep nothing of ours, or whose encryption is another resource of the list above. A kind that stands in
# neither list is a violation: somebody has to decide.
KEEPS_NOTHING = re.compile(
    r"aws_(backup_(plan|selection|vault_lock_configuration|vault_notifications)|batch_.*|budgets_budget|ce_.*"
    r"|cloudwatch_(event_rule|event_target|log_metric_filter|metric_alarm)|config_(config_rule|configuration_recorder.*)"
    r"|default_security_group|ecr_lifecycle_policy|eip|emrserverless_application|flow_log"
    r"|glue_(catalog_database|connection|data_catalog_encryption_settings)|guardduty_detector|iam_.*|instance"
    r"|internet_gateway|kms_.*|nat_gateway|network_acl.*|route.*|s3_bucket.*|sagemaker_.*|security_group|sns_topic_.*"
    r"|subnet|vpc.*)"
)
# S3 and load balancers deliver access logs only to a bucket that S3 encrypts with its own keys.
OWN_KEYS_OF_S3 = re.compile(r"-logs-\d{12}$")


def clear_text(resources: Iterable[Resource]) -> list[str]:
    """Buckets and topics that do not deny requests without TLS."""
    resources = list(resources)
    closed = {
        resource["values"].get("bucket") or resource["values"].get("arn")
        for resource in resources
        if resource["type"] in ("aws_s3_bucket_policy", "aws_sns_topic_policy") and _denies_clear_text(resource)
    }
    named = {"aws_s3_bucket": "bucket", "aws_sns_topic": "arn"}
    return [
        f"{resource['address']} answers without TLS"
        for resource in resources
        if resource["type"] in named and resource["values"].get(named[resource["type"]]) not in closed
    ]


def unencrypted(resources: Iterable[Resource]) -> list[str]:
    """Resources that keep something without a key of ours, and kinds of which nobody decided whether they do."""
    resources = list(resources)
    rules = {
        resource["values"]["bucket"]: resource["values"]["rule"][0]["apply_server_side_encryption_by_default"][0]
        for resource in resources
        if resource["type"] == "aws_s3_bucket_server_side_encryption_configuration"
    }
    found = []
    for resource in resources:
        kind, values = resource["type"], resource["values"]
        if kind == "aws_s3_bucket":
            rule = rules.get(values["bucket"], {})
            if not rule.get("kms_master_key_id") and not OWN_KEYS_OF_S3.search(values["bucket"]):
                found.append(f"{resource['address']} is not encrypted with our key")
        elif kind in KEYS:
            keys = list(KEYS[kind](values))
            if not keys or not all(keys):
                found.append(f"{resource['address']} is not encrypted with our key")
        elif not KEEPS_NOTHING.fullmatch(kind):
            found.append(f"{resource['address']}: nobody decided whether a {kind} keeps something")
    return found


def public(resources: Iterable[Resource]) -> list[str]:
    """What somebody outside the account or the network could reach."""
    resources = list(resources)
    blocks = {
        resource["values"]["bucket"]: resource["values"]
        for resource in resources
        if resource["type"] == "aws_s3_bucket_public_access_block"
    }
    switches = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    found = []
    for resource in resources:
        kind, values, address = resource["type"], resource["values"], resource["address"]
        if kind == "aws_s3_bucket" and not all(blocks.get(values["bucket"], {}).get(one) for one in switches):
            found.append(f"{address} is not closed to the public")
        if kind == "aws_subnet" and values["map_public_ip_on_launch"]:
            found.append(f"{address} gives public addresses")
        if kind == "aws_instance" and values["associate_public_ip_address"]:
            found.append(f"{address} has a public address")
        if kind == "aws_vpc_security_group_ingress_rule" and {"0.0.0.0/0", "::/0"} & {
            values.get("cidr_ipv4"),
            values.get("cidr_ipv6"),
        }:
            found.append(f"{address} lets everybody in")
        found += [
            f"{address} allows everybody: {statement.get('Sid')}"
            for statement in statements(resource)
            if statement["Effect"] == "Allow" and _is_everybody(statement) and not statement.get("Condition")
        ]
    return found


def unexplained_wildcards(resources: Iterable[Resource], explained: Iterable[str]) -> list[str]:
    """Statements of identity policies that allow every action or every resource and whose Sid has no written reason."""
    explained = set(explained)
    found = []
    for resource in resources:
        if resource["type"] not in ("aws_iam_role_policy", "aws_iam_policy"):
            continue
        for statement in statements(resource):
            words = [*_many(statement.get("Action", "*")), *_many(statement.get("Resource", "*"))]
            is_wide = any(word == "*" or (word.endswith(":*") and word.count(":") == 1) for word in words)
            if statement["Effect"] == "Allow" and is_wide and statement.get("Sid") not in explained:
                found.append(f"{resource['address']}: {statement.get('Sid')} is wide without a reason")
    return found


def confused_deputies(resources: Iterable[Resource]) -> list[str]:
    """Roles that a service could assume for another customer. EC2 has no such key: a machine has only its own role."""
    return [
        f"{resource['address']} does not say for which account {service} may assume it"
        for resource in resources
        if resource["type"] == "aws_iam_role"
        for statement in statements(resource)
        for service in _many(statement["Principal"].get("Service", []))
        if service != "ec2.amazonaws.com" and "aws:Source" not in json.dumps(statement.get("Condition", {}))
    ]


def roles_above_the_ceiling(resources: Iterable[Resource]) -> list[str]:
    """Roles without a permissions boundary."""
    return [
        f"{resource['address']} has no boundary"
        for resource in resources
        if resource["type"] == "aws_iam_role" and not resource["values"].get("permissions_boundary")
    ]


def above_the_ceiling(resources: Iterable[Resource], ceiling: Mapping[str, Any], *, region: str) -> list[str]:
    """Actions that an identity policy grants and the permissions boundary takes away: they would never work."""
    found = []
    for resource in resources:
        if resource["type"] != "aws_iam_role_policy":
            continue
        granted = [one for one in statements(resource) if one["Effect"] == "Allow"]
        found += [
            f"{resource['address']} grants {action}, which the boundary does not"
            for action in sorted({action for one in granted for action in _many(one["Action"])})
            if not is_allowed([ceiling], Need(action, "*"), {"aws:RequestedRegion": region})
        ]
    return found


def ceiling_of(infra: Path, *, regions: Iterable[str]) -> dict[str, Any]:
    """The boundary as its module writes it, without Terraform; a test compares it with what Terraform makes of it."""
    text = (infra / "modules/boundary/policy.tf").read_text(encoding="utf-8")
    blocks = re.findall(r'Sid\s+= "(\w+)"\s+Effect\s+= "(\w+)"\s+(Action|NotAction)\s+= \[(.*?)\]', text, re.DOTALL)
    limit = {"Condition": {"StringNotEquals": {"aws:RequestedRegion": list(regions)}}}
    found = [
        {"Sid": sid, "Effect": effect, kind: re.findall(r'"([^"]+)"', listed), "Resource": "*"}
        | (limit if kind == "NotAction" else {})
        for sid, effect, kind, listed in blocks
    ]
    return {"Version": "2012-10-17", "Statement": found}


def statements(resource: Resource) -> Iterator[dict[str, Any]]:
    """The statements of a resource's policies, as far as they are known."""
    for name in ("policy", "assume_role_policy"):
        text = resource["values"].get(name)
        if isinstance(text, str) and text.startswith("{"):
            yield from json.loads(text).get("Statement", [])


def explained_statements(folder: Path) -> set[str]:
    """Sids of statements in a module's files beside whose wide resource stands a comment `# "*": why`."""
    found = set()
    for file in sorted(folder.glob("*.tf")):
        sid, is_explained = "", False
        for line in file.read_text(encoding="utf-8").splitlines():
            if named := re.search(r'\bSid\s+= "(\w+)"', line):
                sid, is_explained = named[1], False
            is_explained = is_explained or line.strip().startswith('# "*":')
            if re.search(r'\bResource\s+= "\*"', line) and is_explained:
                found.add(sid)
    return found


def _denies_clear_text(resource: Resource) -> bool:
    return any(
        statement["Effect"] == "Deny"
        and _is_everybody(statement)
        and statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") == "false"
        for statement in statements(resource)
    )


def _is_everybody(statement: Mapping[str, Any]) -> bool:
    principal = statement.get("Principal")
    return principal == "*" or (isinstance(principal, dict) and "*" in _many(principal.get("AWS", [])))


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def told_secrets(plan: Mapping[str, Any]) -> list[str]:
    """What a plan would write into the state or hand on though it is a secret: passwords, keys, tokens.

    `plan` is a whole document of `terraform show -json`. Terraform itself refuses an output that is made of a sensitive
    value and not marked so; a marked one would still lie in the state, and in the file that the next stage reads.
    """
    found = []
    for name, change in sorted(plan["output_changes"].items()):
        if change["after_sensitive"] is not False:
            found.append(f"output {name} is marked as a secret")
        for tree in (change.get("after"), change.get("after_unknown")):
            found += [
                f"output {name}{path} may be a secret"
                for path, value in _leaves(tree, "")
                if value not in (None, False) and SECRET.search(path)
            ]
    for change in plan["resource_changes"]:
        after = change["change"]["after"] or {}
        for path, is_sensitive in _leaves(change["change"].get("after_sensitive") or {}, ""):
            if is_sensitive is True and _at(after, path):
                found.append(f"{change['address']}{path} is a secret that the state would hold")
    return found


# Names of values that nobody should be told. What only says where a secret lies ends in arn, and may be told.
SECRET = re.compile(r"(?i)(password|passwd|secret|token|private_key|api_key|credential)(?!\w*_arn)")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(one, f"{path}.{name}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _leaves(one, f"{path}.{number}")
    else:
        yield path, value


def _at(value: Any, path: str) -> Any:
    for step in path.split(".")[1:]:
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = (value or {}).get(step)
    return value
