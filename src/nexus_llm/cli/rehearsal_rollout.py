"""The rollouts of `nexus aws rehearse`: one that goes well, and one that an alarm turns back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.errors import DeploymentError

if TYPE_CHECKING:
    from nexus_llm.cli.deploy_targets import Opened
    from nexus_llm.cloud.rehearsal_alarms import EvaluatedAlarms
    from nexus_llm.cloud.rehearsal_deployments import RunningDeployments
    from nexus_llm.cloud.rehearsal_platform import RehearsedPlatform
    from nexus_llm.cloud.rehearsal_service import Callers, Service
    from nexus_llm.deploy.rehearsal import Facts
    from nexus_llm.deploy.rollout import Rollout
    from nexus_llm.ports import Ports

MINUTE_SECONDS = 2.0
"""How long a minute of an alarm's period and of CodeDeploy's times lasts here: five of them go by in ten seconds."""
CANARY = {"percent": 25, "minutes": 8}
FIRST_TOKEN_SECONDS = 30
"""What may be late: this machine does all at once, and its slowness shall turn nothing back."""
CALLERS = 6
_KILL_SECONDS = 0.5  # between two looks for a green task that has users
_POLL_SECONDS = 0.3
_QUIET_SECONDS = 60.0  # for the alarms to go off after the way back


@dataclass
class Rollouts:
    """What the two steps work on."""

    platform: RehearsedPlatform
    service: Service
    deployments: RunningDeployments
    folder: Path
    """For what the rollouts write down."""
    openings: Ports
    package: str
    """Location of the package in the bucket."""
    model: str
    """As the API names it."""

    def deploy(self) -> Facts:
        """Rolls the package out once more, to its end.

        Raises:
            DeploymentError: it did not end well, or an answer was lost.
        """
        with self._asked() as (callers, _):
            done = self._driven()
        if done.status != "done" or callers.lost or not callers.whole:
            raise DeploymentError(
                f"the rollout is {done.status} ({done.reason}), {len(callers.lost)} answers were lost "
                f"({', '.join(callers.lost[:1])})",
                fix=f"read the logs in {self.service.folder}",
            )
        return {
            **{f"{name} (s)": facts["seconds"] for name, facts in done.facts.items()},
            "check": done.facts["check"]["reason"],
            "answers that came whole": callers.whole,
            "answers lost": 0,
        }

    def roll_back(self) -> Facts:
        """Rolls out a version whose tasks die once they have users; the alarm has to turn it back.

        Raises:
            DeploymentError: nothing turned it back, or an answer was lost after that.
        """
        before = [one.url for one in self.service.tasks]
        with self._asked() as (callers, alarms):
            with self._green_killed() as killed:
                began = time.monotonic()
                done = self._driven(is_checked=True)
                seconds = time.monotonic() - began
            failed, until = len(callers.lost), time.monotonic() + _QUIET_SECONDS
            while time.monotonic() < until and not alarms.are_quiet():
                time.sleep(_POLL_SECONDS)
        fired = alarms.fired()
        if done.status != "rolled_back" or not fired or [one.url for one in self.service.tasks] != before:
            raise DeploymentError(
                f"the rollout of a dying version is {done.status} ({done.reason}), alarms: {fired or 'none'}",
                fix=f"read the logs in {self.service.folder}",
            )
        if len(callers.lost) > failed or not alarms.are_quiet():
            lost = ", ".join(callers.lost[failed:][:1]) or "none"
            raise DeploymentError(
                f"after the way back answers were lost ({lost}), or an alarm stays on: {alarms.changes}",
                fix=f"read the logs in {self.service.folder}",
            )
        return {
            "green tasks killed once they had users": len(killed),
            "alarms that went on, and off again": fired,
            "turned back because": done.reason,
            "way back (s)": done.facts["rollback"]["seconds"],
            "until blue had all again (s)": round(seconds, 1),
            "answers lost on the way": failed,
            "answers lost after it": 0,
            "answers that came whole": callers.whole,
            "alarms that nobody could judge here": alarms.not_judged,
        }

    @contextlib.contextmanager
    def _asked(self) -> Iterator[tuple[Callers, EvaluatedAlarms]]:
        """A block in which people ask, and alarms are looked at."""
        import httpx  # noqa: F401 - the callers' OpenAI client fails where it finds this half imported

        from nexus_llm.cloud import rehearsal_alarms as alarms
        from nexus_llm.cloud.rehearsal_service import Callers

        serving, balancer = self.platform.outputs()["serving"], self.service.balancer
        listener = serving["listener_arns"]["production"]
        suffix = listener.partition(":listener/")[2].rpartition("/")[0]
        namespace, service = "NexusLLM/API", f"Service={serving['service_name']}"
        own = ("RequestCount", "ErrorCount", "TimeToFirstToken", "ResponseTime", "QueueDepth")

        def samples() -> Iterator[alarms.Sample]:
            yield from alarms.metric_lines(self.service.told())
            yield from alarms.balancer_samples(balancer.answered, suffix)

        watched = alarms.EvaluatedAlarms(
            self.platform.client("cloudwatch"), serving["rollback_alarm_names"], samples, MINUTE_SECONDS
        )
        callers = Callers(balancer.url, self.model, CALLERS)
        watched.begin([*((namespace, name, service) for name in own), *alarms.balancer_metrics(suffix).values()])
        callers.begin()
        try:
            yield callers, watched
        finally:
            callers.end()
            watched.end()

    def _driven(self, *, is_checked: bool = False) -> Rollout:
        """`nexus deploy --to ecs` to its end; what asks green goes past the test listener to its task. Whose weights a
        rollout before has checked is not asked the questions again: they take most of a rollout's time here."""
        from nexus_llm.cli.deploy import golden_questions, hands, judging
        from nexus_llm.deploy.rollout import Judgement, Limits, Plan
        from nexus_llm.deploy.rollout_driver import RolloutFolder, drive

        place = self._place()
        folder = RolloutFolder(self.folder)
        limits = Limits(first_token_seconds=FIRST_TOKEN_SECONDS)
        plan = Plan("ecs", place.service, self.package, CANARY["percent"] / 100, 0.0, MINUTE_SECONDS, limits)
        judge = judging(place, (golden_questions(),), 0.1, folder, self.openings)
        check = (lambda _: Judgement("pass", "the rollout before asked these weights")) if is_checked else judge
        return drive(folder.begin(plan, now=time.time()), place.target, folder, hands(place, check, self.openings))

    def _place(self) -> Opened:
        from nexus_llm.cli.deploy_check import Door
        from nexus_llm.cli.deploy_targets import Opened
        from nexus_llm.cli.job_account import account
        from nexus_llm.cloud.codedeploy import CodeDeployTarget

        out = self.platform.outputs()
        blue = Door(self.service.balancer.url, self.model, {})

        def green() -> Door:
            return Door(self.deployments.green[0].url, self.model, {})

        target = CodeDeployTarget(
            account(self.platform.life.deployment.region, self.openings.interrupt),
            serving=out["serving"],
            delivery=out["delivery"],
            ask=lambda: green().seconds_to_answer(),
        )
        service = out["serving"]["service_name"]
        return Opened(target, service, lambda _: (blue, green()), lambda name: name, _POLL_SECONDS)

    @contextlib.contextmanager
    def _green_killed(self) -> Iterator[list[int]]:
        """A block in which green's gateways are killed as soon as they have users; their process ids."""
        killed: list[int] = []
        over = threading.Event()

        def kill() -> None:
            while not over.wait(_KILL_SECONDS):
                for task in self.deployments.green if self.deployments.weight() else ():
                    if task.process.pid not in killed:
                        task.process.kill()
                        killed.append(task.process.pid)

        thread = threading.Thread(target=kill, name="killer", daemon=True)
        thread.start()
        try:
            yield killed
        finally:
            over.set()
            thread.join()
