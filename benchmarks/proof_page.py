"""The proof as one self-contained page: no script, no link, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nexus_llm.svg import linear_scale, linear_ticks, picture

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 200, 56, 28, 12, 12
LINES = (
    ("Resident memory, MB", "rss_mb"),
    ("Open file descriptors", "descriptors"),
)
STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #17202b; --soft: #5b6877; --line: #dfe4ea;
  --good: #14804a; --bad: #c2332b; --gateway: #2463c9; --engine: #b4690e; }
@media (prefers-color-scheme: dark) { :root { --page: #10151b; --card: #18202a; --ink: #e7ecf2; --soft: #9aa8b8;
  --line: #2c3743; --good: #46c588; --bad: #ff7b72; --gateway: #6fa3f7; --engine: #e5a558; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 36px 20px 60px; }
h1 { font-size: 28px; margin: 0 0 6px; } h2 { font-size: 19px; margin: 0; } h3 { font-size: 15px; margin: 18px 0 0; }
p { margin: 4px 0 10px; } .soft, th { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px;
  margin-top: 18px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); }
.n { text-align: right; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 650; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); } polyline { fill: none; stroke-width: 2; }
.gateway { stroke: var(--gateway); } .engine { stroke: var(--engine); }
.key { font-weight: 600; } .key.gateway { color: var(--gateway); } .key.engine { color: var(--engine); }
"""


def page(document: Mapping[str, Any]) -> str:
    """The page of what `proof_serve` found."""
    verdict = (
        '<span class="good">all claims hold</span>' if document["holds"] else '<span class="bad">not all hold</span>'
    )
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    where = f"{document['date']} · {document['hardware']} · {versions}"
    sections = "\n".join(_section(scenario) for scenario in document["scenarios"])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(document["title"])}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body><main>'
        f'<h1>{escape(document["title"])}: {verdict}</h1><p class="soft">{escape(where)}</p>'
        f"<p>{escape(document['note'])}</p>{sections}</main></body></html>\n"
    )


def _section(scenario: Mapping[str, Any]) -> str:
    rows = "".join(_row(claim) for claim in scenario["claims"])
    plots = "".join(_plot(scenario["samples"], title, name) for title, name in LINES) if scenario.get("samples") else ""
    return (
        f"<section><h2>{escape(scenario['title'])}</h2><p class='soft'>{escape(scenario['told'])}</p>"
        "<table><tr><th>what</th><th class='n'>measured</th><th class='n'>should be</th><th>holds</th></tr>"
        f"{rows}</table>{plots}</section>"
    )


def _row(claim: Mapping[str, Any]) -> str:
    value = "not seen" if claim["value"] is None else f"{claim['value']:g} {claim['unit']}"
    verdict = {None: "", True: '<span class="good">yes</span>', False: '<span class="bad">no</span>'}[claim["holds"]]
    return (
        f"<tr><td>{escape(claim['what'])}</td><td class='n'>{escape(value)}</td>"
        f"<td class='n'>{escape(claim['target'] or '')}</td><td>{verdict}</td></tr>"
    )


def _plot(samples: Sequence[Mapping[str, float]], title: str, name: str) -> str:
    lines = {who: [(one["seconds"], one[f"{who}_{name}"]) for one in samples if f"{who}_{name}" in one]
             for who in ("gateway", "engine")}  # fmt: skip
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    ticks = linear_ticks(0, max(value for _, value in points))
    across = linear_scale(0, max(seconds for seconds, _ in points) or 1, LEFT, WIDTH - RIGHT)
    up = linear_scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in ticks
    ]
    for who, line in lines.items():
        path = " ".join(f"{across(seconds):.1f},{up(value):.1f}" for seconds, value in line)
        parts.append(f'<polyline class="{who}" points="{path}"/>')
    last = max(seconds for seconds, _ in points)
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{last:.0f} s</text>')
    keys = " · ".join(f'<span class="key {who}">{who}</span>' for who in lines)
    return f"<h3>{escape(title)} ({keys})</h3>" + picture(parts, width=WIDTH, height=HEIGHT, title=title)
