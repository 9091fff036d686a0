"""What is known after a kill at any moment, and what the receipt refuses to call an end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.deploy.ledger import Condition, Entry, Event, Ledger, condition
from nexus_llm.deploy.receipt import Leftover, Receipt
from nexus_llm.deploy.stack import STAGES, Deployment, backend, chosen, ready, variables
from nexus_llm.errors import LeftoversError, UsageError

APPLY = [Entry("2026-11-22T10:00:00+00:00", "1-platform", "apply", event) for event in Event]
HERE = Deployment("nexus-small", "small", "123456789012", "eu-central-1", ("eu-central-1a", "eu-central-1b"))


@given(cut=st.integers(min_value=0), length=st.integers(1, 3))
def test_a_ledger_that_was_torn_anywhere_still_tells_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, length: int
) -> None:
    file = tmp_path_factory.mktemp("torn") / "ledger.jsonl"
    for entry in APPLY[:length]:
        Ledger(file).write(entry)
    whole = file.read_bytes()
    file.write_bytes(whole[: cut % (len(whole) + 1)])
    kept = Ledger(file).entries()
    assert kept == APPLY[: len(kept)]
    Ledger(file).write(APPLY[-1])  # what comes after a torn line is not swallowed by it
    assert Ledger(file).entries() == [*kept, APPLY[-1]]


def test_a_stage_is_half_made_from_the_intent_until_the_end() -> None:
    intent, running, done, failed = APPLY
    assert condition([], "1-platform") is Condition.NOT_MADE
    assert condition([intent], "1-platform") is Condition.HALF_MADE
    assert condition([intent, running], "1-platform") is Condition.HALF_MADE
    assert condition([intent, running, failed], "1-platform") is Condition.HALF_MADE
    assert condition([intent, running, done], "1-platform") is Condition.MADE
    gone = Entry("2026-11-22T11:00:00+00:00", "1-platform", "destroy", Event.INTENT)
    assert condition([intent, running, done, gone], "1-platform") is Condition.HALF_TAKEN_DOWN


def test_looking_at_a_stage_does_not_make_it_half_made() -> None:
    looked = Entry("2026-11-22T11:00:00+00:00", "1-platform", "plan", Event.RUNNING, "host", 4711)
    assert condition([APPLY[2], looked], "1-platform") is Condition.MADE
    assert condition([looked], "1-platform") is Condition.NOT_MADE


def test_only_an_account_with_nothing_left_is_an_end() -> None:
    def receipt(*left: Leftover, not_asked: tuple[str, ...] = ()) -> Receipt:
        key = Leftover("KMS key", "arn:key", 0.0, "gone on 2026-12-22")
        return Receipt("nexus-small", "123456789012", "eu-central-1", {"0-state": 9}, {}, left, (key,), not_asked)

    receipt().refuse_leftovers()
    assert "nothing is left" in receipt().lines()
    nat, unknown = Leftover("NAT gateway", "nat-1", 0.045), Leftover("SageMaker endpoint", "arn:e", None)
    with pytest.raises(
        LeftoversError, match=r"2 things .* at least 0.0450 USD an hour, NAT gateway nat-1 first"
    ) as told:
        receipt(unknown, nat).refuse_leftovers()
    assert told.value.exit_code == 7
    with pytest.raises(LeftoversError, match="1 services did not answer"):
        receipt(not_asked=("rds:DescribeDBInstances in eu-central-1: not allowed",)).refuse_leftovers()


def test_a_stage_is_refused_before_what_it_builds_on() -> None:
    serving = STAGES[2]
    assert serving.needs == ("0-state", "1-platform")
    with pytest.raises(UsageError, match="2-serving builds on 1-platform"):
        ready(serving, {"0-state"})
    ready(serving, {"0-state", "1-platform"})
    with pytest.raises(UsageError, match="there is no stage 'platform'"):
        chosen(["platform"], with_variables=())


def test_each_stage_is_told_only_what_it_asks_for_and_keeps_its_own_state() -> None:
    told = variables(STAGES[1], HERE, Path("/runs/nexus-small"))
    assert told == {
        "name": "nexus-small",
        "account_id": "123456789012",
        "region": "eu-central-1",
        "availability_zones": ["eu-central-1a", "eu-central-1b"],
    }
    files = variables(STAGES[3], HERE, Path("/runs/nexus-small"))
    assert files == {
        "platform_file": "/runs/nexus-small/platform.json",
        "serving_file": "/runs/nexus-small/serving.json",
    }
    state = {"bucket": "b", "region": "eu-central-1", "kms_key_arn": "k"}
    assert backend(STAGES[0], state) == {}
    keys = [backend(one, state)["key"] for one in STAGES[1:]]
    assert keys == ["1-platform.tfstate", "2-serving.tfstate", "3-delivery.tfstate"]


def test_the_variables_that_are_told_are_those_that_the_stages_declare() -> None:
    infra = Path(__file__).parent.parent.parent / "infra" / "stages"
    for stage in STAGES:
        declared = (infra / stage.name / "variables.tf").read_text()
        told = [*variables(stage, HERE, Path("x")), *stage.asks]
        assert [one for one in told if f'variable "{one}"' not in declared] == []
        handed_on = (infra / stage.name / "outputs.tf").read_text()
        assert [one for one in stage.hands_on if f'output "{one}"' not in handed_on] == []
