"""What a program asks of AWS, heard between it and an emulator: every signed request becomes a service and operation.

One ear for all: boto3, s3fs and Terraform's provider speak to the same address. Requests are read with botocore's
own service models, the other way round.
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

from call_needs import Call

# Signing name → prefix in IAM, where they differ (Service Authorization Reference, read 2026-11).
_PREFIXES = {"monitoring": "cloudwatch", "tagging": "tag"}
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/(?P<region>[\w-]+)/(?P<service>[\w-]+)/aws4_request")
_MAX_READ_BYTES = 2**20  # of a body: requests are small, what is larger is somebody's file


class RecordingApp:
    """A WSGI application before the emulator's: tells `heard` of every call, and refuses what `refused` names."""

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        heard: Callable[[Call], None],
        refused: Callable[[Call], str | None] = lambda _: None,
    ) -> None:
        """`refused` gives the action that a caller lacks, or None."""
        self._app, self._heard, self._refused = app, heard, refused

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = _body(environ)
        call = call_of(environ, body)
        if call is None:
            return self._app(environ, start_response)
        self._heard(call)
        if action := self._refused(call):
            status, headers, answer = refusal(environ, call, action)
            start_response(status, headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer]
        return self._app(environ, start_response)


def call_of(environ: Mapping[str, Any], body: bytes) -> Call | None:
    """The call that a request is; None for what is not signed or no operation of the service."""
    signed = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    if signed is None:
        return None
    service = signed["service"]
    path, _, query = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ["PATH_INFO"]).partition("?")
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        found = (target.rpartition(".")[2], _flat(_json(body)))
    elif rpc := re.fullmatch(r"/service/\w+/operation/(\w+)", path):
        found = (rpc[1], [])
    elif action := dict(parse_qsl(query + "&" + body.decode("utf-8", "replace"))).get("Action"):
        form = [*parse_qsl(query), *parse_qsl(body.decode("utf-8", "replace"))]
        found = (action, [(_without_positions(name), value) for name, value in form])
    else:
        rest = _rest_operation(service, environ, path, query, body)
        if rest is None:
            return None
        found = rest
    operation, parameters = found
    return Call(_PREFIXES.get(service, service), operation, signed["region"], tuple(sorted(set(parameters))))


def refusal(environ: Mapping[str, Any], call: Call, action: str) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status, headers and body with which AWS refuses such a request, in the protocol that it was made in."""
    words = f"User: recorded is not authorized to perform: {action} because no identity-based policy allows it"
    code = "UnauthorizedOperation" if call.service == "ec2" else "AccessDenied"
    return error_answer(
        environ, call, "403 Forbidden", "AccessDeniedException" if _is_json(environ, call) else code, words
    )


def error_answer(
    environ: Mapping[str, Any], call: Call, status: str, code: str, words: str
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status, headers and body of an error of AWS', in the protocol that the request was made in."""
    if _is_json(environ, call):
        answer = json.dumps({"__type": code, "message": words, "Message": words})
        return status, [("content-type", "application/json"), ("x-amzn-errortype", code)], answer.encode()
    error = f"<Error><Code>{code}</Code><Message>{words}</Message></Error>"
    if call.service == "ec2":
        error = f"<Response><Errors>{error}</Errors></Response>"
    elif call.service != "s3":
        error = f"<ErrorResponse>{error}</ErrorResponse>"
    return status, [("content-type", "application/xml")], error.encode()


def _is_json(environ: Mapping[str, Any], call: Call) -> bool:
    kind = environ.get("CONTENT_TYPE") or ""
    is_form = kind.startswith("application/x-www-form")
    return bool(environ.get("HTTP_X_AMZ_TARGET")) or (call.service != "s3" and not is_form)


def _body(environ: dict[str, Any]) -> bytes:
    """The body, put back for the next reader; empty where it has no length or is somebody's file."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if not 0 < length <= _MAX_READ_BYTES:
        return b""
    body = bytes(environ["wsgi.input"].read(length))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _rest_operation(
    service: str, environ: Mapping[str, Any], path: str, query: str, body: bytes
) -> tuple[str, list[tuple[str, str]]] | None:
    """The operation whose method, path and required parts fit best, and its parameters."""
    asked = dict(parse_qsl(query, keep_blank_values=True))
    best: tuple[int, str, dict[str, str], Any] | None = None
    for operation in _operations(service):
        if operation.http["method"] != environ["REQUEST_METHOD"]:
            continue
        fit = _fit(operation, environ, path, asked)
        if fit is not None and (best is None or fit[0] > best[0]):
            best = (fit[0], operation.name, fit[1], operation)
    if best is None:
        return None
    _, name, labels, operation = best
    members = operation.input_shape.members if operation.input_shape else {}
    queried = {
        member: asked[shape.serialization["name"]]
        for member, shape in members.items()
        if shape.serialization.get("location") == "querystring" and shape.serialization.get("name") in asked
    }
    content = _xml(body) if body.lstrip().startswith(b"<") else _flat(_json(body))
    return name, [*labels.items(), *queried.items(), *content]


def _fit(
    operation: Any, environ: Mapping[str, Any], path: str, asked: Mapping[str, str]
) -> tuple[int, dict[str, str]] | None:
    """How many of an operation's fixed parts a request has, and what stands in its path; None where one is missing."""
    template, _, constants = operation.http["requestUri"].partition("?")
    pattern = re.sub(
        r"\\\{(\w+)(\\\+)?\\\}", lambda one: f"(?P<{one[1]}>{'.+' if one[2] else '[^/]+'})", re.escape(template)
    )
    matched = re.fullmatch(pattern.rstrip("/") or "/", path.rstrip("/") or "/")
    if matched is None:
        return None
    wanted = dict(parse_qsl(constants, keep_blank_values=True))
    if any(name not in asked or (value and asked[name] != value) for name, value in wanted.items()):
        return None
    score = 10 * len(wanted) + len(re.sub(r"\{.*?\}", "", template))
    shape = operation.input_shape
    for member in shape.required_members if shape else ():
        where = shape.members[member].serialization
        if where.get("location") == "querystring":
            if where["name"] not in asked:
                return None
            score += 10
        elif where.get("location") == "header":
            if "HTTP_" + where["name"].upper().replace("-", "_") not in environ:
                return None
            score += 10
    return score, {name: unquote(value) for name, value in matched.groupdict().items()}


@functools.cache
def _operations(service: str) -> tuple[Any, ...]:
    """The operations of a service; reading its model takes a tenth of a second, and each request asks."""
    from botocore.exceptions import UnknownServiceError
    from botocore.session import get_session

    try:
        model = get_session().get_service_model(service)
    except UnknownServiceError:
        return ()
    found = (model.operation_model(name) for name in model.operation_names)
    return tuple(one for one in found if not one.deprecated)  # S3 keeps old names for the same requests


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError:
        return {}


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Every leaf of a document with its path; positions in lists are left out."""
    if isinstance(value, dict):
        return [leaf for name, one in value.items() for leaf in _flat(one, f"{path}.{name}" if path else str(name))]
    if isinstance(value, list):
        return [leaf for one in value for leaf in _flat(one, path)]
    return [(path, str(value))] if path else []


def _xml(body: bytes) -> list[tuple[str, str]]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return []
    return list(_leaves(root, ""))


def _leaves(element: ElementTree.Element, path: str) -> Iterator[tuple[str, str]]:
    for child in element:
        name = f"{path}.{child.tag.rpartition('}')[2]}".lstrip(".")
        if len(child):
            yield from _leaves(child, name)
        else:
            yield name, (child.text or "").strip()


def _without_positions(name: str) -> str:
    """`TagSpecification.Tag.Key` of `TagSpecification.1.Tag.1.Key`."""
    return ".".join(word for word in name.split(".") if not word.isdecimal() and word not in ("member", "entry"))
