"""The OpenAPI document is true: whatever it allows is answered as it says, and never with a fault of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import ServedModel
from running_server import RunningServer, running_server

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = 8
"""Requests of each kind and route: more find no more, and each takes 20 ms."""


@pytest.fixture(scope="module")
def server(echo_model: ServedModel) -> Iterator[RunningServer]:
    recipe = ServeRecipe(max_new_tokens=8)
    with running_server(echo_model, EngineCommand("fake", {"end_token_id": 2}), recipe=recipe) as one:
        yield one


@pytest.fixture(scope="module")
def api(server: RunningServer) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_route_keeps_to_its_description(api: schemathesis.BaseSchema, mode: GenerationMode) -> None:
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps_to_it(case: schemathesis.Case) -> None:
            answer = case.call(timeout=10)
            assert answer.status_code < 500, answer.text
            case.validate_response(answer, checks=checks)

        if mode is GenerationMode.POSITIVE or operation.body:
            keeps_to_it()


def test_the_api_page_names_every_error_code_and_route(api: schemathesis.BaseSchema) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    sources = (ROOT / "src" / "nexus_llm" / "serve").rglob("*.py")
    # What `nexus deploy` and a server say to one another is nothing for clients.
    told = {
        code for path in sources if path.name != "rollout.py" for code in re.findall(r'code="(\w+)"', path.read_text())
    }
    assert {code for code in told if f"`{code}`" not in page} == set()
    assert {path for path in api.raw_schema["paths"] if path.replace("{name}", "{id}") not in page} == set()


def test_all_routes_are_described_with_their_answers_and_errors(
    server: RunningServer, api: schemathesis.BaseSchema
) -> None:
    document = api.raw_schema
    assert {
        "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
        "/generate", "/v1/models", "/v1/models/{name}", "/health", "/ready", "/metrics",
    } <= set(document["paths"])  # fmt: skip
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert "422" not in operation["responses"], path
            assert operation["responses"]["200"]["content"], path
            assert "$ref" in str(operation["responses"]["400"]["content"]), path
