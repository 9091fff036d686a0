"""`nexus deploy` and `nexus rollback`: another model takes over, watched at every step, and gives way again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import agree, print_error, print_json
from nexus_llm.cli.options import AsJson, DryRun, Root, ports
from nexus_llm.errors import GateFailedError, GateInconclusiveError, NexusError, TryAgainError, UsageError

if TYPE_CHECKING:
    from nexus_llm.cli.deploy_targets import Opened, Where
    from nexus_llm.deploy.rollout import Judgement, Rollout
    from nexus_llm.deploy.rollout_driver import Hands, RolloutFolder
    from nexus_llm.ports import Ports

To = Annotated[str, typer.Option("--to", help="local (a running nexus serve), ecs or sagemaker.")]
Url = Annotated[str, typer.Option("--url", help="local: where nexus serve answers.")]
Name = Annotated[str, typer.Option("--name", help="ecs, sagemaker: the platform, a folder of runs/aws.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint", help="sagemaker: the endpoint that answers.")]
Alarms = Annotated[list[str], typer.Option("--alarm", help="sagemaker: a CloudWatch alarm that turns back.")]
Yes = Annotated[bool, typer.Option("--yes", help="Agree to what costs money without being asked.")]
NOT_TAKEN: dict[str, tuple[tuple[str, ...], str]] = {
    "ecs": (
        ("canary_percent", "canary_seconds", "max_error_share", "first_token_seconds"),
        "stage 3 has the canary's share and minutes, stage 2 the alarms",
    ),
    "sagemaker": (("max_error_share", "first_token_seconds"), "alarms turn back there: --alarm NAME"),
}
"""Target → options that would do nothing there, and what does instead."""


def deploy(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A run, a package folder, NAME@ALIAS, or s3://…", metavar="MODEL|RUN")],
    to: To = "local",
    url: Url = "http://127.0.0.1:8000",
    name: Name = "nexus-small",
    endpoint: Endpoint = None,
    alarm: Alarms = [],  # noqa: B006 - typer reads the default, nobody changes it
    image: Annotated[str | None, typer.Option(help="ecs: also a new gateway image, by digest.")] = None,
    canary_percent: Annotated[float, typer.Option(min=1, max=99, help="Of the requests, at first.")] = 10,
    canary_seconds: Annotated[float, typer.Option(min=0, help="How long green has that share.")] = 60,
    bake_seconds: Annotated[float, typer.Option(min=0, help="How long blue stays warm afterwards.")] = 300,
    check: Annotated[
        list[Path], typer.Option("--check", help="Task files whose answers are compared [default: 50 questions].")
    ] = [],  # noqa: B006
    max_regression: Annotated[float, typer.Option(min=0, help="Loss of a task's score that is let through.")] = 0.1,
    max_error_share: Annotated[float, typer.Option(min=0, max=1, help="Of green's requests.")] = 0.01,
    first_token_seconds: Annotated[float, typer.Option(min=0, help="95th percentile that is always fine.")] = 2.0,
    cold_start_seconds: Annotated[float, typer.Option(min=0, help="Budget of pull, load and first answer.")] = 300,
    root: Root = Path(),
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Roll a model out: warm beside the old one, checked, a share, all, baked. Exit 3: worse, 4: cannot tell; then the
    old one answers. Stopped half-way, the same command goes on."""
    from nexus_llm.cli.deploy_targets import opened, rollouts
    from nexus_llm.deploy.rollout import STEPS, Limits, Plan
    from nexus_llm.deploy.rollout_driver import drive
    from nexus_llm.evaluate.task_file import load_task

    where, handed = _where(to, url, name, endpoint, alarm, image, root), ports()
    _refuse_what_does_nothing(context, to)
    for path in check:
        load_task(path)  # a typing mistake is told before green is paid for
    place = opened(where, handed)
    limits = Limits(max_error_share, first_token_seconds, cold_start_seconds=cold_start_seconds)
    plan = Plan(to, place.service, model, canary_percent / 100, canary_seconds, bake_seconds, limits)
    if dry_run:
        _tell_plan(
            asdict(plan) | {"steps": STEPS, "checks": [str(one) for one in check] or ["golden-questions"]}, as_json
        )
        return 0
    if place.asks_first:
        _agree(f"Roll {model} out to {place.service}? Two fleets are paid for meanwhile.", yes=yes, as_json=as_json)
    folder = rollouts(where, place.service)
    with folder.locked():
        last = folder.last()
        plan = replace(plan, model=place.stage_model(model))
        rollout = folder.begin(plan, now=time.time())
        if last is not None and last.id == rollout.id:
            print(f"goes on with rollout {rollout.id}, which stands at {rollout.step}", file=sys.stderr)
        judge = judging(place, tuple(check) or (golden_questions(),), max_regression, folder, handed)
        return _tell(drive(rollout, place.target, folder, hands(place, judge, handed)), as_json)


def rollback(
    to: To = "local",
    url: Url = "http://127.0.0.1:8000",
    name: Name = "nexus-small",
    endpoint: Endpoint = None,
    alarm: Alarms = [],  # noqa: B006
    root: Root = Path(),
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Give the old model everything again: at once while it is warm, else it is loaded again."""
    from nexus_llm.cli.deploy_targets import opened, rollouts
    from nexus_llm.deploy.rollout import Judgement, turned_back
    from nexus_llm.deploy.rollout_driver import ASKED_BACK, drive

    where, handed = _where(to, url, name, endpoint, alarm, None, root), ports()
    place = opened(where, handed)
    folder = rollouts(where, place.service)
    last = folder.last()
    if last is None or last.status == "rolled_back":
        raise UsageError(f"no rollout of {place.service} is there to turn back", fix="nexus deploy MODEL")
    if dry_run:
        _tell_plan({"id": last.id, "model": last.plan.model, "back_to": last.facts.get("stage", {})}, as_json)
        return 0
    if place.asks_first:
        _agree(f"Turn {place.service} back?", yes=yes, as_json=as_json)
    began = time.monotonic()
    with ExitStack() as held:
        _take_over(held, folder, handed)
        done = folder.last() or last
        if done.status != "rolled_back":
            back = turned_back(done, ASKED_BACK, now=time.time())
            done = drive(back, place.target, folder, hands(place, lambda _: Judgement("pass", ""), handed))
    how = done.facts.get("rollback", {}).get("how", done.reason)
    _print(done, as_json, f"turned back in {time.monotonic() - began:.1f} s: {how}")
    return 0


def _take_over(held: ExitStack, folder: RolloutFolder, handed: Ports) -> None:
    """Enters the rollout's lock; who has it is asked to turn back, and waited for: it may also finish, or be killed."""
    while True:
        try:
            held.enter_context(folder.locked())
            return
        except TryAgainError:
            folder.ask_back()
        if reason := handed.interrupt.requested():
            raise TryAgainError(f"stopped by {reason}; the other command turns back", fix="nexus rollback")
        time.sleep(0.1)


def golden_questions() -> Path:
    """The task that is asked where nobody names one."""
    import nexus_llm.evaluate

    return Path(nexus_llm.evaluate.__path__[0]) / "golden_questions.yaml"


def _agree(question: str, *, yes: bool, as_json: bool) -> None:
    unagreed, fix = "nobody agreed to this rollout", "look with --dry-run, agree with --yes"
    agree(question, unagreed=unagreed, fix=fix, yes=yes, as_json=as_json)


def judging(
    place: Opened, tasks: tuple[Path, ...], max_regression: float, folder: RolloutFolder, handed: Ports
) -> Callable[[Rollout], Judgement]:
    """The step `check`: token ids, then answers."""
    from nexus_llm.cli.deploy_check import judge_answers

    def judge(rollout: Rollout) -> Judgement:
        blue, green = place.doors(rollout)
        if place.parity is not None and (same := place.parity(rollout, green)).verdict != "pass":
            return same
        kept = folder.folder / f"{rollout.id}-answers"
        return judge_answers(blue, green, tasks=tasks, max_regression=max_regression, kept=kept, ports=handed)

    return judge


def _where(
    to: str, url: str, name: str, endpoint: str | None, alarms: list[str], image: str | None, root: Path
) -> Where:
    from nexus_llm.cli.deploy_targets import Where

    if to not in ("local", "ecs", "sagemaker"):
        raise UsageError(f"--to {to} is not known", fix="local, ecs or sagemaker")
    return Where(to, url.rstrip("/"), name, endpoint, tuple(alarms), image, root)  # type: ignore[arg-type]


def _refuse_what_does_nothing(context: typer.Context, to: str) -> None:
    names, instead = NOT_TAKEN.get(to, ((), ""))
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} does nothing with --to {to}", fix=f"leave it out: {instead}")


def hands(place: Opened, check: Callable[[Rollout], Judgement], handed: Ports) -> Hands:
    """What drives a rollout to this place, at this machine's time."""
    from nexus_llm.deploy.rollout_driver import Hands

    return Hands(
        check=check,
        now=time.time,
        sleep=time.sleep,
        stop_requested=handed.interrupt.requested,
        tell=_say,
        poll_seconds=place.poll_seconds,
    )


def _say(rollout: Rollout) -> None:
    """Each step before it begins, on stderr."""
    if rollout.status == "rolling_back":
        print(f"turning back: {rollout.reason}", file=sys.stderr, flush=True)
        return
    plan = rollout.plan
    canary = f"{plan.canary_share:.0%} of the requests for {plan.canary_seconds:g} s"
    more = {
        "canary": ": stage 3's share and minutes" if plan.target == "ecs" else f": {canary}",
        "bake": f": blue stays warm for {plan.bake_seconds:g} s",
    }.get(rollout.step, "")
    print(f"{rollout.step}{more} …", file=sys.stderr, flush=True)


def _tell_plan(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        print(f"{key:<16} {value}")


def _tell(rollout: Rollout, as_json: bool) -> int:
    """Prints what came of it; the exit code."""
    warm = rollout.facts.get("warm", {})
    phases = [
        f"{name} {warm[f'{name}_seconds']:.1f} s" for name in ("pull", "load", "warm") if warm.get(f"{name}_seconds")
    ]
    line = f"{rollout.plan.model} answers at {rollout.plan.service} (cold start: {', '.join(phases)})"
    _print(rollout, as_json, line if rollout.status == "done" else None)
    if rollout.status == "done":
        return 0
    kind = GateInconclusiveError if rollout.verdict == "inconclusive" else GateFailedError
    error: NexusError = kind(
        f"{rollout.plan.model} was turned back: {rollout.reason}",
        fix="the old model answers; evaluate the new one, or ask more: --check TASK.yaml",
    )
    print_error(error, as_json=False)
    return error.exit_code


def _print(rollout: Rollout, as_json: bool, line: str | None) -> None:
    from nexus_llm.deploy.rollout_driver import document

    if as_json:
        print_json(document(rollout))
    elif line:
        print(line)
