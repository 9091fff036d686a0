"""`/generate`: the plainest form, a prompt in and its continuation out, as one JSON object.

`{"prompt", "max_tokens": 512, "temperature": 0.8, "top_p": 0.95}` → `{"response", "tokens_generated"}`. The prompt is
continued as it is, without a chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from nexus_llm.serve.answers import WholeChoice, Writer, compact
from nexus_llm.serve.dialects.conversion import answer, converted
from nexus_llm.serve.generation import ChoiceDelta, Usage
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.request_parts import Body, Support, Text
from nexus_llm.serve.requests import CompletionRequest
from nexus_llm.serve.responses import GenerationResponse


class GenerateRequest(Body):
    prompt: Text
    max_tokens: Annotated[int, Field(ge=1)] = 512
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    stream: bool | None = None
    """Events instead of one object; the last one has `tokens_generated`."""

    def completion_request(self, model: str) -> CompletionRequest:
        Support().judge(self)
        fields = {**self.model_dump(include=set(GenerateRequest.model_fields)), "model": model}
        return converted(CompletionRequest, fields)


class GenerateWriter(Writer):
    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        return compact({"response": choices[0].text, "tokens_generated": usage.completion_tokens}).encode()

    def chunks(self, news: Sequence[ChoiceDelta]) -> bytes:
        return "".join(_data({"response": one.delta.text}) for one in news if one.delta.text).encode()

    def closing(self, usage: Usage) -> bytes:
        return _data({"response": "", "tokens_generated": usage.completion_tokens}).encode()


async def generate_answer(body: GenerateRequest, generator: Generator) -> GenerationResponse:
    return await answer(generator, body.completion_request(generator.model.name), lambda _: GenerateWriter())


def _data(document: dict[str, object]) -> str:
    return f"data: {compact(document)}\n\n"
