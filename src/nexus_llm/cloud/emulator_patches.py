"""What moto cannot do, done in front of it: each patch with its reason and the resources that rest on it.

A patch sees a request before moto does and may answer it, change it on its way in, or change the answer on its way out.
Most of them only give back what they were sent: that proves that our configuration is wired, not that AWS behaves so.
moto itself is not changed; the patches live in a WSGI layer and end with it.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

_CONDITIONS_KNOWN = {"StringEquals"}  # what moto 5.2 evaluates; any other condition it takes for "applies"
XML = (("Content-Type", "application/xml"),)
Memory = dict[tuple[str, ...], Any]
"""What the patches remember, (patch, object …) → what was sent."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request of AWS' API."""

    service: str
    """As it is signed: `s3`, `budgets`."""
    name: str
    """`DescribeBudget`, and for services that speak REST `PUT /bucket?policy`."""
    body: bytes
    environ: dict[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """The body as JSON; empty where it is none."""
        return dict(json.loads(self.body)) if self.body.startswith(b"{") else {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)

    @property
    def document(self) -> dict[str, Any]:
        """The body as JSON; empty where it is none."""
        return dict(json.loads(self.body)) if self.body.startswith(b"{") else {}


Moto = Callable[[Call], Answer]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Patch:
    """One thing that moto cannot do."""

    service: str
    calls: str
    """Regular expression of `Call.name`."""
    reason: str
    resources: tuple[str, ...]
    """Kinds of resources that rest on it; empty: calls of `nexus` itself do."""
    answer: Callable[[Call, Memory, Moto], Answer] = field(repr=False)


class PatchedApplication:
    """moto's WSGI application behind the patches."""

    def __init__(self, moto: Wsgi, patches: Sequence[Patch] | None = None) -> None:
        """`patches` are `PATCHES`, where nobody says others."""
        self._moto = moto
        self._patches = PATCHES if patches is None else patches
        self._memory: Memory = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        call = _call(environ)
        for patch in self._patches:
            if patch.service == call.service and re.fullmatch(patch.calls, call.name):
                answer = patch.answer(call, self._memory, self._ask)
                break
        else:
            return self._moto(environ, start_response)
        headers = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
        start_response(f"{answer.status} -", [*headers, ("Content-Length", str(len(answer.body)))])
        return [answer.body]

    def _ask(self, call: Call) -> Answer:
        heard: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            heard.extend((int(status.split(maxsplit=1)[0]), tuple(headers)))

        environ = call.environ | {"wsgi.input": io.BytesIO(call.body), "CONTENT_LENGTH": str(len(call.body))}
        body = b"".join(self._moto(environ, start_response))
        return Answer(heard[0], body, heard[1])


def _call(environ: dict[str, Any]) -> Call:
    """The request; its body can be read again by moto."""
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        body = environ["wsgi.input"].read()
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    scope = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request", environ.get("HTTP_AUTHORIZATION", ""))
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        name = str(target).rpartition(".")[2]
    elif action := parse_qs(body[:200].decode("latin-1")).get("Action"):
        name = action[0]
    else:
        asked = sorted(set(parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)) - {"x-id"})
        name = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO'].rstrip('/') or '/'}?{'&'.join(asked)}".rstrip("?")
    return Call(scope[1] if scope else "", name, body, environ)


def json_answer(document: Mapping[str, Any], status: int = 200) -> Answer:
    """An answer of a service that speaks JSON."""
    return Answer(status, json.dumps(document).encode())


def missing(kind: str, what: str) -> Answer:
    """REST services name the error in a header, JSON services in the body."""
    body = json.dumps({"__type": kind, "Code": kind, "Message": f"{what} does not exist"}).encode()
    return Answer(404 if kind.startswith("NoSuch") else 400, body, (("x-amzn-ErrorType", kind),))


def _bucket_document(missing: Answer) -> Callable[[Call, Memory, Moto], Answer]:
    """A setting of a bucket that is given back as it was sent."""

    def answer(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
        query = parse_qs(str(call.environ.get("QUERY_STRING", "")))
        key = (call.service, call.name.partition(" ")[2], *query.get("id", []))
        if call.name.startswith("PUT"):
            smallest = call.environ.get("HTTP_X_AMZ_TRANSITION_DEFAULT_MINIMUM_OBJECT_SIZE", "all_storage_classes_128K")
            sent = Answer(
                200,
                call.body,
                (*XML, ("x-amz-transition-default-minimum-object-size", smallest)),
            )
            memory[key] = sent
            return replace(sent, body=b"")
        if call.name.startswith("DELETE"):
            memory.pop(key, None)
            return Answer(204, b"")
        found: Answer = memory.get(key, missing)
        return found

    return answer


def _no_document(code: str) -> Answer:
    return Answer(404, f"<Error><Code>{code}</Code><Message>none</Message></Error>".encode(), XML)


def _bucket_policy(call: Call, memory: Memory, moto: Moto) -> Answer:
    """moto enforces only the statements whose conditions it can judge; whoever asks gets the whole policy."""
    key = ("policy", call.name.partition(" ")[2])
    if call.name.startswith("PUT"):
        policy = call.document
        judged = [one for one in policy["Statement"] if set(one.get("Condition", {})) <= _CONDITIONS_KNOWN]
        memory[key] = call.body
        return moto(replace(call, body=json.dumps(policy | {"Statement": judged}).encode()))
    answer = moto(call)
    if call.name.startswith("GET") and answer.status == 200:
        return replace(answer, body=memory[key])
    return answer


def _rotation_period(call: Call, memory: Memory, moto: Moto) -> Answer:
    asked, answer = call.document, moto(call)
    key = ("rotation", str(asked.get("KeyId")))
    if call.name == "EnableKeyRotation":
        memory[key] = asked.get("RotationPeriodInDays", 365)
        return answer
    if answer.status == 200 and answer.document.get("KeyRotationEnabled"):
        return json_answer(answer.document | {"RotationPeriodInDays": memory.get(key, 365)})
    return answer


def _subscribers(call: Call, memory: Memory, moto: Moto) -> Answer:
    """Who hears of a budget's notification: as they were sent with the budget."""
    asked = call.document
    if call.name == "CreateBudget":
        for one in asked.get("NotificationsWithSubscribers", []):
            memory[_notification(asked["Budget"]["BudgetName"], one["Notification"])] = one["Subscribers"]
        return moto(call)
    if call.name == "CreateNotification":
        memory[_notification(asked["BudgetName"], asked["Notification"])] = asked["Subscribers"]
        return moto(call)
    return json_answer({"Subscribers": memory.get(_notification(asked["BudgetName"], asked["Notification"]), [])})


def _budget_tags(call: Call, memory: Memory, moto: Moto) -> Answer:
    asked = call.document
    if call.name == "CreateBudget":
        memory["tags", asked["Budget"]["BudgetName"]] = asked.get("ResourceTags", [])
        return _subscribers(call, memory, moto)
    return json_answer({"ResourceTags": memory.get(("tags", asked["ResourceARN"].rpartition("/")[2]), [])})


def _anomalies(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    """Cost Explorer's monitors and subscriptions, given back as they were sent."""
    asked = call.document
    if call.name == "ListTagsForResource":
        return json_answer({"ResourceTags": memory.get(("tags", asked["ResourceArn"]), [])})
    kind = "Monitor" if "Monitor" in call.name else "Subscription"
    if call.name.startswith("Create"):
        arn = f"arn:aws:ce::123456789012:anomaly{kind.lower()}/{uuid.uuid4()}"
        memory["anomaly", kind, arn] = asked[f"Anomaly{kind}"] | {f"{kind}Arn": arn, "AccountId": "123456789012"}
        memory["tags", arn] = asked.get("ResourceTags", [])
        return json_answer({f"{kind}Arn": arn})
    if call.name.startswith("Delete"):
        memory.pop(("anomaly", kind, asked[f"{kind}Arn"]), None)
        return json_answer({})
    wanted = asked.get(f"{kind}ArnList")
    found = [value for key, value in memory.items() if key[:2] == ("anomaly", kind)]
    return json_answer({f"Anomaly{kind}s": [one for one in found if not wanted or one[f"{kind}Arn"] in wanted]})


def _notification(budget: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    return ("subscribers", budget, str(one["NotificationType"]), str(float(one["Threshold"])))


def _backup_selection(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    _, _, _, plan, _, *rest = call.name.partition(" ")[2].split("/")
    if call.name.startswith("PUT"):
        selection = str(uuid.uuid4())
        memory["selection", plan, selection] = call.document
        return json_answer({"SelectionId": selection, "BackupPlanId": plan})
    key = ("selection", plan, rest[0])
    if key not in memory:
        return missing("ResourceNotFoundException", "selection")
    if call.name.startswith("DELETE"):
        del memory[key]
        return json_answer({})
    return json_answer(memory[key] | {"SelectionId": rest[0], "BackupPlanId": plan})


def _vault_notifications(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    vault = call.name.split("/")[2]
    if call.name.startswith("PUT"):
        memory["vault", vault] = call.document
        return json_answer({})
    if ("vault", vault) not in memory:
        return missing("ResourceNotFoundException", "notifications")
    if call.name.startswith("DELETE"):
        del memory["vault", vault]
        return json_answer({})
    return json_answer(memory["vault", vault] | {"BackupVaultName": vault})


def _empty_list(name: str) -> Callable[[Call, Memory, Moto], Answer]:
    def answer(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
        return json_answer({name: []})

    return answer


def _http_endpoint(call: Call, memory: Memory, moto: Moto) -> Answer:
    """The data API of a cluster is on where it was asked for; moto keeps that for the oldest kind of cluster only."""
    if call.name == "EnableHttpEndpoint" or b"EnableHttpEndpoint=true" in call.body:
        memory["http endpoint",] = True
    if call.name == "EnableHttpEndpoint":
        return Answer(200, b"<EnableHttpEndpointResponse><EnableHttpEndpointResult/></EnableHttpEndpointResponse>", XML)
    answer = moto(call)
    if ("http endpoint",) in memory:
        off, on = (f"<HttpEndpointEnabled>{one}</HttpEndpointEnabled>".encode() for one in ("false", "true"))
        return replace(answer, body=answer.body.replace(off, on))
    return answer


def _no_tags(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    return json_answer({"Tags": {}})


def _batch_service_role(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    """AWS makes its service-linked role with the first environment; moto wants one that exists."""
    from moto.backends import get_backend

    roles = get_backend("iam")["123456789012"]["aws"]
    found = [one for one in roles.get_roles() if one.path.startswith("/aws-service-role/batch")]
    role = found[0] if found else roles.create_service_linked_role("batch.amazonaws.com", "", "")
    document = call.document
    document["serviceRole"] = document.get("serviceRole") or role.arn
    return moto(replace(call, body=json.dumps(document).encode()))


def _emr_created(call: Call, memory: Memory, moto: Moto) -> Answer:
    """A new application is CREATED; moto calls it STARTED before anybody started it."""
    application = call.name.split("/")[2]
    if call.name.endswith("/start"):
        memory["emr", application] = True
        return moto(call)
    answer = moto(call)
    if answer.status == 200 and ("emr", application) not in memory:
        document = answer.document
        if document.get("application", {}).get("state") == "STARTED":
            document["application"]["state"] = "CREATED"
            return json_answer(document)
    return answer


PATCHES = (
    Patch("s3", r"(GET|PUT|DELETE) /[^/?]+\?policy",
          "moto judges StringEquals only and takes any other condition for fulfilled: `deny without TLS` denies all",
          ("aws_s3_bucket_policy",), _bucket_policy),
    Patch("s3", r"(GET|PUT|DELETE) /[^/?]+\?lifecycle", "moto forgets filters by object size",
          ("aws_s3_bucket_lifecycle_configuration",), _bucket_document(_no_document("NoSuchLifecycleConfiguration"))),
    Patch("s3", r"(GET|PUT|DELETE) /[^/?]+\?id&intelligent-tiering", "moto takes it for the making of a bucket",
          ("aws_s3_bucket_intelligent_tiering_configuration",), _bucket_document(_no_document("NoSuchConfiguration"))),
    Patch("s3", r"(GET|PUT) /[^/?]+\?logging", "moto does not see the bucket policy that lets S3 deliver logs",
          ("aws_s3_bucket_logging",), _bucket_document(Answer(200, b"<BucketLoggingStatus/>", XML))),
    Patch("kms", "EnableKeyRotation|GetKeyRotationStatus", "moto forgets the period",
          ("aws_kms_key",), _rotation_period),
    Patch("budgets", "CreateBudget|ListTagsForResource", "moto keeps no tags of budgets",
          ("aws_budgets_budget",), _budget_tags),
    Patch("budgets", "CreateNotification|DescribeSubscribersForNotification",
          "moto cannot list who hears of a notification", ("aws_budgets_budget",), _subscribers),
    Patch("ce", "(Create|Get|Delete)Anomaly(Monitor|Subscription)s?|ListTagsForResource", "moto has no anomalies",
          ("aws_ce_anomaly_monitor", "aws_ce_anomaly_subscription"), _anomalies),
    Patch("rds", "CreateDBCluster|DescribeDBClusters|EnableHttpEndpoint", "moto forgets that the data API is on",
          ("aws_rds_cluster",), _http_endpoint),
    Patch("application-autoscaling", "ListTagsForResource", "moto keeps no tags of targets",
          ("aws_appautoscaling_target",), _no_tags),
    Patch("backup", r"(PUT|GET|DELETE) /backup/plans/[^/]+/selections(/[^/?]+)?", "moto has no selections",
          ("aws_backup_selection",), _backup_selection),
    Patch("backup", r"(PUT|GET|DELETE) /backup-vaults/[^/]+/notification-configuration", "moto has none",
          ("aws_backup_vault_notifications",), _vault_notifications),
    Patch("backup", r"GET /backup-vaults/[^/]+/recovery-points.*", "moto keeps no recovery points", (),
          _empty_list("RecoveryPoints")),
    Patch("batch", "POST /v1/createcomputeenvironment", "moto refuses environments with the service-linked role",
          ("aws_batch_compute_environment",), _batch_service_role),
    Patch("emr-serverless", r"(GET|POST) /applications/[^/]+(/start)?", "moto starts applications by itself",
          ("aws_emrserverless_application",), _emr_created),
)  # fmt: skip
