"""The run's own report: the evaluation's page, and how the model came to be."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.artifacts import Artifact
from nexus_llm.pipeline.loss_curve import is_skipped, loss_curve

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
        _origin_section(run, stages, artifacts["evaluate"].manifest.provenance),
    ]
    storage.write_atomically(run / "report.html", "".join([body, *sections, end, rest]).encode())


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
    rows = [json.loads(row) for row in log]
    summary = (
        f"{facts['steps']:,} steps, {facts['tokens']:,} tokens, {facts['trainable_parameters']:,} trained weights. "
        "The line is the loss of each step, the dots are held-out validation text."
    )
    if skipped := sum(is_skipped(row) for row in rows):
        summary += f" Skipped steps, marked by crosses: {skipped:,}."
    if broken := facts.get("broken_checkpoints"):
        summary += f" Broken checkpoints that were set aside: {len(broken):,}."
    return _card("How it learned", summary, loss_curve(rows, facts["validation_losses"]))


def _origin_section(run: Path, stages: list[dict[str, Any]], provenance: dict[str, Any]) -> str:
    rows = [(stage["stage"], f"{stage['id']} · {stage['path']}") for stage in stages]
    rows += [(f"evaluated: {name.replace('_', ' ')}", _words(value)) for name, value in provenance.items()]
    commands = f"<p><code>nexus chat {escape(str(run))}</code><br><code>nexus serve {escape(str(run))}</code></p>"
    return _card("Where it comes from, and how to talk to it", "", _list(rows) + commands)


def _card(title: str, summary: str, inner: str) -> str:
    return f'<section class="card"><h2>{title}</h2><p class="soft">{escape(summary)}</p>{inner}</section>\n'


def _list(rows: list[tuple[str, Any]]) -> str:
    items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(_shown(value))}</dd>" for name, value in rows)
    return f'<dl class="numbers">{items}</dl>'


def _words(value: Any) -> str:
    """A value of the provenance: a command line, or libraries with their versions."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
