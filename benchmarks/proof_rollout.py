"""The proof that a model is exchanged without loss: swapped, turned back and its engine killed while streams are open.

    python benchmarks/proof_rollout.py [--model FOLDER] [--engine openvino] [--seconds 600] [--only NAME …] [--out DIR]

Runs `nexus serve`, `nexus deploy` and `nexus rollback` as users run them, and stores `proof_rollout_HARDWARE_DATE.json`
and `.md`. `--seconds` is the length of the drill with the killed engine; below 60 everything is small, and times are
told but not judged. Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import claims
from claims import Claim, percentile, tell
from nexus_llm.chat import ChatTokenizer
from nexus_llm.evaluate.task_file import load_task
from served import Served, packaged_model, served
from streams import End, Stream, body_of, follow, prompts

LONGEST_SECONDS = 900.0  # of one command: what hangs shall say so
LAST_ANSWER_SECONDS = 120.0  # for the streams that are open when all is over
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


class UnfinishedError(Exception):
    """A step of the proof did not end, or not as it must for the next one."""


@dataclass(frozen=True)
class Plan:
    """How large the proof is."""

    model: Path
    engine: str
    seconds: float
    vocabulary: int
    tasks: tuple[str, ...]
    """Arguments of `nexus deploy` that name the check."""

    @property
    def is_full(self) -> bool:
        return self.seconds >= 60

    @property
    def streams(self) -> int:
        return 100 if self.is_full else 12

    @property
    def answer_tokens(self) -> int:
        return 64 if self.is_full else 16

    def judged(self, target: str) -> str | None:
        """The target, where this proof is large enough to judge times."""
        return target if self.is_full else None


@dataclass
class Crowd:
    """Clients that ask again and again; each has one open stream."""

    plan: Plan
    port: int
    count: int

    def __post_init__(self) -> None:
        self.ends: list[tuple[float, float, End]] = []
        """Began, ended (`time.monotonic`), and how."""
        self.hanging = 0
        """Streams that never ended."""
        self._is_over = False

    async def run(self, work: Callable[[], Any]) -> Any:
        """What `work` gives, done in a thread while all streams are open."""
        clients = [asyncio.create_task(self._client(number)) for number in range(self.count)]
        while len(self.ends) < self.count:  # the first answers come in a heap
            await asyncio.sleep(0.05)
        try:
            return await asyncio.to_thread(work)
        finally:
            self._is_over = True
            _, hanging = await asyncio.wait(clients, timeout=LAST_ANSWER_SECONDS)
            self.hanging = len(hanging)
            for client in hanging:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, number: int) -> None:
        turn = 0
        while not self._is_over:
            turn += 1
            (prompt,) = prompts(10_000 * number + turn, count=1, tokens=32, vocabulary=self.plan.vocabulary)
            began = time.monotonic()
            end = await follow(Stream(), self.port, body_of(prompt, self.plan.answer_tokens))
            self.ends.append((began, time.monotonic(), end))
            if end.kind != "whole":
                await asyncio.sleep(0.2)  # a refused client would ask thousands of times a second

    def first_seconds(self, since: float, until: float) -> list[float]:
        """Times to the first token of the streams that began in between."""
        return [end.first_seconds for began, _, end in self.ends if since <= began <= until and end.first_seconds]

    def lost(self, since: float = 0.0) -> int:
        """Streams that ended since then, but not whole, and those that never did."""
        return self.hanging + sum(ended >= since and end.kind != "whole" for _, ended, end in self.ends)

    def next_end(self, since: float) -> float | None:
        """When the first stream that began since then was answered; None where it takes too long."""
        while time.monotonic() < since + LAST_ANSWER_SECONDS:
            for began, ended, end in self.ends[-1_000:]:
                if began >= since and end.kind == "whole":
                    return ended
            time.sleep(0.1)
        return None


def swapped(plan: Plan, scratch: Path) -> list[Claim]:
    """The whole rollout under open streams; the time before it, as long as itself, is what it is held against."""
    with _server(plan) as server:
        crowd, old = Crowd(plan, server.port, plan.streams), server.engine()

        def work() -> tuple[float, float, subprocess.CompletedProcess[str]]:
            quiet = 60.0 if plan.is_full else 10.0
            time.sleep(quiet)
            began = time.monotonic()
            done = _deploy(
                plan, server, plan.model, scratch, canary=15 if plan.is_full else 1, bake=15 if plan.is_full else 1
            )
            return began, began - quiet, done

        began, quiet_since, done = asyncio.run(crowd.run(work))
        ended, new = time.monotonic(), server.engine()
    before, during = crowd.first_seconds(quiet_since, began), crowd.first_seconds(began, ended)
    p95 = [percentile(times, 0.95) if times else None for times in (before, during)]
    ratio = p95[1] / p95[0] if p95[0] and p95[1] else None
    steps = _document(done)["steps"]
    return [
        Claim("streams that were open all the time", crowd.count, target=f"≥ {plan.streams}"),
        Claim("streams over the whole swap", len(crowd.ends)),
        Claim("streams lost by the swap", crowd.lost(), target="≤ 0"),
        Claim("exit code of nexus deploy", done.returncode, target="≤ 0"),
        Claim("another engine answers", int(bool(old and new and old.pid != new.pid)), target="≥ 1"),
        Claim("first token, 95th percentile, before", p95[0], "s"),
        Claim("first token, 95th percentile, during", p95[1], "s"),
        Claim("first token, 95th percentile, during ÷ before", ratio, target=plan.judged("< 1.2")),
        *(Claim(f"step {name}", facts["seconds"], "s") for name, facts in steps.items()),
        *(Claim(f"cold start, {name}", steps["warm"].get(f"{name}_seconds"), "s") for name in ("pull", "load", "warm")),
    ]


def drilled(plan: Plan, scratch: Path) -> list[Claim]:
    """`--seconds` of service in which an engine is killed, a bad model comes, and a sound one is turned back twice."""
    with _server(plan) as server:
        crowd = Crowd(plan, server.port, 32 if plan.is_full else 4)

        def work() -> tuple[float, list[Claim]]:
            began = time.monotonic()
            time.sleep(plan.seconds / 10)
            killed, found = _killed(plan, server, crowd)
            time.sleep(plan.seconds / 20)
            found += _bad_model(plan, server, crowd, scratch / "bad")
            found += _turned_back(plan, server, crowd, scratch / "back")
            time.sleep(max(0.0, began + plan.seconds - time.monotonic()))
            return killed, [Claim("the drill", time.monotonic() - began, "s"), *found]

        killed, found = asyncio.run(crowd.run(work))
    in_flight = [end for began, ended, end in crowd.ends if began <= killed <= ended]
    others = [end for began, ended, end in crowd.ends if not began <= killed <= ended]
    share = sum(end.kind == "whole" for end in others) / max(1, len(others) + crowd.hanging)
    return [
        *found,
        Claim("requests in flight at the kill", len(in_flight)),
        Claim("of them ended without a word", sum(end.kind == "broken" for end in in_flight), target="≤ 0"),
        Claim("requests not in flight at the kill", len(others)),
        Claim("availability of those, all of the drill", share, target="≥ 0.999"),
    ]


def _killed(plan: Plan, server: Served, crowd: Crowd) -> tuple[float, list[Claim]]:
    """When the engine got its kill -9, and how long the service was gone."""
    engine = server.engine()
    assert engine is not None
    engine.kill()
    killed = time.monotonic()
    while server.status() == 200 and time.monotonic() < killed + 10:
        time.sleep(0.02)
    while server.status() != 200:
        if time.monotonic() > killed + LONGEST_SECONDS:
            raise UnfinishedError("the service did not come back")
        time.sleep(0.05)
    back = time.monotonic() - killed
    answered = crowd.next_end(killed + back)
    return killed, [
        Claim("killed engine: ready again after", back, "s", plan.judged("< 15")),
        Claim("killed engine: the next whole answer after", answered and answered - killed, "s"),
    ]


def _bad_model(plan: Plan, server: Served, crowd: Crowd, root: Path) -> list[Claim]:
    """A package whose weights load and are wrong: the answers give it away before anybody is sent to it."""
    root.mkdir()
    broken, before, began = _broken(_copied(plan.model, root / "broken")), server.engine(), time.monotonic()
    # It must not last: should the answers let it through, it is done at once, and the claims below tell.
    done = _deploy(plan, server, broken, root, canary=0, bake=0)
    document, after = _document(done), server.engine()
    told = [
        Claim("exit code of nexus deploy (3: worse)", done.returncode, target="≥ 3"),
        Claim("turned back", int(document["status"] == "rolled_back"), target="≥ 1"),
        Claim("by the answers", int(document["verdict"] == "fail" and "answers" in document["reason"]), target="≥ 1"),
        Claim("the old engine answers", int(bool(before and after and before.pid == after.pid)), target="≥ 1"),
        Claim("streams lost", crowd.lost(began), target="≤ 0"),
        Claim("from the command to the old model alone", time.monotonic() - began, "s"),
    ]
    return [replace(claim, what=f"bad model: {claim.what}") for claim in told]


def _turned_back(plan: Plan, server: Served, crowd: Crowd, root: Path) -> list[Claim]:
    """`nexus rollback` while the new model bakes with all the traffic, and again after the old one has gone."""
    root.mkdir()
    plan = replace(plan, tasks=("--check", str(_quick_check(root))))  # the answers were judged before
    began, other = time.monotonic(), _copied(plan.model, root / "other")
    with subprocess.Popen(_command(plan, server, other, root, canary=0, bake=600), **_quiet) as deploying:
        try:
            _await_step(root, "bake", deploying)
            warm = _timed(server, root)
            deploying.wait(60)
        finally:
            deploying.kill()
    if _deploy(plan, server, other, root, canary=0, bake=0).returncode:
        raise UnfinishedError("a sound model was not rolled out")
    cold = _timed(server, root)
    return [
        Claim("nexus rollback while blue is warm", warm, "s", plan.judged("< 10")),
        Claim("nexus rollback after blue was drained", cold, "s", plan.judged("< 60")),
        Claim("streams lost by going back", crowd.lost(began), target="≤ 0"),
    ]


PROOFS = {"swap": swapped, "drill": drilled}


def main() -> int:
    """Runs the proofs, stores what they found, and says whether all claims hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a packaged model folder [default: the newest one in artifacts/]")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the drill; below 60, everything is small")
    parser.add_argument("--check", nargs="+", type=Path, default=[], help="task files instead of the 50 questions")
    parser.add_argument("--only", nargs="+", choices=list(PROOFS))
    parser.add_argument("--out", type=Path, default=claims.RESULTS)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    claims.RESULTS = given.out
    model = packaged_model(given.model).resolve()
    for path in given.check:
        load_task(path)
    tasks = tuple(word for path in given.check for word in ("--check", str(path)))
    vocabulary = min(20_000, ChatTokenizer.load(model).vocabulary_size)
    plan = Plan(model, given.engine, given.seconds, vocabulary, tasks)
    found: list[Claim] = []
    for name in given.only or PROOFS:
        tell(f"— {name}")
        with tempfile.TemporaryDirectory() as scratch:
            try:
                told = PROOFS[name](plan, Path(scratch))
            except (UnfinishedError, subprocess.TimeoutExpired) as error:
                tell(f"  {error}")
                told = [Claim("came to its end", 0, target="≥ 1")]
            for claim in told:
                found.append(Claim(f"{name}: {claim.what}", claim.value, claim.unit, claim.target))
                tell(f"  {found[-1].what}: {claim.value} {claim.unit} {claim.target or ''} {claim.holds}")
    command = f"benchmarks/proof_rollout.py --seconds {plan.seconds:g}"
    details = {"streams": plan.streams, "answer_tokens": plan.answer_tokens, "engine": plan.engine}
    claims.store(
        "proof_rollout", "Rollouts under open streams", found, details=details, note=given.note, command=command
    )
    return 1 if any(claim.holds is False for claim in found) else 0


@contextlib.contextmanager
def _server(plan: Plan) -> Iterator[Served]:
    options = ["--drain-seconds", "60", "--set", "serve.max_running=64", "--set", "serve.max_waiting=400"]
    with served(plan.model, engine=plan.engine, options=options) as one:
        yield one


_quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _command(plan: Plan, server: Served, model: Path, root: Path, *, canary: float, bake: float) -> list[str]:
    return [
        sys.executable, "-m", "nexus_llm.cli", "deploy", str(model), "--url", server.url, "--root", str(root), "--json",
        "--canary-percent", "25", "--canary-seconds", str(canary), "--bake-seconds", str(bake),
        "--first-token-seconds", "60", *plan.tasks,
    ]  # fmt: skip


def _deploy(
    plan: Plan, server: Served, model: Path, root: Path, *, canary: float, bake: float
) -> subprocess.CompletedProcess[str]:
    command = _command(plan, server, model, root, canary=canary, bake=bake)
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LONGEST_SECONDS, check=False)


def _document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        raise UnfinishedError(f"nexus deploy: {found['error']}")
    return found


def _await_step(root: Path, step: str, process: subprocess.Popen[Any]) -> None:
    """Returns once the newest rollout stands at that step."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        files = sorted((root / "runs" / "deploy").glob("*/*.json"))
        if files and json.loads(files[-1].read_text())["step"] == step:
            return
        time.sleep(0.1)
    raise UnfinishedError(f"nexus deploy did not come to {step} (exit code {process.poll()})")


def _timed(server: Served, root: Path) -> float:
    """Seconds of the whole command, the start of Python included, until the old model has all requests again."""
    began = time.monotonic()
    command = [sys.executable, "-m", "nexus_llm.cli", "rollback", "--url", server.url, "--root", str(root)]
    if subprocess.run(command, timeout=LONGEST_SECONDS, check=False, **_quiet).returncode:
        raise UnfinishedError("nexus rollback failed")
    return time.monotonic() - began


def _quick_check(folder: Path) -> Path:
    """Fifty questions of one token each: a check that every package passes against itself."""
    path = folder / "quick.yaml"
    lines = ["task: quick", 'prompt: "{{ question }}"', "max_new_tokens: 1", "scorer: {type: contains}", "items:"]
    lines += [f"  - {{question: Count to {number}., target: nobody says this}}" for number in range(50)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _copied(model: Path, folder: Path) -> Path:
    """What an engine needs of a package, without its manifest: what is changed on purpose shall not be refused."""
    folder.mkdir()
    for name in NEEDED:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    for file in model.glob("*.gguf"):
        shutil.copyfile(file, folder / file.name)
    return folder


def _broken(model: Path) -> Path:
    """Shuffles the rows of every down projection: the file is as valid as before, the model is not."""
    import gguf
    import numpy as np

    for file in model.glob("*.gguf"):
        for tensor in gguf.GGUFReader(str(file), "r+").tensors:
            if "ffn_down" in tensor.name:
                tensor.data[:] = tensor.data[np.random.default_rng(0).permutation(len(tensor.data))]
    return model


if __name__ == "__main__":
    sys.exit(main())
