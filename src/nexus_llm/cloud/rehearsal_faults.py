"""What AWS does on bad days, done by the emulator on purpose: each fault once, at a call that the rehearsal makes.

Source of the answers: docs.aws.amazon.com, "Common errors" of each service's API reference, read 2026-11.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nexus_llm.cloud.account import READ_SECONDS
from nexus_llm.cloud.call_recording import call_of, error_answer, refusal
from nexus_llm.cloud.emulator_patches import Wsgi
from nexus_llm.deploy.rehearsal import FaultMet

Kind = Literal["denied", "throttled", "silent"]
_SILENCE_SECONDS = READ_SECONDS + 3
_MOST_BYTES = 2**20  # of a body that is read to know the call; calls that are disturbed are smaller


@dataclass
class Fault:
    """One disturbance."""

    kind: Kind
    service: str
    """IAM's prefix."""
    operation: str
    expected: str
    """What has to come of it."""
    times: int = 1
    after: int = 0
    """Calls that pass before."""
    met: int = 0
    _seen: int = field(default=0, repr=False)

    @property
    def call(self) -> str:
        """As IAM names it."""
        return f"{self.service}:{self.operation}"

    def strikes(self) -> bool:
        """Whether this call is disturbed; counts it."""
        self._seen += 1
        if self._seen <= self.after or self.met >= self.times:
            return False
        self.met += 1
        return True


def planned_faults() -> tuple[Fault, ...]:
    """The disturbances of a rehearsal, in the order in which they come."""
    return (
        Fault("denied", "kms", "CreateKey", "up stops and names the action; the same call then finishes"),
        Fault("throttled", "ec2", "CreateVpc", "terraform waits and asks again"),
        Fault("denied", "glue", "StartJobRun", "the data stage ends with two lines that name the action"),
        Fault("throttled", "glue", "GetJobRun", "whoever watches waits; the job goes on", times=4, after=1),
        Fault("silent", "sagemaker", "DescribeTrainingJob",
              f"the client gives up after {READ_SECONDS:.0f} s and asks again; the job goes on", after=3),
    )  # fmt: skip


class Disturbing:
    """A WSGI application before the emulator's that answers some calls as AWS does on bad days."""

    def __init__(self, app: Wsgi, faults: Sequence[Fault], *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._app, self._faults, self._sleep = app, faults, sleep
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if all(one.met >= one.times for one in self._faults):
            return self._app(environ, start_response)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = b""
        if 0 < length <= _MOST_BYTES:
            body = environ["wsgi.input"].read(length)
            environ["wsgi.input"] = io.BytesIO(body)
        call = call_of(environ, body)
        with self._lock:
            fault = next(
                (
                    one
                    for one in self._faults
                    if call and (one.service, one.operation) == (call.service, call.operation) and one.strikes()
                ),
                None,
            )
        if call is None or fault is None:
            return self._app(environ, start_response)
        if fault.kind == "denied":
            answer = refusal(environ, call, fault.call)
        else:
            if fault.kind == "silent":
                self._sleep(_SILENCE_SECONDS)
            code = "RequestLimitExceeded" if call.service == "ec2" else "ThrottlingException"
            answer = error_answer(environ, call, "503 Service Unavailable", code, "Rate exceeded")
        status, headers, content = answer
        start_response(status, headers)
        return [content]


def met(faults: Iterable[Fault]) -> list[FaultMet]:
    """The faults as the report tells of them."""
    words = {"denied": "{} denied", "throttled": "{} throttled", "silent": "no answer to {}"}
    return [FaultMet(words[one.kind].format(one.call), one.expected, one.met) for one in faults]
