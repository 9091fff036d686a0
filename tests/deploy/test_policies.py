"""The policies that ship: what was heard and nothing else, in IAM's grammar, each action needed."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from call_needs import Call, general, needs, needs_document
from nexus_llm.deploy.authorization import Action, Need, Reference, UnknownActionError
from nexus_llm.deploy.policies import (
    Place,
    Recordings,
    Role,
    documents,
    needs_of,
    place_needs,
    recordings,
    wide_actions,
)
from nexus_llm.deploy.policy_evaluation import is_allowed, listed, missing
from nexus_llm.errors import UsageError

HEARD = recordings()
PLACE = Place("nexus-small", "123456789012", ("eu-central-1",))
RECORDED = [name for name, one in HEARD.roles.items() if one.needs]


def context(**other: str) -> dict[str, str]:
    """What a request of this platform brings along."""
    own = {
        "aws:RequestedRegion": "eu-central-1",
        "aws:ResourceTag/platform": PLACE.name,
        "iam:PermissionsBoundary": f"arn:aws:iam::{PLACE.account}:policy/{PLACE.name}-boundary",
    }
    return own | {name.replace("__", ":").replace("_in_", "/"): value for name, value in other.items()}


def statements(role: str) -> list[dict[str, Any]]:
    return [statement for document in documents(role, HEARD, PLACE) for statement in document["Statement"]]


def test_jobs_and_the_platform_were_recorded() -> None:
    assert {"jobs", "up"} <= set(RECORDED)


@pytest.mark.parametrize("role", RECORDED)
def test_a_role_may_do_what_was_heard_and_nothing_else(role: str) -> None:
    made = documents(role, HEARD, PLACE)
    heard = place_needs(HEARD.roles[role].needs, PLACE)
    assert missing(made, heard, context()) == []
    allowed = {action for one in statements(role) for action in listed(one["Action"])}
    assert allowed == {need.action for need in heard}


@pytest.mark.parametrize("role", RECORDED)
def test_without_any_one_action_something_that_was_heard_is_refused(role: str) -> None:
    heard = place_needs(HEARD.roles[role].needs, PLACE)
    found = statements(role)
    for action in sorted({need.action for need in heard}):
        without = [one | {"Action": [a for a in listed(one["Action"]) if a != action]} for one in found]
        own = [need for need in heard if need.action == action]
        assert missing([{"Statement": without}], own, context()) == sorted(own), action


@pytest.mark.parametrize("role", RECORDED)
def test_every_policy_is_of_iams_grammar_and_size(role: str) -> None:
    made = documents(role, HEARD, PLACE)
    assert len(made) <= 10  # IAM quotas, read 2026-11
    for document in made:
        assert set(document) == {"Version", "Statement"}
        assert document["Version"] == "2012-10-17"
        assert len(re.sub(r"\s", "", json.dumps(document))) <= 6_144
        names = [one["Sid"] for one in document["Statement"]]
        assert len(names) == len(set(names))
        for one in document["Statement"]:
            assert set(one) - {"Condition"} == {"Sid", "Effect", "Action", "Resource"}
            assert re.fullmatch(r"[A-Za-z0-9]+", one["Sid"])
            assert all(re.fullmatch(r"[a-z0-9-]+:[A-Z][A-Za-z0-9]+", action) for action in listed(one["Action"]))
            for arn in listed(one["Resource"]):
                assert arn == "*" or re.fullmatch(r"arn:aws:[a-z0-9-]+:[a-z0-9-]*:(\d{12})?:.+", arn), arn
                assert not re.search(r"NAME|ACCOUNT|REGION|UNDERSCORED|rehearsal|\$", arn), arn


@pytest.mark.parametrize("role", RECORDED)
def test_nothing_is_allowed_on_everything_without_a_written_reason(role: str) -> None:
    wide = {action for one in statements(role) if "*" in listed(one["Resource"]) for action in listed(one["Action"])}
    reasons = wide_actions(role, HEARD)
    assert wide == set(reasons)
    assert [action for action, reason in reasons.items() if not reason] == []


def test_an_action_that_could_be_narrower_gives_no_reason() -> None:
    narrow = Reference({"glue:GetJob": Action(required=("arn:${Partition}:glue:${Region}:${Account}:job/${JobName}",))})
    heard = Recordings({}, {"one": Role("one", (Need("glue:GetJob", "*"),), ())}, narrow)
    assert wide_actions("one", heard) == {"glue:GetJob": ""}


@pytest.mark.parametrize("role", RECORDED)
def test_roles_are_passed_only_to_the_services_that_were_given_them(role: str) -> None:
    for one in statements(role):
        if "iam:PassRole" in listed(one["Action"]):
            assert listed(one["Action"]) == ["iam:PassRole"]
            assert set(one["Condition"]["StringEquals"]) == {"iam:PassedToService"}
            assert one["Resource"] == f"arn:aws:iam::{PLACE.account}:role/{PLACE.name}-*"


def test_who_makes_roles_makes_them_below_the_ceiling_only() -> None:
    made = documents("up", HEARD, PLACE)
    role = f"arn:aws:iam::{PLACE.account}:role/{PLACE.name}-*"
    for action in ("iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy"):
        assert is_allowed(made, Need(action, role), context())
        assert not is_allowed(made, Need(action, role), context(iam__PermissionsBoundary="")), action
    forbidden = ("iam:DeleteRolePermissionsBoundary", "iam:CreatePolicyVersion", "iam:CreateUser")
    assert not any(is_allowed(made, Need(action, "*"), context()) for action in forbidden)


def test_what_is_somebody_elses_is_neither_deleted_nor_decrypted() -> None:
    theirs = context(aws__ResourceTag_in_platform="theirs")
    key = f"arn:aws:kms:eu-central-1:{PLACE.account}:key/*"
    subnet = f"arn:aws:ec2:eu-central-1:{PLACE.account}:subnet/*"
    through_s3 = ("kms:ViaService", "s3.eu-central-1.amazonaws.com")
    for role, need in (
        ("up", Need("kms:ScheduleKeyDeletion", key)),
        ("up", Need("ec2:DeleteSubnet", subnet)),
        ("jobs", Need("kms:Decrypt", key, through_s3)),
    ):
        made = documents(role, HEARD, PLACE)
        assert is_allowed(made, need, context())
        assert not is_allowed(made, need, theirs)
    assert not is_allowed(documents("jobs", HEARD, PLACE), Need("kms:Decrypt", key), context())


def test_what_has_no_resource_is_kept_to_the_regions() -> None:
    made, asked = documents("up", HEARD, PLACE), Need("ec2:DescribeVpcs", "*")
    assert is_allowed(made, asked, context())
    assert not is_allowed(made, asked, context(aws__RequestedRegion="us-east-1"))


def test_two_regions_and_no_account_are_possible() -> None:
    both = documents("up", HEARD, Place("nexus-a", "123456789012", ("eu-central-1", "eu-west-1")))
    assert is_allowed(both, Need("sns:CreateTopic", "arn:aws:sns:eu-west-1:123456789012:nexus-a-*"), {})
    anywhere = documents("jobs", HEARD, Place("nexus-a"))
    assert is_allowed(anywhere, Need("batch:DescribeJobs", "*"), {"aws:RequestedRegion": "mars-1"})
    assert "arn:aws:sagemaker:*:*:training-job/*" in json.dumps(anywhere)


def test_a_role_that_nobody_knows_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(UsageError, match="no role 'boss'"):
        documents("boss", HEARD, PLACE)


def test_a_statement_that_is_too_large_is_split_and_loses_nothing() -> None:
    actions = {f"glue:Get{'X' * 60}{number}": Action() for number in range(300)}
    needed = tuple(Need(action, "*") for action in actions)
    made = documents("one", Recordings({}, {"one": Role("one", needed, ())}, Reference(actions)), PLACE)
    assert len(made) > 1
    assert all(len(json.dumps(one, separators=(",", ":"))) <= 6_144 for one in made)
    assert missing(made, needed, context()) == []


def test_recordings_survive_being_written() -> None:
    needed = list(HEARD.roles["jobs"].needs)
    assert needs_of(json.loads(json.dumps(needs_document(needed)))) == sorted(needed)


# Which permissions a call asks for.


def call(service: str, operation: str, **parameters: str) -> Call:
    return Call(service, operation, "eu-central-1", tuple(sorted(parameters.items())))


def asked(one: Call) -> set[tuple[str, ...]]:
    found = needs(one, HEARD.reference, account="123456789012")
    return {(need.action, need.resource, *(need.condition if need.condition[0] else ())) for need in found}


def test_s3_calls_ask_for_the_actions_that_aws_names_and_for_the_key() -> None:
    key = "arn:aws:kms:eu-central-1:123456789012:key/*"
    through = ("kms:ViaService", "s3.eu-central-1.amazonaws.com")
    assert asked(call("s3", "ListObjectsV2", Bucket="b")) == {("s3:ListBucket", "arn:aws:s3:::b")}
    assert asked(call("s3", "HeadObject", Bucket="b", Key="a/c")) == {
        ("s3:GetObject", "arn:aws:s3:::b/a/c"),
        ("kms:Decrypt", key, *through),
    }
    assert asked(call("s3", "UploadPart", Bucket="b", Key="a")) >= {
        ("s3:PutObject", "arn:aws:s3:::b/a"),
        ("kms:GenerateDataKey", key, *through),
    }


def test_a_role_that_is_handed_on_asks_for_leave_to_pass_it() -> None:
    role = "arn:aws:iam::123456789012:role/nexus-glue"
    assert ("iam:PassRole", role, "iam:PassedToService", "glue.amazonaws.com") in asked(
        call("glue", "CreateJob", Name="j", Role=role)
    )
    machine = ("iam:PassRole", role, "iam:PassedToService", "ec2.amazonaws.com")
    assert machine in asked(call("iam", "AddRoleToInstanceProfile", RoleName="nexus-glue", InstanceProfileName="p"))


def test_tagging_what_one_makes_is_no_leave_to_tag_what_is_there() -> None:
    made = asked(call("ec2", "CreateVpc", **{"TagSpecification.ResourceType": "vpc", "TagSpecification.Tag.Key": "a"}))
    vpc = "arn:aws:ec2:eu-central-1:123456789012:vpc/*"
    assert made == {("ec2:CreateVpc", vpc), ("ec2:CreateTags", vpc, "ec2:CreateAction", "CreateVpc")}


def test_everybody_may_ask_who_he_is() -> None:
    assert asked(call("sts", "GetCallerIdentity")) == set()


def test_an_action_that_the_reference_lacks_is_an_error_and_no_guess() -> None:
    with pytest.raises(UnknownActionError, match="glue:InventJob"):
        asked(call("glue", "InventJob"))


def test_names_of_a_rehearsal_become_those_of_every_platform() -> None:
    form = "arn:${Partition}:glue:${Region}:${Account}:job/${JobName}"
    reference = Reference({"glue:GetJob": Action(required=(form,))})
    for name, expected in (("demo-data", "NAME-*"), ("demo", "NAME"), ("else", "*"), ("nexus-data-x", "nexus-data-*")):
        need = Need("glue:GetJob", f"arn:aws:glue:eu-central-1:123456789012:job/{name.replace('demo', 'nexus-r')}")
        found = general(need, reference, name="nexus-r", account="123456789012", regions=("eu-central-1",))
        assert found.resource == f"arn:aws:glue:REGION:ACCOUNT:job/{expected}"


# The evaluation itself.

ANY = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


def test_a_denial_wins_and_nothing_is_allowed_by_itself() -> None:
    need = Need("s3:GetObject", "arn:aws:s3:::b/k")
    denied = {"Effect": "Deny", "Action": "S3:getobject", "Resource": "arn:aws:s3:::b/*"}
    assert is_allowed([{"Statement": ANY}], need, {})
    assert not is_allowed([{"Statement": [ANY, denied]}], need, {})
    assert not is_allowed([], need, {})


def test_what_is_not_named_by_notaction_is_meant() -> None:
    other = {"Effect": "Allow", "NotAction": ["s3:*"], "Resource": "*"}
    assert is_allowed([{"Statement": [other]}], Need("glue:GetJob", "*"), {})
    assert not is_allowed([{"Statement": [other]}], Need("s3:GetObject", "*"), {})


def test_a_need_of_all_is_not_met_by_leave_for_some() -> None:
    some = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/one"}
    assert not is_allowed([{"Statement": [some]}], Need("s3:GetObject", "arn:aws:s3:::b/*"), {})


@pytest.mark.parametrize(
    ("operator", "value", "holds"),
    [
        ("StringEquals", "eu-central-1", True),
        ("StringEquals", ["a", "b"], False),
        ("StringNotEquals", "a", True),
        ("StringLike", "eu-*", True),
        ("StringLike", "us-*", False),
    ],
)
def test_conditions_hold_or_do_not(operator: str, value: Any, holds: bool) -> None:
    kept = ANY | {"Condition": {operator: {"aws:RequestedRegion": value}}}
    assert is_allowed([{"Statement": [kept]}], Need("s3:GetObject", "*"), context()) is holds


def test_an_operator_or_a_word_that_is_not_known_is_no_silent_yes() -> None:
    for odd in ({"Condition": {"DateLessThan": {"aws:CurrentTime": "2030"}}}, {"Principal": "*"}):
        with pytest.raises(UsageError, match=r"DateLessThan|Principal"):
            is_allowed([{"Statement": [ANY | odd]}], Need("s3:GetObject", "*"), {})
