"""EC2's notice that a spot machine will be taken away, as an `Interrupt`: asked of the machine's metadata service.

The notice comes two minutes before the end. A thread asks every five seconds, so the training loop only reads a
variable. Nothing is asked before `start`: on a laptop, and inside a SageMaker job (where SageMaker turns the notice
into SIGTERM, and an early exit counts as a failure), nobody calls it.

Sources: docs.aws.amazon.com, Amazon EC2 User Guide, "Spot Instance interruption notices", "Use the Instance Metadata
Service", read 2026-11.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, field

import httpx

METADATA_URL = "http://169.254.169.254"
POLL_SECONDS = 5.0
REQUEST_SECONDS = 1.0  # the service is on the machine itself; where there is none, nothing is waited for
FAILURES_BEFORE_SILENCE = 3  # in a row, before the service answered even once: there is none

log = logging.getLogger(__name__)


@dataclass
class SpotNotice:
    """A `nexus_llm.ports.Interrupt` fed by the metadata service; says nothing until `start` was called."""

    url: str = METADATA_URL
    poll_seconds: float = POLL_SECONDS
    request_seconds: float = REQUEST_SECONDS
    _reason: str | None = None
    _failures: int = 0
    _has_answered: bool = False
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> SpotNotice:
        """Asks from now on, in a thread of its own that never keeps the process from ending."""
        self._thread = threading.Thread(target=self._watch, name="spot-notice", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Asks no more."""
        self._stopping.set()
        if self._thread:
            self._thread.join(2 * self.request_seconds + 1)

    def requested(self) -> str | None:
        """See `nexus_llm.ports.Interrupt`; costs nothing."""
        return self._reason

    def poll(self) -> bool:
        """Asks once; gives whether it is worth asking again. Never raises: a notice is help, not a condition."""
        try:
            action = self._action()
        except httpx.HTTPError as error:
            self._failures += 1
            if not self._has_answered and self._failures >= FAILURES_BEFORE_SILENCE:
                log.info("spot.no_metadata_service", extra={"error": str(error)})
                return False
            return True
        self._has_answered, self._failures = True, 0
        if action is None:
            return True
        self._reason = f"spot notice{_when(action)}"
        log.warning("spot.notice", extra={"action": action})
        return False

    def _watch(self) -> None:
        while self.poll():
            if self._stopping.wait(self.poll_seconds):
                return

    def _action(self) -> str | None:
        """The notice's text; None where the service says 404, which is how it says that there is none."""
        # No proxy: a proxy of the environment would be asked about its own machine, not this one.
        with httpx.Client(base_url=self.url, timeout=self.request_seconds, trust_env=False) as client:
            lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
            token = client.put("/latest/api/token", headers=lifetime).raise_for_status().text
            found = client.get("/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token})
            return None if found.status_code == 404 else found.raise_for_status().text


def _when(action: str) -> str:
    """` (terminate at 2026-11-02T08:22:00Z)` from the service's JSON; empty where it is another text.

    >>> _when('{"action": "stop", "time": "2026-11-02T08:22:00Z"}')
    ' (stop at 2026-11-02T08:22:00Z)'
    """
    try:
        values = json.loads(action)
        return f" ({values['action']} at {values['time']})"
    except (ValueError, KeyError, TypeError):
        return ""
