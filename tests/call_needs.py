"""Which permissions a call to AWS asks for: pure functions over calls that were recorded.

Mostly `prefix:Operation` on the resources that the parameters name. What differs stands in the tables below; what each
action can be restricted to comes from AWS' Service Authorization Reference (`iam_actions.json`, with its date).
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nexus_llm.deploy.authorization import Need, Reference

# Operations whose action has another name. Source: Service Authorization Reference (list_amazons3.html,
# list_awsbudgetservice.html) and "Required permissions for Amazon S3 API operations" in the S3 user guide, read
# 2026-11. An empty value: AWS asks nothing (GetCallerIdentity answers even whom everything is denied, STS reference).
ACTIONS: Mapping[str, tuple[str, ...]] = {
    "budgets:CreateBudget": ("budgets:ModifyBudget",),
    "budgets:CreateNotification": ("budgets:ModifyBudget",),
    "budgets:CreateSubscriber": ("budgets:ModifyBudget",),
    "budgets:DeleteBudget": ("budgets:ModifyBudget",),
    "budgets:DeleteNotification": ("budgets:ModifyBudget",),
    "budgets:DescribeBudget": ("budgets:ViewBudget",),
    "budgets:DescribeBudgets": ("budgets:ViewBudget",),
    "budgets:DescribeNotificationsForBudget": ("budgets:ViewBudget",),
    "budgets:DescribeSubscribersForNotification": ("budgets:ViewBudget",),
    "budgets:UpdateBudget": ("budgets:ModifyBudget",),
    "s3:CompleteMultipartUpload": ("s3:PutObject",),
    "s3:CopyObject": ("s3:GetObject", "s3:PutObject"),
    "s3:CreateMultipartUpload": ("s3:PutObject",),
    "s3:DeleteBucketCors": ("s3:PutBucketCORS",),
    "s3:DeleteBucketEncryption": ("s3:PutEncryptionConfiguration",),
    "s3:DeleteBucketIntelligentTieringConfiguration": ("s3:PutIntelligentTieringConfiguration",),
    "s3:DeleteBucketLifecycle": ("s3:PutLifecycleConfiguration",),
    "s3:DeleteBucketOwnershipControls": ("s3:PutBucketOwnershipControls",),
    "s3:DeleteBucketReplication": ("s3:PutReplicationConfiguration",),
    "s3:DeleteBucketTagging": ("s3:PutBucketTagging",),
    "s3:DeleteObjects": ("s3:DeleteObject",),
    "s3:DeletePublicAccessBlock": ("s3:PutBucketPublicAccessBlock",),
    "s3:GetBucketAccelerateConfiguration": ("s3:GetAccelerateConfiguration",),
    "s3:GetBucketCors": ("s3:GetBucketCORS",),
    "s3:GetBucketEncryption": ("s3:GetEncryptionConfiguration",),
    "s3:GetBucketIntelligentTieringConfiguration": ("s3:GetIntelligentTieringConfiguration",),
    "s3:GetBucketLifecycleConfiguration": ("s3:GetLifecycleConfiguration",),
    "s3:GetBucketNotificationConfiguration": ("s3:GetBucketNotification",),
    "s3:GetBucketReplication": ("s3:GetReplicationConfiguration",),
    "s3:GetObjectLockConfiguration": ("s3:GetBucketObjectLockConfiguration",),
    "s3:GetPublicAccessBlock": ("s3:GetBucketPublicAccessBlock",),
    "s3:HeadBucket": ("s3:ListBucket",),
    "s3:HeadObject": ("s3:GetObject",),
    "s3:ListBuckets": ("s3:ListAllMyBuckets",),
    "s3:ListMultipartUploads": ("s3:ListBucketMultipartUploads",),
    "s3:ListObjectVersions": ("s3:ListBucketVersions",),
    "s3:ListObjects": ("s3:ListBucket",),
    "s3:ListObjectsV2": ("s3:ListBucket",),
    "s3:ListParts": ("s3:ListMultipartUploadParts",),
    "s3:PutBucketEncryption": ("s3:PutEncryptionConfiguration",),
    "s3:PutBucketIntelligentTieringConfiguration": ("s3:PutIntelligentTieringConfiguration",),
    "s3:PutBucketLifecycleConfiguration": ("s3:PutLifecycleConfiguration",),
    "s3:PutBucketNotificationConfiguration": ("s3:PutBucketNotification",),
    "s3:PutBucketReplication": ("s3:PutReplicationConfiguration",),
    "s3:PutObjectLockConfiguration": ("s3:PutBucketObjectLockConfiguration",),
    "s3:PutPublicAccessBlock": ("s3:PutBucketPublicAccessBlock",),
    "s3:UploadPart": ("s3:PutObject",),
    "sts:GetCallerIdentity": (),
}
# With a version named, S3 asks for another action (S3 user guide, the same page).
_OF_A_VERSION = {"s3:DeleteObject": "s3:DeleteObjectVersion", "s3:GetObject": "s3:GetObjectVersion"}
# What AWS does with the caller's own permissions while it answers; no request shows it. Buckets of the platform are
# encrypted with its key (S3 user guide, "Using server-side encryption with AWS KMS keys": GenerateDataKey to write,
# Decrypt to read and to complete a multipart upload); the reference lists PutKeyPolicy as a dependent of CreateKey.
_ALSO: Mapping[str, tuple[str, ...]] = {
    "kms:CreateKey": ("kms:PutKeyPolicy",),
    # Dependent actions in the reference: RDS makes the administrator's secret (Aurora user guide, "Password management
    # with Amazon Aurora and AWS Secrets Manager"), encrypts it and the database, and makes the last snapshot.
    "rds:CreateDBCluster": (
        "kms:CreateGrant",
        "kms:Decrypt",
        "kms:GenerateDataKey",
        "secretsmanager:CreateSecret",
        "secretsmanager:TagResource",
    ),
    "rds:DeleteDBCluster": ("rds:CreateDBClusterSnapshot",),
    "s3:GetObject": ("kms:Decrypt",),
    "s3:GetObjectVersion": ("kms:Decrypt",),
    "s3:PutObject": ("kms:Decrypt", "kms:GenerateDataKey"),
    # EC2 Auto Scaling user guide, "Control the use of Amazon EC2 launch templates".
    "autoscaling:CreateAutoScalingGroup": ("ec2:RunInstances",),
}
# Through which services those use the key.
_VIA = {"rds": ("rds", "secretsmanager"), "s3": ("s3",)}
# Roles that a service makes for itself on first use; the caller needs iam:CreateServiceLinkedRole for them. Source:
# Service Authorization Reference (dependent actions), each service's page "Using service-linked roles", read 2026-11.
_LINKED_ROLES: Mapping[str, str] = {
    "application-autoscaling:RegisterScalableTarget": "ecs.application-autoscaling.amazonaws.com",
    "autoscaling:CreateAutoScalingGroup": "autoscaling.amazonaws.com",
    "batch:CreateComputeEnvironment": "batch.amazonaws.com",
    "ecs:CreateCapacityProvider": "ecs.amazonaws.com",
    "ecs:CreateCluster": "ecs.amazonaws.com",
    "ecs:CreateService": "ecs.amazonaws.com",
    "elasticloadbalancing:CreateLoadBalancer": "elasticloadbalancing.amazonaws.com",
    "emr-serverless:CreateApplication": "ops.emr-serverless.amazonaws.com",
    "guardduty:CreateDetector": "guardduty.amazonaws.com",
    "rds:CreateDBCluster": "rds.amazonaws.com",
    "wafv2:PutLoggingConfiguration": "wafv2.amazonaws.com",
}
# Who takes a role where it is not the service that was called; the key is service and last word of the parameter.
_TAKEN_BY: Mapping[tuple[str, str], str] = {
    ("batch", "executionRoleArn"): "ecs-tasks.amazonaws.com",
    ("batch", "jobRoleArn"): "ecs-tasks.amazonaws.com",
    ("ec2", "DeliverLogsPermissionArn"): "vpc-flow-logs.amazonaws.com",
    ("ecs", "executionRoleArn"): "ecs-tasks.amazonaws.com",
    ("ecs", "taskRoleArn"): "ecs-tasks.amazonaws.com",
    ("rds", "MonitoringRoleArn"): "monitoring.rds.amazonaws.com",
}
_TAG_ACTIONS: Mapping[str, str] = {
    "autoscaling": "CreateOrUpdateTags",
    "cloudtrail": "AddTags",
    "ec2": "CreateTags",
    "elasticloadbalancing": "AddTags",
    "rds": "AddTagsToResource",
    "sagemaker": "AddTags",
}
# Parameters that fill a part of an ARN though their names differ from it.
_FILLED_BY: Mapping[str, tuple[str, ...]] = {
    "AlarmName": ("AlarmName", "AlarmNames"),
    "Alias": ("AliasName",),
    "BucketName": ("Bucket",),
    "ClusterName": ("Cluster", "Clusters", "ClusterName"),
    "ClusterParameterGroupName": ("DBClusterParameterGroupName",),
    "ClusterSnapshotName": ("DBClusterSnapshotIdentifier", "FinalDBSnapshotIdentifier"),
    "DbClusterInstanceName": ("DBClusterIdentifier",),
    "DbInstanceName": ("DBInstanceIdentifier",),
    "GroupFriendlyName": ("AutoScalingGroupName",),
    "InstanceProfileNameWithPath": ("InstanceProfileName",),
    "KeyId": ("KeyId", "TargetKeyId"),
    "ObjectName": ("Key",),
    "OidcProviderName": ("Url",),
    "PolicyNameWithPath": ("PolicyName",),
    "RecorderName": ("ConfigurationRecorderName", "ConfigurationRecorderNames"),
    "RepositoryName": ("RepositoryName", "RepositoryNames"),
    "RoleNameWithPath": ("RoleName",),
    "SubnetGroupName": ("DBSubnetGroupName",),
    "TaskDefinitionFamilyName": ("Family",),
    "TopicName": ("Name", "TopicName"),
}
# First word of an id → kind of thing in EC2, for tags that are set later.
_EC2_KINDS: Mapping[str, str] = {
    "acl": "network-acl",
    "eipalloc": "elastic-ip",
    "eni": "network-interface",
    "fl": "vpc-flow-log",
    "i": "instance",
    "igw": "internet-gateway",
    "lt": "launch-template",
    "nat": "natgateway",
    "rtb": "route-table",
    "sg": "security-group",
    "sgr": "security-group-rule",
    "subnet": "subnet",
    "vol": "volume",
    "vpc": "vpc",
    "vpce": "vpc-endpoint",
}
# Kinds whose word in the ARN is not that of the operation that makes them; the topic and the pipeline have none at all.
_KIND_WORDS = {"cluster-pg": "dbclusterparametergroup", "db": "dbinstance", "subgrp": "dbsubnetgroup"}
_WORDLESS = {"codepipeline": "pipeline", "sns": "topic"}
# Load balancers and access points of kinds that the platform does not make; the long name of rules on the default bus.
_NOT_MEANT = re.compile(
    r":(loadbalancer|listener|listener-rule)/(net|gwy)/|:rule/default/|:loadbalancer/[^/]+$|:accesspoint/"
)
_CREATING = re.compile(r"(Create|Put|Register|Request|Run|Start|Submit|Allocate|Authorize|Import)")
_MARKERS = ("nexus-data-",)  # names of jobs that follow from a recipe
_AWS_OWN = ("/aws", "aws-service-role/", "default", "rds!", "token.actions.githubusercontent.com", "NETWORK")
_ROLE = re.compile(r"arn:aws[\w-]*:iam::\d{12}:role/.+")


@dataclass(frozen=True, order=True)
class Call:
    """One request to AWS."""

    service: str
    """The service's prefix in IAM."""
    operation: str
    region: str
    parameters: tuple[tuple[str, str], ...]
    """Path of names without positions (`Tags.Key`) and value, sorted."""

    def values(self, *names: str) -> Iterator[str]:
        """Values of the parameters whose last word is one of `names`, capitals aside; the outermost come first."""
        wanted = {name.lower() for name in names}
        found = [one for one in self.parameters if one[0].rpartition(".")[2].lower() in wanted]
        return (value for _, value in sorted(found, key=lambda one: one[0].count(".")))


def needs(call: Call, reference: Reference, *, account: str) -> list[Need]:
    """The permissions that a call asks for, sorted; none for the few calls that everybody may make.

    Raises:
        UnknownActionError: the reference lacks an action.
    """
    name = f"{call.service}:{call.operation}"
    found: set[Need] = set()
    for plain in ACTIONS.get(name, (name,)):
        action = _OF_A_VERSION[plain] if plain in _OF_A_VERSION and any(call.values("VersionId")) else plain
        found |= {Need(action, one) for one in resources(action, call, reference, account=account)}
        found |= set(_also(action, call, reference, account))
    found |= set(_tagging(call, reference, account)) | set(_passing(call, account))
    if name in _LINKED_ROLES:
        role = f"arn:aws:iam::{account}:role/aws-service-role/{_LINKED_ROLES[name]}/*"
        found.add(Need("iam:CreateServiceLinkedRole", role, ("iam:AWSServiceName", _LINKED_ROLES[name])))
    return sorted(found)


def needs_document(needs: Iterable[Need]) -> dict[str, list[list[str]]]:
    """The other way round, sorted."""
    found: dict[str, list[list[str]]] = defaultdict(list)
    for need in sorted(set(needs)):
        found[need.action].append([need.resource, *(need.condition if need.condition[0] else ())])
    return dict(found)


def general(need: Need, reference: Reference, *, name: str, account: str, regions: Sequence[str]) -> Need:
    """A need of one rehearsal as that of every platform: names become NAME-*, ids and names of jobs become *."""
    key, value = need.condition
    for region in regions:
        value = value.replace(region, "REGION")
    if need.resource == "*":
        return Need(need.action, "*", (key, value))
    known = reference.of(need.action)
    # A recovery point's form has a literal `*` for the account.
    for form in (one.replace(":*:", ":${Account}:") for one in (*known.required, *known.optional)):
        pattern = re.escape(form.replace("${Partition}", "aws"))
        names = re.findall(r"\\\$\\\{(\w+)\\\}", pattern)
        found = re.fullmatch(re.sub(r"\\\$\\\{\w+\\\}", "(.*)", pattern), need.resource)
        if found is None:
            continue
        given = dict(zip(names, found.groups(), strict=True))
        fixed = {"Partition": "aws", "Region": "REGION", "Account": "ACCOUNT"}
        fixed |= {part: given[part] for part in ("Vendor", "ResourceType") if part in given}  # IAM takes no `*` there
        filled = {part: fixed.get(part) or _general_word(word, name, account) for part, word in given.items()}
        arn = form.replace("${Partition}", "aws")
        for part, word in filled.items():
            arn = arn.replace(f"${{{part}}}", word)
        return Need(need.action, arn, (key, value))
    raise AssertionError(f"{need.resource} is of no kind that {need.action} takes")


def resources(action: str, call: Call, reference: Reference, *, account: str) -> list[str]:
    """ARNs of what a call acts on; `*` alone where the action takes no resource or the call names none."""
    known = reference.of(action)
    if action in ("ec2:CreateTags", "ec2:DeleteTags"):
        kinds = {_EC2_KINDS.get(one.partition("-")[0], "*") for one in call.values("ResourceId")}
        return [f"arn:aws:ec2:{call.region}:{account}:{kind}/*" for kind in sorted(kinds)]
    filled = [(_filled(form, call, account), form in known.required) for form in (*known.required, *known.optional)]
    given = {arn for (arn, how), _ in filled if how == "given"}
    if given and "Tag" in action:  # the reference calls every kind of resource required that can be tagged
        return sorted(given)
    found = {arn for (arn, how), is_required in filled if is_required or how}
    if action.startswith("logs:") and "Tag" not in action:
        # "Overview of managing access permissions to your CloudWatch Logs resources", read 2026-11: with `:*` at the
        # end for all actions but those on tags. The reference does not say so.
        found = {re.sub(r"(:log-group:[^:]*)$", r"\1:*", arn) for arn in found}
    return sorted(arn for arn in found if not _NOT_MEANT.search(arn)) or ["*"]


def _also(action: str, call: Call, reference: Reference, account: str) -> Iterator[Need]:
    service = action.partition(":")[0]
    for further in _ALSO.get(action, ()):
        about = call if further.startswith("rds:") else Call("", "", call.region, ())
        via = _VIA.get(service, ()) if further.startswith("kms:") else ()
        conditions = [("kms:ViaService", f"{one}.{call.region}.amazonaws.com") for one in via] or [("", "")]
        for arn in resources(further, about, reference, account=account):
            named = arn.replace(":secret:*", ":secret:rds!*")  # as RDS calls them
            yield from (Need(further, named, one) for one in conditions)


def _tagging(call: Call, reference: Reference, account: str) -> Iterator[Need]:
    """Who tags what he makes needs the action for tagging too, for each kind of thing that is made."""
    words = {word.lower() for path, _ in call.parameters for word in path.split(".")}
    if not words & {"tag", "tags", "taglist", "tagspecification", "tagspecifications"}:
        return
    if not _CREATING.match(call.operation) or call.operation == "CreateTags" or call.service == "s3":
        return
    name = _TAG_ACTIONS.get(call.service, "TagResource")
    if call.service == "iam":
        name = call.operation.replace("Create", "Tag")
    action = f"{call.service}:{name}"
    if action not in reference.actions:
        return  # the service has no such action: creating includes tagging
    known = reference.of(action)
    made = set(call.values("ResourceType")) if call.service == "ec2" else {call.operation.lower()}
    for form in (*known.required, *known.optional):
        kind = _kind(form)
        is_made = kind in made if call.service == "ec2" else any(kind and one.endswith(kind) for one in made)
        arn = _filled(form, call, account)[0]
        if is_made and not _NOT_MEANT.search(arn):
            # EC2 says for which call tags are set: leave to tag what one makes is no leave to tag what is there.
            yield Need(action, arn, ("ec2:CreateAction", call.operation) if call.service == "ec2" else ("", ""))


def _kind(form: str) -> str:
    """`jobqueue` of `arn:${Partition}:batch:${Region}:${Account}:job-queue/${JobQueueName}`; EC2's stay as they are."""
    _, _, service, _, _, rest = form.split(":", 5)
    if service == "ec2":
        return rest.partition("/")[0]
    words = [word for word in re.split(r"[:/]", rest) if word and "$" not in word and word not in ("app", "net", "gwy")]
    if not words:
        return _WORDLESS.get(service, "")
    plain = words[-1].replace("-", "").lower().removesuffix("name")
    return _KIND_WORDS.get(words[-1], plain.removesuffix("s") if len(plain) > 3 else plain)


def _passing(call: Call, account: str) -> Iterator[Need]:
    """Whoever gives a service a role needs leave to pass it (IAM user guide, "Grant a user permissions to pass a
    role to an AWS service", read 2026-11)."""
    if call.service in ("iam", "kms", "sts"):
        if call.operation == "AddRoleToInstanceProfile":
            for role in call.values("RoleName"):
                arn = f"arn:aws:iam::{account}:role/{role}"
                yield Need("iam:PassRole", arn, ("iam:PassedToService", "ec2.amazonaws.com"))
        return
    for path, value in call.parameters:
        word = path.rpartition(".")[2]
        if _ROLE.fullmatch(value) and "principal" not in word.lower() and "aws-service-role" not in value:
            taker = _TAKEN_BY.get((call.service, word), f"{call.service}.amazonaws.com")
            yield Need("iam:PassRole", value, ("iam:PassedToService", taker))


def _filled(form: str, call: Call, account: str) -> tuple[str, str]:
    """An ARN of this form and how the call names it: `given` as an ARN, `named`, or not at all (then parts are `*`)."""
    fixed = form.replace("${Partition}", "aws").replace("${Region}", call.region).replace("${Account}", account)
    pattern = fnmatch.translate(re.sub(r"\$\{\w+\}", "?*", fixed))
    for _, value in call.parameters:
        if value.startswith("arn:") and re.match(pattern, value) and value.count(":") == fixed.count(":"):
            return value, "given"
    values = {part: _value(part, call) for part in re.findall(r"\$\{(\w+)\}", fixed)}
    says_which = any(value for part, value in values.items() if part not in ("Id", "Name", "Scope"))
    return re.sub(r"\$\{(\w+)\}", lambda part: values[part[1]] or "*", fixed), "named" if says_which else ""


def _value(variable: str, call: Call) -> str | None:
    """What a call says for a part of an ARN."""
    names = _FILLED_BY.get(variable, (variable, variable.replace("Name", "")))
    for value in call.values(*names):
        if variable == "ClusterName" and ":cluster/" in value:
            return value.rpartition("/")[2]
        if value and not value.startswith("arn:"):
            return {"Scope": value.lower()}.get(variable, value.removeprefix("alias/").removeprefix("https://"))
    # The thing that is made or changed itself is mostly just called `Name`.
    is_itself = variable.endswith("Name") and variable.removesuffix("Name").lower() in call.operation.lower()
    return next(call.values("Name"), None) if is_itself else None


def _general_word(word: str, name: str, account: str) -> str:
    """What a part of an ARN is for every platform."""
    plain, underscored = name, name.replace("-", "_")
    for marker, general_marker in ((plain, "NAME"), (underscored, "UNDERSCORED")):
        before, found, after = word.partition(marker)
        if found:
            return before + general_marker + (after[0] + "*" if after else "")
    for marker in _MARKERS:
        if word.startswith(marker):
            return f"{marker}*"
    if word.startswith(_AWS_OWN):
        return word.replace(account, "ACCOUNT")
    return "*"
