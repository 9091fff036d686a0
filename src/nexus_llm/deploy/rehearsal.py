"""A rehearsal as named steps and what became of each: pure, so that its order and its report can be tested.

A step that fails ends neither the rehearsal nor the program: what needs it is not reached, what needs nothing (taking
all down) runs all the same, and the report names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nexus_llm.errors import NexusError

Verdict = Literal["done", "failed", "not reached"]
Facts = Mapping[str, Any]
"""What a step found, label → value that JSON knows."""


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the life that is rehearsed."""

    name: str
    does: str
    """A few words."""
    real: str
    """What of it is the very thing that runs on AWS, or with it."""
    emulated: str
    """What only looks like AWS; empty where nothing does."""
    needs: tuple[str, ...] = ()
    """Steps that must be done before."""
    is_aside: bool = False
    """It goes on beside those after it that do not need it: it mostly waits."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step."""

    step: Step
    verdict: Verdict
    began_at: float = 0.0
    """Seconds since the rehearsal began."""
    seconds: float = 0.0
    facts: Facts = field(default_factory=dict)
    error: str = ""
    """Why it failed, or was not reached."""
    fix: str = ""

    def as_document(self) -> dict[str, Any]:
        """The outcome as JSON."""
        told = asdict(self.step) | {"needs": list(self.step.needs), "verdict": self.verdict, "facts": dict(self.facts)}
        told |= {"began_at": round(self.began_at, 1), "seconds": round(self.seconds, 1)}
        return told | ({"error": self.error, "fix": self.fix} if self.error else {})


@dataclass(frozen=True, slots=True)
class FaultMet:
    """A fault that was planned, and how often it happened."""

    what: str
    """What AWS was made to do."""
    expected: str
    """What has to come of it."""
    times: int


def rehearse(
    steps: Sequence[Step],
    works: Mapping[str, Callable[[], Facts]],
    *,
    clock: Callable[[], float],
    requested: Callable[[], str | None],
    tell: Callable[[str], None],
) -> list[Outcome]:
    """What became of each step, in order. `works` maps names to what is done; `tell` hears a line before and after
    each; a reason from `requested` ends the rehearsal before the next. The last step begins when all others are over.
    """
    started, begun = clock(), dict[str, Future[Outcome]]()

    def lived(step: Step) -> Outcome:
        place = f"[{steps.index(step) + 1}/{len(steps)}] {step.name}"
        tell(f"{place}: {step.does}")
        outcome = _tried(step, works[step.name], clock, started)
        tell(f"{place}: {outcome.verdict}, {outcome.seconds:.1f} s {outcome.error}".rstrip())
        return outcome

    with ThreadPoolExecutor() as aside:
        for step in steps:
            before = list(begun) if step is steps[-1] else step.needs
            done = {name for name in before if name in begun and begun[name].result().verdict == "done"}
            missing = [name for name in step.needs if name not in done]
            if (reason := requested()) or missing:
                error = f"stopped by {reason}" if reason else f"it needs {missing[0]}"
                begun[step.name] = _over(Outcome(step, "not reached", clock() - started, error=error))
            elif step.is_aside:
                begun[step.name] = aside.submit(lived, step)
            else:
                begun[step.name] = _over(lived(step))
        return [one.result() for one in begun.values()]


def _over(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def holds(outcomes: Sequence[Outcome], faults: Sequence[FaultMet]) -> bool:
    """Whether every step was done and every planned fault happened: one that did not was not survived either."""
    return all(one.verdict == "done" for one in outcomes) and all(one.times for one in faults)


def document(outcomes: Sequence[Outcome], faults: Sequence[FaultMet], **more: Any) -> dict[str, Any]:
    """The rehearsal as JSON; `more` is what else the report shows."""
    return {
        "holds": holds(outcomes, faults),
        "seconds": round(max((one.began_at + one.seconds for one in outcomes), default=0.0), 1),
        "steps": [one.as_document() for one in outcomes],
        "faults": [asdict(one) for one in faults],
        "not_proved": list(NOT_PROVED),
        **more,
    }


def _tried(step: Step, work: Callable[[], Facts], clock: Callable[[], float], started: float) -> Outcome:
    began = clock()
    at = began - started
    try:
        facts = work()
    except NexusError as error:
        return Outcome(step, "failed", at, clock() - began, error=error.what, fix=error.fix)
    except Exception as error:  # noqa: BLE001 - whatever it is, the next steps and the report come
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(step, "failed", at, clock() - began, error=said, fix="a fault of ours: please report it")
    return Outcome(step, "done", at, clock() - began, facts)


_TERRAFORM = "terraform, the AWS provider, our modules, the ledger, the price"
_ACCEPTED = "AWS accepts and remembers; nothing runs"
STEPS = (
    Step("quotas", "look at a new account, whose quota for the training machine is 0",
         "all questions and verdicts of nexus aws preflight", "the account's answers; quotas are a stand-in's"),
    Step("state", "make the bucket and key of the states; the key is refused first", _TERRAFORM, _ACCEPTED),
    Step("platform", "make network, storage, roles, queues, registry, budget", _TERRAFORM, _ACCEPTED, ("state",)),
    Step("preflight", "look again, with the platform and the quotas that were asked for",
         "all questions and verdicts of nexus aws preflight", "as above; images are manifests without layers",
         ("platform",)),
    Step("upload", "put the recipe's text into the data bucket", "the client, the files", "the bucket", ("platform",)),
    Step("serving", "make balancer, firewall, service, scaling for the package to come, whose key is known", _TERRAFORM,
         f"{_ACCEPTED}: AWS would begin to start tasks, and try again until the package is there", ("upload",),
         is_aside=True),
    Step("data", "run the data stage as a Glue job, follow it, import its result",
         "the submission, the script in the bucket, Spark on two cores, the artifact and its hashes",
         "Glue's scheduler; packages come from this Python, not from wheels.zip; one machine", ("upload",)),
    Step("train", "train as a SageMaker job on spot, which is taken away once",
         "the request, the container's entry point in a tree like /opt/ml, SIGTERM, the checkpoints, the result",
         "SageMaker's agent; both machines are this one; no image is pulled", ("data",)),
    Step("delivery", "make the pipeline that rolls out", _TERRAFORM, _ACCEPTED, ("serving",), is_aside=True),
    Step("package", "package the model, put it into the models bucket, register and approve it",
         "merge, template parity, conversion; the requests", "the bucket and the registry", ("train",)),
    Step("tasks", "start what the service wants: the package is fetched, gateway and engine start",
         "the task's programs as processes, the fetch with its hashes", "ECS' scheduler, Fargate, the image",
         ("serving", "package")),
    Step("answers", "ask with the official OpenAI client", "client, gateway, engine, model",
         "the balancer is a small one of ours, without TLS and firewall", ("tasks",)),
    Step("scale", "scale out and in while people ask", "start, readiness, draining, SIGTERM, open streams",
         "who decides: the wanted number is set, no alarm is evaluated", ("answers",)),
    Step("deploy", "roll the package out beside itself while people ask: tried, a share, all, baked",
         "the commands of nexus deploy --to ecs, fifty questions to both, the green task, open streams",
         "CodeDeploy: its waits and weights are a stand-in's, on the small balancer", ("scale", "delivery")),
    Step("rollback", "roll out a version whose tasks die once they have users: an alarm turns it back",
         "what tasks and balancer tell, Terraform's alarms by CloudWatch's published rules, the way back",
         "CloudWatch and CodeDeploy: stand-ins that read alarms and group from the account", ("deploy",)),
    Step("restore", "lose the machine, the keys' database, the models and the states; bring them back, compare",
         "the commands, PostgreSQL, old versions, hashes; terraform goes on with those states", "the buckets",
         ("package", "delivery")),
    Step("down", "take all down, with something planted that must be found",
         "terraform, emptying, the search for leftovers, the receipt and its exit codes", "the account's answers"),
)  # fmt: skip
"""The life in its order."""
NOT_PROVED = (
    "that AWS decides as the emulator does: permissions with conditions, capacity, throttling of its own, real quotas",
    "bills: prices are list prices of a dated table, nothing was metered by AWS",
    "container images: none was built or pulled; the same programs ran from this Python",
    "GPUs, more than one machine, the network between machines",
    "TLS, the firewall, the ALB, private subnets: they were made and read back, no packet passed them",
    "CloudWatch and CodeDeploy themselves: our evaluator judged the alarms of a rollout, a stand-in moved its traffic",
    "all other alarms, schedules and scaling policies: they were made, nothing evaluated them",
    "encryption: keys are named everywhere, the emulator encrypts nothing",
)
"""What no emulator can show."""
