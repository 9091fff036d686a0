"""The door before all routes: who has no good key gets no further, and no body is read for them."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nexus_llm.serve.access.access import Access
from nexus_llm.serve.access.caller import calling
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.dialects.anthropic_answer import error_body
from nexus_llm.serve.responses import send_document
from nexus_llm.serve.telemetry.record import current_record

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/metrics", "/openapi.json"})
"""What load balancers, Prometheus and browsers ask without a key. Nothing here costs anything or tells of a prompt."""


class AccessGate:
    """Wraps the application of a gateway that has keys."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._access.authenticate(sent_key(scope))
            scope["nexus_key_id"] = caller.key_id  # for the log line
            caller.check_endpoint(scope["path"])
            if scope["method"] == "POST" and not scope["path"].startswith("/admin"):
                self._access.check_not_full(caller)
        except ApiError as error:
            current_record().error_code = error.code
            await send_document(send, error.status, error_body(error, path=scope["path"]), headers=error.headers)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and caller.headers:
                raw = [(name.encode(), value.encode()) for name, value in caller.headers.items()]
                message["headers"] = [*message.get("headers", []), *raw]
            await send(message)

        with calling(caller):
            await self._app(scope, receive, send_with_limits)


def sent_key(scope: Scope) -> str | None:
    """The key in `authorization: Bearer …` (OpenAI) or `x-api-key: …` (Anthropic); None where there is neither."""
    headers = dict(reversed(scope["headers"]))  # of several the first counts
    authorization: bytes = headers.get(b"authorization", b"")
    kind, _, value = authorization.partition(b" ")
    key = value.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()
    return key.decode("latin-1") or None
