"""The policies of who works from a laptop, against the product's own code on an emulated account: enough, no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("moto.server", reason="needs the dev extra: pip install 'moto[s3]' flask")
pytest.importorskip("s3fs", reason="needs the aws extra: pip install s3fs")

from call_needs import Call, general, needs
from nexus_llm.deploy.authorization import UnknownActionError
from nexus_llm.deploy.policies import Place, documents, recordings
from nexus_llm.deploy.policy_evaluation import is_allowed, listed
from nexus_llm.errors import NexusError
from permission_rehearsal import ACCOUNT, NAME, REGION, Account, deeds_by_role, emulated_account, furnish, surroundings

HEARD = recordings()
PLACE = Place(NAME, ACCOUNT, (REGION,))
CONTEXT = {"aws:RequestedRegion": REGION, "aws:ResourceTag/platform": NAME}
ROLES = ("jobs", "rollout", "recovery")
ACTIONS = [(role, action) for role in ROLES for action in sorted({need.action for need in HEARD.roles[role].needs})]


class Laptop:
    """The product's code on a laptop, and what each deed was heard to ask while only our policies were granted."""

    def __init__(self, account: Account, folder: Path) -> None:
        self.account = account
        self.deeds = deeds_by_role(folder)
        self.calls: dict[str, dict[str, list[Call]]] = {}
        for role, found in self.deeds.items():
            self.under(role, None)
            self.calls[role] = {name: account.deed(deed) for name, deed in found.items()}

    def under(self, role: str, without: str | None) -> None:
        """From now on only what the role's policies allow is answered, but for one action."""
        made = [
            {
                "Statement": [
                    one | {"Action": [a for a in listed(one["Action"]) if a != without]}
                    for one in document["Statement"]
                ]
            }
            for document in documents(role, HEARD, PLACE)
        ]

        def refused(call: Call) -> str | None:
            try:
                asked = needs(call, HEARD.reference, account=ACCOUNT)
            except UnknownActionError:  # what s3fs tries when it was refused: nobody was heard to ask it
                return f"{call.service}:{call.operation}"
            return next((need.action for need in asked if not is_allowed(made, need, CONTEXT)), None)

        self.account.refused = refused

    def first_that_needs(self, role: str, action: str) -> str:
        """The deed that asks for an action with the fewest calls."""
        made = self.calls[role]
        found = [name for name, calls in made.items() if any(action in actions_of(one) for one in calls)]
        return min(found, key=lambda name: len(made[name]))


def actions_of(call: Call) -> set[str]:
    return {need.action for need in needs(call, HEARD.reference, account=ACCOUNT)}


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    with emulated_account() as account, surroundings(account.environment()):
        furnish(account)
        yield Laptop(account, tmp_path_factory.mktemp("laptop"))


@pytest.fixture(autouse=True)
def _everything_is_allowed_again(laptop: Laptop) -> Iterator[None]:
    yield
    laptop.account.refused = lambda call: None


@pytest.mark.parametrize("role", ROLES)
def test_the_policy_is_enough_and_the_deeds_still_ask_what_was_recorded(laptop: Laptop, role: str) -> None:
    # Otherwise: python benchmarks/aws_permissions.py
    found = {
        general(need, HEARD.reference, name=NAME, account=ACCOUNT, regions=(REGION,))
        for calls in laptop.calls[role].values()
        for call in calls
        for need in needs(call, HEARD.reference, account=ACCOUNT)
    }
    assert sorted(found) == sorted(HEARD.roles[role].needs)


@pytest.mark.parametrize(("role", "action"), ACTIONS)
def test_without_an_action_a_deed_fails_and_names_it(laptop: Laptop, role: str, action: str) -> None:
    laptop.under(role, action)
    with pytest.raises(NexusError) as failed:
        laptop.account.deed(laptop.deeds[role][laptop.first_that_needs(role, action)])
    assert action in f"{failed.value} {failed.value.fix}"
