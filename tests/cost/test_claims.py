from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cost_ground import SHIPPED
from nexus_llm.cli.cost_inputs import capacity_model
from nexus_llm.cost.claims import claims_document, claims_page

PAGE = Path(__file__).parents[2] / "docs" / "cost-analysis.md"


@pytest.fixture(scope="module")
def document() -> dict:  # type: ignore[type-arg]
    return claims_document(SHIPPED, *capacity_model(is_quick=True))


def test_the_page_in_the_documentation_is_what_the_command_prints(document: dict) -> None:  # type: ignore[type-arg]
    made = claims_page(document)
    assert PAGE.read_text(encoding="utf-8") == made, "make it again: nexus cost claims > docs/cost-analysis.md"


def test_every_claim_has_a_verdict_and_its_assumptions(document: dict) -> None:  # type: ignore[type-arg]
    assert len(document["claims"]) >= 25
    for claim in document["claims"]:
        assert set(claim) == {"claim", "stated", "computed", "verdict", "assumptions"}
        assert claim["verdict"] in ("holds", "fails", "holds if", "not measured")
        assert claim["assumptions"]


@pytest.mark.parametrize(
    ("claim", "computed", "verdict"),
    [
        ("Development costs", "$1,818 on demand", "holds if"),
        ("Production costs $287", "2 Fargate tasks alone are $340", "fails"),
        ("The commercial API", "$3,300 with gpt-4", "holds if"),
        ("3-year savings", "own figures give $107,771", "fails"),
        ("10M requests cost less than 1M", "→", "fails"),
        ("Trains on The Pile", "0.46% of one epoch", "fails"),
        ("ECS Fargate", "15.0 GiB of weights in 16 GiB; 0.63 s a token", "fails"),
        ("10M requests cost $1,316", "$1,428 with 6 x g6.xlarge spot", "holds if"),  # as the 8B recipe's plan
    ],
)
def test_the_briefs_known_contradictions_are_found(document: dict, claim: str, computed: str, verdict: str) -> None:  # type: ignore[type-arg]
    (found,) = [one for one in document["claims"] if one["claim"].startswith(claim)]
    assert computed in found["computed"]
    assert found["verdict"] == verdict


def test_a_verdict_follows_the_prices() -> None:
    ours = [row for row in SHIPPED.rows.values() if row.service != "api"]

    def verdicts(factor: float) -> dict[str, str]:
        table = SHIPPED.updated(replace(row, usd=row.usd * factor) for row in ours)
        return {
            one["claim"]: one["verdict"] for one in claims_document(table, *capacity_model(is_quick=True))["claims"]
        }

    cheap, dear = verdicts(0.02), verdicts(5.0)
    assert cheap["Monthly savings of $3,014 (91 %)"] == cheap["Break-even 7 days after deployment"] == "holds if"
    assert (
        dear["90 % cheaper than commercial APIs"] == dear["10M requests cost $1,316 a month (reserved EC2)"] == "fails"
    )
