"""EC2's notice that a spot machine will be taken away, as an `Interrupt`: asked of the machine's metadata service.

The notice comes two minutes before the end, a rebalance recommendation perhaps earlier. A thread asks every five
seconds, so the training loop only reads a variable. Nothing is asked before `start`: on a laptop, and inside a
SageMaker job (where SageMaker turns the notice into SIGTERM, and an early exit counts as a failure), nobody calls it.

Sources: docs.aws.amazon.com, Amazon EC2 User Guide, "Spot Instance interruption notices", "EC2 instance rebalance
recommendations", "Use the Instance Metadata Service", read 2026-11.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

METADATA_URL = "http://169.254.169.254"
POLL_SECONDS = 5.0
REQUEST_SECONDS = 1.0  # the service is on the machine itself; where there is none, nothing is waited for
TOKEN_SECONDS = 21_600  # six hours, the longest that the service gives
FAILURES_BEFORE_SILENCE = 3  # in a row, before the service answered even once: there is none

log = logging.getLogger(__name__)


@dataclass
class SpotNotice:
    """A `nexus_llm.ports.Interrupt` fed by the metadata service; says nothing until `start` was called."""

    url: str = METADATA_URL
    stop_at_rebalance: bool = False
    """Whether a recommendation to leave is taken for a notice. It may come hours early, or be followed by nothing."""
    poll_seconds: float = POLL_SECONDS
    request_seconds: float = REQUEST_SECONDS
    rebalance_recommended: bool = False
    """Whether EC2 has said that this machine is at an elevated risk."""
    _reason: str | None = None
    _token: str | None = None
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
            action = self._get("/latest/meta-data/spot/instance-action")
            self._has_answered, self._failures = True, 0
            if action is not None:
                self._reason = f"spot notice{_when(action)}"
                log.warning("spot.notice", extra={"action": action})
                return False
            if not self.rebalance_recommended and self._get("/latest/meta-data/events/recommendations/rebalance"):
                self.rebalance_recommended = True
                log.warning("spot.rebalance_recommended")
                if self.stop_at_rebalance:
                    self._reason = "spot rebalance recommendation"
                    return False
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._token = None
            self._failures += 1
            if not self._has_answered and self._failures >= FAILURES_BEFORE_SILENCE:
                log.info("spot.no_metadata_service", extra={"error": str(error)})
                return False
        return True

    def _watch(self) -> None:
        while self.poll():
            if self._stopping.wait(self.poll_seconds):
                return

    def _get(self, path: str) -> str | None:
        """The answer's text; None where the service says 404, which is how it says that there is nothing to say."""
        for is_second in (False, True):
            if self._token is None:
                lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                self._token = self._ask("PUT", "/latest/api/token", lifetime)
            try:
                return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or is_second:
                    raise
                self._token = None  # it ran out
        return None

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        request = urllib.request.Request(self.url + path, method=method, headers=dict(headers))  # noqa: S310 - http only
        # No proxy: a proxy of the environment would be asked about its own machine, not this one.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=self.request_seconds) as answer:
            return bytes(answer.read(65_536)).decode("utf-8", errors="replace")


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
