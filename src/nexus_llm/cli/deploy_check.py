"""What green must show before it gets traffic: the package's token ids, and answers as good as blue's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.errors import DeploymentError

if TYPE_CHECKING:
    import httpx

    from nexus_llm.deploy.rollout import Judgement
    from nexus_llm.ports import Ports

ITEMS = 50  # of each task: a broken model is ten times worse, and each item is asked twice
CONFIDENCE = 0.95
AT_ONCE = 4  # questions: blue has its users meanwhile
ASKED = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


@dataclass(frozen=True)
class Door:
    """Where one colour can be asked."""

    url: str
    model: str
    headers: dict[str, str]
    transport: httpx.BaseTransport | None = None

    def client(self, *, seconds: float = 300.0) -> httpx.Client:
        """A client of the server, its base the address without `/v1`."""
        import httpx

        return httpx.Client(
            base_url=self.url,
            headers=self.headers,
            transport=self.transport,
            timeout=httpx.Timeout(seconds, connect=10),
        )

    def seconds_to_answer(self) -> float:
        """Of one real question."""
        import time

        began = time.monotonic()
        with self.client() as client:
            _posted(client, "/v1/chat/completions", ASKED | {"model": self.model})
        return time.monotonic() - began


def judge_answers(
    blue: Door, green: Door, *, tasks: Sequence[Path], max_regression: float, kept: Path, ports: Ports
) -> Judgement:
    """The three-valued verdict of the paired tests over each task's items; answers are kept in `kept`, so that a check
    that was stopped goes on.
    """
    from nexus_llm.deploy.rollout import Judgement
    from nexus_llm.evaluate.domain_tasks import Drawing, run_task
    from nexus_llm.evaluate.gate import corrected, judge_tasks, overall
    from nexus_llm.evaluate.over_http import HttpCompleter, HttpLimits
    from nexus_llm.evaluate.results import TaskResult
    from nexus_llm.evaluate.task_file import load_task
    from nexus_llm.recipe import GateRecipe, TaskRule
    from nexus_llm.records import CompleterFacts

    loaded = [load_task(path) for path in tasks]
    found: list[list[TaskResult]] = []
    for colour, door in (("blue", blue), ("green", green)):
        with door.client() as client:
            client.base_url = f"{door.url.rstrip('/')}/v1/"
            completer = HttpCompleter(client, CompleterFacts(door.model, "openai"), HttpLimits(concurrency=AT_ONCE))
            folder = kept / colour
            drawing = Drawing(ITEMS)
            found.append([run_task(one, completer, folder, ports, drawing=drawing)[0] for one in loaded])
    pairs = list(zip(*found, strict=True))
    rules = {one.definition.task: TaskRule(max_regression=max_regression) for one in loaded}
    judged = corrected(
        judge_tasks(pairs, GateRecipe(confidence=CONFIDENCE, tasks=rules), seed=0), confidence=CONFIDENCE
    )
    verdict = overall(one.verdict for one in judged)
    said = "; ".join(f"{one.comparison.name}: {one.reason}" for one in judged if one.verdict == verdict)
    return Judgement(verdict, f"green's answers against blue's: {said}")


def judge_parity(folder: Path, green: Door) -> Judgement:
    """Whether the server makes the token ids of the package's own template: golden conversations without tools."""
    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.deploy.rollout import Judgement
    from nexus_llm.package.template_parity import golden_conversations, trained_prompt

    tokenizer, compared = ChatTokenizer.load(folder), 0
    with green.client() as client:
        for name, messages, tools in golden_conversations():
            wanted = None if tools else trained_prompt(tokenizer, messages, None)
            if wanted is None:
                continue
            got = _posted(client, "/tokenize", {"model": green.model, "messages": messages})["tokens"]
            compared += 1
            if got != wanted:
                return Judgement("fail", f"green makes {len(got)} token ids of {name!r}, the package {len(wanted)}")
    return Judgement("pass", f"{compared} conversations become the package's token ids")


def _posted(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    import httpx

    try:
        answer = client.post(path, json=body)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found
    except (httpx.HTTPError, ValueError) as error:
        raise DeploymentError(
            f"green does not answer {path} at {client.base_url} ({type(error).__name__})", fix="read the server's log"
        ) from error
