"""A rehearsal as one self-contained page: no script, no link, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #17202b; --soft: #5b6877; --line: #dfe4ea;
  --good: #14804a; --bad: #c2332b; --bar: #2463c9; --emulated: #b4690e; }
@media (prefers-color-scheme: dark) { :root { --page: #10151b; --card: #18202a; --ink: #e7ecf2; --soft: #9aa8b8;
  --line: #2c3743; --good: #46c588; --bad: #ff7b72; --bar: #6fa3f7; --emulated: #e5a558; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 36px 20px 60px; }
h1 { font-size: 28px; margin: 0 0 6px; } h2 { font-size: 19px; margin: 0 0 8px; } p { margin: 4px 0 10px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px;
  margin-top: 18px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); }
th, .soft { color: var(--soft); } .n { text-align: right; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 650; }
.bar { height: 8px; min-width: 1px; border-radius: 4px; background: var(--bar); }
article { border-top: 1px solid var(--line); padding: 12px 0 8px; } h3 { font-size: 16px; margin: 0; }
h3 .n { float: right; font-weight: 400; }
dl { display: grid; grid-template-columns: minmax(120px, 230px) 1fr; gap: 2px 14px; margin: 8px 0; font-size: 14.5px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; } .real { color: var(--good); }
.emulated { color: var(--emulated); } @media (max-width: 560px) { dl { grid-template-columns: 1fr; } }
"""


def page(document: Mapping[str, Any]) -> str:
    """The page of what `nexus aws rehearse --json` prints."""
    verdict = _word(document["holds"], "every step was done", "not every step was done")
    where = (
        f"{document['date']} · {document['recipe']} · {document['machine']} · {document['emulator']} · "
        f"{document['seconds']:.0f} s · shortened: {document['shortened']}"
    )
    body = "\n".join(
        (
            _card("Where the time went", _bars(document["steps"])),
            _card("Step by step", "".join(_step(one) for one in document["steps"])),
            _card("Faults that were injected", _faults(document["faults"])),
            _card("Receipts", "".join(_receipt(one) for one in document["receipts"]) or "<p>There is none.</p>"),
            _card(
                f"The ledger ({document['usd_per_month']:,.2f} USD a month were agreed to)",
                _table(("at", "stage", "action", "event", "changes", "error"), document["ledger"]),
            ),
            _card("What cannot be proved here", _items(document["not_proved"])),
            _card(
                f"What rests on patches of the emulator and on stand-ins ({len(document['rests_on_patches'])})",
                _table(("kind", "reason"), document["rests_on_patches"]),
            ),
            _card(
                f"What the emulator forgets ({len(document['known_gaps'])})",
                "<p class='soft'>A second plan would change these although nothing did; <code>make proof-aws</code> "
                "compares.</p>" + _table(("stage", "what", "reason"), document["known_gaps"]),
            ),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Rehearsal on an emulated AWS</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main>"
        f'<h1>Rehearsal: {verdict}</h1><p class="soft">{escape(where)}</p>{body}</main></body></html>\n'
    )


def _card(title: str, inner: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inner}</section>"


def _word(good: object, yes: str, no: str) -> str:
    return f'<span class="good">{escape(yes)}</span>' if good else f'<span class="bad">{escape(no)}</span>'


def _bars(steps: Sequence[Mapping[str, Any]]) -> str:
    end = max((one["began_at"] + one["seconds"] for one in steps), default=0.0) or 1.0
    rows = "".join(
        f"<tr><td>{escape(one['name'])}</td><td class='n'>{one['seconds']:.1f} s</td><td style='width:60%'>"
        f"<div class='bar' style='margin-left:{100 * one['began_at'] / end:.1f}%;"
        f"width:{100 * one['seconds'] / end:.1f}%'></div></td></tr>"
        for one in steps
    )
    return f"<table>{rows}</table>"


def _step(one: Mapping[str, Any]) -> str:
    rows = [("real", one["real"], "real"), ("emulated", one["emulated"], "emulated")]
    rows += [(name, _shown(value), "") for name, value in one["facts"].items()]
    rows += [(name, one[name], "bad") for name in ("error", "fix") if one.get(name)]
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd class='{kind}'>{escape(text)}</dd>" for name, text, kind in rows if text
    )
    verdict = _word(one["verdict"] == "done", one["verdict"], one["verdict"])
    return (
        f"<article><h3>{escape(one['name'])}: {verdict}<span class='n soft'>{one['seconds']:.1f} s</span></h3>"
        f"<p class='soft'>{escape(one['does'])}</p><dl>{facts}</dl></article>"
    )


def _faults(faults: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one['what'])}</td><td>{escape(one['expected'])}</td>"
        f"<td>{_word(one['times'], _times(one['times']), 'did not happen')}</td></tr>"
        for one in faults
    )
    return f"<table><tr><th>fault</th><th>what has to come of it</th><th>happened</th></tr>{rows}</table>"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _receipt(one: Mapping[str, Any]) -> str:
    left = len(one["left"])
    destroyed = ", ".join(f"{stage} {count}" for stage, count in one["destroyed"].items()) or "nothing more"
    head = _word(
        not left and not one["not_asked"], "nothing is left", f"{left} left, {one['usd_per_hour']:.4f} USD an hour"
    )
    rows = [{"found": "left", **row} for row in one["left"]]
    rows += [{"found": "waits for its deletion", **row} for row in one["pending_deletion"]]
    asked = "".join(f"<p class='bad'>not asked: {escape(name)}</p>" for name in one["not_asked"])
    return f"<p>{head}; destroyed: {escape(destroyed)}</p>{asked}" + (
        _table(("found", "kind", "id", "usd_per_hour", "note"), rows) if rows else ""
    )


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in columns)
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(row.get(name)))}</td>" for name in columns) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{cells}</table>"


def _items(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _shown(value: Any) -> str:
    """A value in words: mappings and lists on one line."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(one) for one in value)
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
