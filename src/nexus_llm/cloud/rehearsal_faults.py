"""What AWS does on bad days, done by the emulator on purpose: each fault once, at a call that the rehearsal makes.

Source of the answers: docs.aws.amazon.com, "Common errors" of each service's API reference, read 2026-11.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from nexus_llm.cloud.account import READ_SECONDS
from nexus_llm.cloud.emulator_patches import XML, Answer, Call, Memory, Moto, Patch, json_answer
from nexus_llm.deploy.rehearsal import FaultMet

Kind = Literal["denied", "throttled", "silent"]
_SILENCE_SECONDS = READ_SECONDS + 3


@dataclass
class Fault:
    """One disturbance."""

    kind: Kind
    service: str
    """As requests are signed for it; IAM calls these the same."""
    operation: str
    expected: str
    """What has to come of it."""
    calls: str = ""
    """Regular expression of `Call.name`, where that is not the operation: S3 speaks REST."""
    times: int = 1
    after: int = 0
    """Calls that pass before."""
    met: int = 0
    _seen: int = field(default=0, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def call(self) -> str:
        """As IAM names it."""
        return f"{self.service}:{self.operation}"

    def patch(self, sleep: Callable[[float], None] = time.sleep) -> Patch:
        """What makes an emulator answer so, some of the times that it is asked."""

        def answer(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
            if not self._strikes():
                return moto(call)
            if self.kind == "denied":
                words = f"User: rehearsed is not authorized to perform: {self.call}"
                return self._error("AccessDeniedException", words, 400)
            if self.kind == "silent":
                sleep(_SILENCE_SECONDS)
            return self._error("ThrottlingException", "Rate exceeded", 503)

        return Patch(self.service, self.calls or self.operation, "a bad day of AWS, on purpose", (), answer)

    def _strikes(self) -> bool:
        """Whether this call is disturbed; counts it."""
        with self._lock:
            self._seen += 1
            is_struck = self._seen > self.after and self.met < self.times
            self.met += is_struck
            return is_struck

    def _error(self, code: str, words: str, status: int) -> Answer:
        if self.service == "s3":
            denied = f"<Error><Code>AccessDenied</Code><Message>{words}</Message></Error>"
            return Answer(403, denied.encode(), XML)
        if self.service != "ec2":
            return json_answer({"__type": code, "message": words, "Message": words}, status)
        error = f"<Error><Code>RequestLimitExceeded</Code><Message>{words}</Message></Error>"
        body = f"<Response><Errors>{error}</Errors></Response>"
        return Answer(status, body.encode(), XML)


def planned_faults() -> tuple[Fault, ...]:
    """The disturbances of a rehearsal, in the order in which they come."""
    return (
        Fault("denied", "kms", "CreateKey", "up stops and names the action; the same call then finishes"),
        # The provider looks at new rules for 55 s before it believes them: an apply that fails would wait for that.
        Fault("denied", "s3", "PutLifecycleConfiguration", "what was made stays; the same call makes the rest",
              r"PUT /[^/?]+\?lifecycle"),
        Fault("throttled", "ec2", "CreateVpc", "terraform waits and asks again"),
        Fault("denied", "glue", "StartJobRun", "the data stage ends with two lines that name the action"),
        Fault("throttled", "glue", "GetJobRun", "whoever watches waits; the job goes on", times=4, after=1),
        Fault("silent", "sagemaker", "DescribeTrainingJob",
              f"the client gives up after {READ_SECONDS:.0f} s and asks again; the job goes on", after=3),
    )  # fmt: skip


def met(faults: Iterable[Fault]) -> list[FaultMet]:
    """The faults as the report tells of them."""
    words = {"denied": "{} denied", "throttled": "{} throttled", "silent": "no answer to {}"}
    return [FaultMet(words[one.kind].format(one.call), one.expected, one.met) for one in faults]
