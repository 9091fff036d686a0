"""The `openai` engine: requests go on to another OpenAI-compatible server, whole.

There are no tokens on this side: the upstream has the tokenizer, the template and the sampling. The gateway checks the
request's form, admits it, puts its own model name in place of the upstream's, passes the answer through as it comes,
and reads the usage out of it on the way. A parameter that we do not know goes on as it is; the upstream judges it.

What the upstream does wrong never passes for an answer: a stream that ends without `[DONE]` ends with an error event
here, and its errors come out as ours: only their own messages about the request (4xx) are passed on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nexus_llm.recipe import TimeoutsRecipe
from nexus_llm.serve import api_errors
from nexus_llm.serve.access.caller import Caller, Charge
from nexus_llm.serve.admission import Admission, refusals_told
from nexus_llm.serve.answers import STREAM_END
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.deadlines import current_deadline
from nexus_llm.serve.fair_queue import Ticket
from nexus_llm.serve.generation import Usage
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.presence import WhilePresent
from nexus_llm.serve.responses import EVENT_STREAM_HEADERS, send_body, send_document, send_start
from nexus_llm.serve.telemetry.record import DISCONNECTED, current_record
from nexus_llm.serve.upstream_answers import (
    bad_upstream,
    document_of,
    events,
    explain,
    finish_reasons,
    read_answer,
    said_bytes,
    told_usage,
    unreachable,
)

log = logging.getLogger("nexus_llm.serve.relay")

BYTES_PER_TOKEN = 2  # fewer than in any usual text: a key's tokens are reserved at this rate, and settled later
UNNAMED_ANSWER_TOKENS = 1_024  # reserved where a request does not say how long its answer may be


@dataclass(frozen=True, slots=True)
class Upstream:
    url: str
    """Ends before `/chat/completions`, like `https://api.openai.com/v1`."""
    model: str
    """What the model is called there."""
    key: str | None = None
    """Sent as a bearer token; never logged and never told."""
    timeout_seconds: float = 120.0
    """Between two pieces of an answer."""


class Relay:
    def __init__(
        self,
        upstream: Upstream,
        *,
        served_name: str,
        admission: Admission,
        metrics: ServerMetrics,
        timeouts: TimeoutsRecipe,
    ) -> None:
        self.open_answers = 0
        self.timeouts = timeouts
        self.admission = admission
        self.metrics = metrics
        self._upstream = upstream
        self._served_name = served_name
        headers = {} if upstream.key is None else {"authorization": f"Bearer {upstream.key}"}
        self._client = httpx.AsyncClient(
            base_url=upstream.url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(10, read=upstream.timeout_seconds, pool=None),
            limits=httpx.Limits(max_connections=None),
            follow_redirects=False,  # a key must not follow to another host
        )

    async def is_healthy(self) -> bool:
        """Whether the upstream answers at all; its opinion of the key counts, too."""
        try:
            return (await self._client.get("models")).status_code < 400
        except httpx.HTTPError:
            return False

    async def close(self) -> None:
        await self._client.aclose()

    def respond(self, endpoint: str, body: dict[str, Any], ticket: Ticket) -> RelayResponse:
        """The response to a request that was checked for form; `endpoint` is like `chat/completions`."""
        try:
            if body.get("model") != self._served_name:
                raise api_errors.model_not_found(str(body.get("model")), self._served_name)
            response = RelayResponse(self, endpoint, body, ticket=ticket)
            with refusals_told(self.metrics):
                self.admission.enter(ticket, tokens=response.most_tokens)
        except BaseException:
            self.admission.leave(ticket)
            raise
        return response

    def upstream_request(self, endpoint: str, body: dict[str, Any]) -> httpx.Request:
        """What goes out. Streams always tell their usage: it is counted here, and cut out where nobody asked.

        Raises:
            ApiError: 400, a field that nobody here reads holds what cannot be sent on.
        """
        sent = body | {"model": self._upstream.model}
        if body.get("stream"):
            sent["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
        trace = current_record().trace
        headers = {} if trace is None else {"traceparent": trace.header()}
        try:
            return self._client.build_request("POST", endpoint, json=sent, headers=headers)
        except ValueError:
            raise api_errors.invalid(
                "The body holds half a surrogate pair or a number without end, which JSON cannot say.",
                code="invalid_body",
            ) from None

    async def send(self, request: httpx.Request) -> httpx.Response:
        """The upstream's response, its body not read yet.

        Raises:
            ApiError: it cannot be reached, or answers with an error.
        """
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise unreachable(error) from None
        if response.status_code == 200:
            return response
        try:
            raise await explain(response)
        finally:
            await response.aclose()

    def renamed(self, document: dict[str, Any]) -> dict[str, Any]:
        return document | {"model": self._served_name} if "model" in document else document


class RelayResponse(Response):
    """The answer to one relayed request; `usage` is known once it is over."""

    def __init__(self, relay: Relay, endpoint: str, body: dict[str, Any], *, ticket: Ticket) -> None:
        super().__init__()
        self.usage: Usage | None = None
        self._relay = relay
        self._request = relay.upstream_request(endpoint, body)
        self._is_stream = bool(body.get("stream"))
        self._wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._ticket = ticket
        self._charge: Charge | None = None
        self._prompt_tokens = len(self._request.content) // BYTES_PER_TOKEN
        self._completion_tokens = (
            body.get("max_completion_tokens") or body.get("max_tokens") or UNNAMED_ANSWER_TOKENS
        ) * (body.get("n") or 1)
        self.most_tokens = self._prompt_tokens + self._completion_tokens
        """Of prompt and answers, by a guess."""
        self._said_bytes = 0
        self._has_answered = self._has_started = False
        self._clock = asyncio.get_running_loop().time
        self._arrived_at = self._submitted_at = self._clock()
        self._deadline = current_deadline()
        self._record = current_record()
        self._record.provider = "openai"
        self._record.mark("queued")

    async def reserve(self, caller: Caller, model: str) -> None:
        """Counts the request against its key, by a guess until the upstream tells; gives up its place if it may not."""
        try:
            self._charge = await caller.reserve(
                model=model, prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens
            )
        except BaseException:
            self._relay.admission.leave(self._ticket)
            raise

    def _settle(self) -> None:
        """What the upstream told; else a guess, of a stream from what came of it; nothing before it has answered."""
        if self._charge is None:
            return
        used = self.usage or Usage(0, 0)
        if self.usage is None and self._has_answered:
            said = math.ceil(self._said_bytes / BYTES_PER_TOKEN) if self._is_stream else self._completion_tokens
            used = Usage(self._prompt_tokens, min(said, self._completion_tokens))
        self._charge.settle(
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            is_finished=self.usage is not None,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self._relay.open_answers += 1
        client = WhilePresent(receive)
        try:
            async with client:
                await self._answer(send)
        finally:
            self._relay.admission.leave(self._ticket)
            self._relay.open_answers -= 1
            self._settle()
            self._tell(is_left=client.has_left)

    def _tell(self, *, is_left: bool) -> None:
        self._record.mark("ended")
        if is_left:
            self._record.error_code = DISCONNECTED
        if self.usage is not None:
            self._record.prompt_tokens = self.usage.prompt_tokens
            self._record.completion_tokens = self.usage.completion_tokens

    async def _answer(self, send: Send) -> None:
        try:
            with refusals_told(self._relay.metrics):
                await self._relay.admission.wait(self._ticket)
            self._submitted_at = self._clock()
            self._record.mark("submitted")
            at, phase = self._due()
            try:
                async with asyncio.timeout_at(at) as patience:
                    await self._pass_on(send, patience)
            except TimeoutError:
                phase = "answer" if self._has_started else phase
                self._relay.metrics.timed_out(phase)
                raise api_errors.timed_out(phase) from None
        except ApiError as error:
            # An upstream's own code for a bad request (4xx) is text of its making, and may quote what it refuses.
            code = self._record.error_code = "upstream_refused" if error.status in (400, 413) else error.code
            log.warning("relay.failed", extra={"status": error.status, "code": code})
            if self._has_started:
                await send_body(send, b"data: " + error.body() + b"\n\n", more=False)
            else:
                await send_document(send, error.status, error.body(), headers=error.headers)
            return
        if self.usage is not None:
            metrics = self._relay.metrics
            metrics.prompt_tokens.inc(self.usage.prompt_tokens)
            metrics.generation_tokens.inc(self.usage.completion_tokens)
            metrics.e2e_latency.observe(self._clock() - self._arrived_at)
            metrics.finished("stop")

    def _due(self) -> tuple[float, str]:
        """When patience ends, and with which phase: a whole answer begins with its end."""
        timeouts = self._relay.timeouts
        due = [(self._arrived_at + timeouts.answer_seconds, "answer")]
        if not self._has_started:
            due.append((self._deadline or math.inf, "deadline"))
        if self._is_stream and not self._has_started:
            due.append((self._submitted_at + timeouts.first_token_seconds, "first_token"))
        return min(due)

    async def _pass_on(self, send: Send, patience: asyncio.Timeout) -> None:
        response = await self._relay.send(self._request)
        self._has_answered = True
        try:
            if self._is_stream:
                await self._stream(response, send, patience)
            else:
                await self._whole(response, send)
        except httpx.HTTPError as error:
            raise unreachable(error) from None
        finally:
            await response.aclose()

    async def _whole(self, response: httpx.Response, send: Send) -> None:
        content = await read_answer(response)
        document = document_of(content)
        self.usage = told_usage(document)
        self._record.finish_reasons += finish_reasons(document)
        await send_document(send, 200, json.dumps(self._relay.renamed(document), ensure_ascii=False).encode())

    async def _stream(self, response: httpx.Response, send: Send, patience: asyncio.Timeout) -> None:
        async for event in events(response):
            if event == "[DONE]":
                await send_body(send, STREAM_END, more=False)
                return
            document = document_of(event.encode())
            if "error" in document:
                raise bad_upstream("failed in the middle of its answer")
            usage = told_usage(document)
            self._record.finish_reasons += finish_reasons(document)
            self.usage = usage or self.usage
            self._said_bytes += said_bytes(document)
            if usage is not None and not self._wants_usage:
                if not document.get("choices"):
                    continue
                document.pop("usage")
            if not self._has_started:
                self._relay.metrics.time_to_first_token.observe(self._clock() - self._arrived_at)
                self._record.mark("first_token")
                await send_start(send, 200, EVENT_STREAM_HEADERS)
                self._has_started = True
                patience.reschedule(self._due()[0])
            piece = json.dumps(self._relay.renamed(document), ensure_ascii=False, separators=(",", ":"))
            await send_body(send, f"data: {piece}\n\n".encode(), more=True)
        raise bad_upstream("ended its stream before the answer was whole")
