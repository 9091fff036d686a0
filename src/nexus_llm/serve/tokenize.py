"""`/tokenize`, as vLLM has it: the token ids that this server makes of a conversation or a text. Nothing is generated.

It lets anybody prove that a server reads conversations as its model was trained on them.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field, model_validator

from nexus_llm.serve.generator import Generator
from nexus_llm.serve.request_parts import MAX_TOOLS, ChatMessage, Part, Text, ToolDefinition
from nexus_llm.serve.requests import ChatRequest, CompletionRequest


class TokenizeRequest(Part):
    """`POST /tokenize`: either `messages`, which the chat template is applied to, or `prompt`."""

    model: Text
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    prompt: Text | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> TokenizeRequest:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give messages or prompt")
        return self

    def as_asked(self) -> ChatRequest | CompletionRequest:
        if self.messages is None:
            return CompletionRequest(model=self.model, prompt=self.prompt or "")
        return ChatRequest(model=self.model, messages=self.messages, tools=self.tools)


class TokenizeAnswer(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int


def add_tokenize_route(app: FastAPI, generator: Generator) -> None:
    """`POST /tokenize`."""

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> TokenizeAnswer:
        """Token ids of a conversation or a text."""
        (ids,) = await generator.prompt_token_ids(body.as_asked())
        return TokenizeAnswer(tokens=ids, count=len(ids), max_model_len=generator.model.context_tokens)
