"""The run's own report: the evaluation's page, and how the model came to be."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.artifacts import Artifact

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 880, 240, 56, 34
_END_OF_PAGE = "</main>"


def write_report(run: Path, artifacts: dict[str, Artifact], stages: list[dict[str, Any]]) -> None:
    """Puts `report.json` and `report.html` into the run folder, made from finished artifacts only."""
    evaluation = json.loads(artifacts["evaluate"].file("report.json").read_text(encoding="utf-8"))
    facts = {kind: artifact.manifest.facts for kind, artifact in artifacts.items()}
    document = {**evaluation, "stages": stages, "facts": facts}
    storage.write_atomically(run / "report.json", (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    page = artifacts["evaluate"].file("report.html").read_text(encoding="utf-8")
    body, end, rest = page.rpartition(_END_OF_PAGE)
    sections = [
        _data_section(facts["data"]),
        _training_section(artifacts["train"]),
        _origin_section(run, stages),
    ]
    storage.write_atomically(run / "report.html", "".join([body, *sections, end, rest]).encode())


def loss_curve(rows: list[dict[str, Any]], validation: list[dict[str, Any]]) -> str:
    """Training loss per step as a line, validation losses as dots: SVG in the classes of the evaluation's page."""
    losses = [float(row["loss"]) for row in rows + validation]
    last_step = int(rows[-1]["step"])
    low, high = min(losses), max(losses)
    margin = (high - low) * 0.08 or 0.1
    low, high = low - margin, high + margin

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 12) * step / last_step

    def y(loss: float) -> float:
        return 10 + (_HEIGHT - _BOTTOM - 10) * (high - loss) / (high - low)

    ticks = [low + (high - low) * share for share in (0.1, 0.5, 0.9)]
    points = " ".join(f"{x(row['step']):.1f},{y(row['loss']):.1f}" for row in rows)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Loss per training step">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 12}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="label" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
    parts.append(f'<polyline points="{points}" fill="none" stroke="var(--domain)" stroke-width="1.5"/>')
    for row in validation:
        parts.append(f'<circle class="pass" cx="{x(row["step"]):.1f}" cy="{y(row["loss"]):.1f}" r="5"/>')
    parts.append(f'<text class="label" x="{_LEFT}" y="{_HEIGHT - 10}">step 0</text>')
    parts.append(f'<text class="label" x="{_WIDTH - 12}" y="{_HEIGHT - 10}" text-anchor="end">step {last_step}</text>')
    return "".join([*parts, "</svg>"])


def _data_section(facts: dict[str, Any]) -> str:
    documents, tokens = facts["documents"], facts["tokens"]
    rows = [("read", facts["read"]), ("broken lines set aside", facts["quarantined"])]
    rows += [(f"rejected: {rule}", count) for rule, count in facts["rejected"].items()]
    rows += [(f"{kind} duplicates", count) for kind, count in facts["duplicates"].items()]
    rows += [(f"kept for {split}", f"{documents[split]:,} ({tokens[split]:,} tokens)") for split in documents]
    return _card("What it learned from", "Every document that was read, and what became of it.", _list(rows))


def _training_section(artifact: Artifact) -> str:
    facts = artifact.manifest.facts
    log = (artifact.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    summary = (
        f"{facts['steps']:,} steps, {facts['tokens']:,} tokens, {facts['trainable_parameters']:,} trained weights. "
        "The line is the loss of each step, the dots are held-out validation text."
    )
    return _card("How it learned", summary, loss_curve([json.loads(row) for row in log], facts["validation_losses"]))


def _origin_section(run: Path, stages: list[dict[str, Any]]) -> str:
    rows = [(stage["stage"], f"{stage['id']} · {stage['path']}") for stage in stages]
    commands = f"<p><code>nexus chat {escape(str(run))}</code><br><code>nexus serve {escape(str(run))}</code></p>"
    return _card("Where it comes from, and how to talk to it", "", _list(rows) + commands)


def _card(title: str, summary: str, inner: str) -> str:
    return f'<section class="card"><h2>{title}</h2><p class="soft">{escape(summary)}</p>{inner}</section>\n'


def _list(rows: list[tuple[str, Any]]) -> str:
    items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(_shown(value))}</dd>" for name, value in rows)
    return f'<dl class="numbers">{items}</dl>'


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
