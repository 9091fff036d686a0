"""A runbook as its parts: what it answers, what it looks at, what it tells to type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nexus_llm.errors import UsageError
from nexus_llm.observe.contract import Named, in_logs_insights, in_promql, in_runbook

NOT_RUN = "<!-- not run by the tests: "
"""A line above a block of commands that a laptop cannot run, with the reason."""


@dataclass(frozen=True)
class Block:
    """One example."""

    language: str
    """`bash`, `promql` or `logs` (Logs Insights)."""
    text: str
    line: int
    why_not_run: str | None
    """The reason that stands above it; None where the tests run it."""


@dataclass(frozen=True)
class Runbook:
    """One page of docs/runbooks."""

    name: str
    alarms: tuple[str, ...]
    """Names of alarms without the platform's; `*` stands for anything."""
    front: dict[str, Any]
    sections: tuple[str, ...]
    blocks: tuple[Block, ...]

    def answers(self, alarm: str) -> bool:
        """Whether it is the page for an alarm, named with or without its platform."""
        return any(fnmatchcase(alarm, pattern) or fnmatchcase(alarm, f"*-{pattern}") for pattern in self.alarms)


def read_runbook(path: Path) -> Runbook:
    """The parts of a page.

    Raises:
        UsageError: it does not begin with front matter.
    """
    import yaml

    text = path.read_text(encoding="utf-8")
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if found is None:
        raise UsageError(f"{path} has no front matter", fix="begin it with --- and its alarms, metrics and events")
    front = yaml.safe_load(found[1])
    sections = tuple(re.findall(r"^## (.+)$", text, re.MULTILINE))
    return Runbook(path.stem, tuple(front["alarms"]), front, sections, tuple(code_blocks(text)))


def looks(runbook: Runbook) -> Iterator[Named]:
    """Every metric and log field that a runbook names."""
    place = f"runbook {runbook.name}"
    yield from in_runbook(runbook.front, place)
    for block in runbook.blocks:
        if block.language == "promql":
            for line in block.text.splitlines():
                yield from in_promql(line, place)
        elif block.language == "logs":
            yield from in_logs_insights(block.text, place)


def code_blocks(text: str) -> Iterator[Block]:
    """The examples of a page, in its order."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        above = text[: found.start()].rstrip("\n").rpartition("\n")[2]
        reason = above.removeprefix(NOT_RUN).removesuffix(" -->") if above.startswith(NOT_RUN) else None
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 2, reason)
