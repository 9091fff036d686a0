"""The policy of who runs jobs, against the product's own code on an emulated account: enough, and nothing too much."""

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
from permission_rehearsal import ACCOUNT, NAME, REGION, Account, deeds, emulated_account, furnish, surroundings

HEARD = recordings()
PLACE = Place(NAME, ACCOUNT, (REGION,))
CONTEXT = {"aws:RequestedRegion": REGION, "aws:ResourceTag/platform": NAME}
POLICIES = documents("jobs", HEARD, PLACE)
ACTIONS = sorted({need.action for need in HEARD.roles["jobs"].needs})


class Laptop:
    """The product's code on a laptop, and what each deed was heard to ask while only our policies were granted."""

    def __init__(self, account: Account, folder: Path) -> None:
        self.account = account
        self.deeds = deeds(folder)
        self.under(None)
        self.calls = {name: account.deed(deed) for name, deed in self.deeds.items()}

    def under(self, without: str | None) -> None:
        """From now on only what our policies allow is answered, but for one action."""
        made = [
            {
                "Statement": [
                    one | {"Action": [a for a in listed(one["Action"]) if a != without]}
                    for one in document["Statement"]
                ]
            }
            for document in POLICIES
        ]

        def refused(call: Call) -> str | None:
            try:
                asked = needs(call, HEARD.reference, account=ACCOUNT)
            except UnknownActionError:  # what s3fs tries when it was refused: nobody was heard to ask it
                return f"{call.service}:{call.operation}"
            return next((need.action for need in asked if not is_allowed(made, need, CONTEXT)), None)

        self.account.refused = refused

    def first_that_needs(self, action: str) -> str:
        """The deed that asks for an action with the fewest calls."""
        found = [name for name, calls in self.calls.items() if any(action in actions_of(one) for one in calls)]
        return min(found, key=lambda name: len(self.calls[name]))


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


def test_the_policy_is_enough_and_jobs_still_ask_what_was_recorded(laptop: Laptop) -> None:
    # Otherwise: python benchmarks/aws_permissions.py
    found = {
        general(need, HEARD.reference, name=NAME, account=ACCOUNT, regions=(REGION,))
        for calls in laptop.calls.values()
        for call in calls
        for need in needs(call, HEARD.reference, account=ACCOUNT)
    }
    assert sorted(found) == sorted(HEARD.roles["jobs"].needs)


@pytest.mark.parametrize("action", ACTIONS)
def test_without_an_action_a_deed_fails_and_names_it(laptop: Laptop, action: str) -> None:
    laptop.under(action)
    with pytest.raises(NexusError) as failed:
        laptop.account.deed(laptop.deeds[laptop.first_that_needs(action)])
    assert action in f"{failed.value} {failed.value.fix}"
