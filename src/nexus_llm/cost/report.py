"""A plan, or what was spent, as one self-contained HTML page with plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from nexus_llm.cost.api_price import ApiUse, monthly_bill
from nexus_llm.cost.money import DAYS_PER_MONTH
from nexus_llm.cost.plan import Planner, recipe_traffic
from nexus_llm.svg import linear_scale, linear_ticks, logarithmic_ticks, picture

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 420, 76, 170, 14, 52
_VOLUMES = tuple(10 ** (exponent / 4) for exponent in range(16, 33))  # 10K to 100M requests a month
_STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6675;--line:#d7dde5;--page:#fff;--own:#0b6bcb}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#344050;--page:#12161c;--own:#63a9f5}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:860px;margin:2rem auto;
padding:0 1rem}table{border-collapse:collapse;width:100%}td,th{padding:.25rem .5rem;border-bottom:1px solid var(--line);
text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.soft{color:var(--soft)}svg{width:100%}
.grid{stroke:var(--line)}.label{fill:var(--soft);font-size:12px}.own{stroke:var(--own);fill:none;stroke-width:3}
.api{stroke:var(--soft);fill:none;stroke-width:1.5;stroke-dasharray:5 4}.bar{fill:var(--own)}
"""

Points = Sequence[tuple[float, float]]


def plan_page(document: dict[str, Any], planner: Planner) -> str:
    """The page of a plan: the advice, cost over volume beside the APIs', each volume's bill, what it rests on."""
    parts = [
        f"<p class='soft'>{escape(document['model'])} in {escape(document['region'])}; capacity: "
        f"{escape(document['capacity_model'])}. List prices without tax; the oldest is "
        f"{document['prices']['oldest_days']} days old.</p>",
        "".join(f"<p>{escape(one['words'])}</p>" for one in document["break_even"]),
        f"<p>{escape(document['quality']['words'])}</p>",
        "<h2>USD a month over volume</h2>",
        volume_plot(*_curves(planner)),
        _volumes(document["scenarios"]),
    ]
    for scenario in document["scenarios"]:
        notes = "".join(f"<li>{escape(note)}</li>" for note in scenario["notes"])
        parts += [
            f"<h2>{scenario['requests_per_month']:,.0f} requests a month: {scenario['usd_per_month']:,.2f} USD</h2>"
            f"<p>{escape(option_words(scenario))}; at full load 95 % with "
            f"{latency_words(scenario['latency_p95_seconds'])}</p><ul>{notes}</ul>",
            _bars([(line["name"], line["usd"]) for line in scenario["bill"]]),
        ]
    first = document["scenarios"][0]
    changes = [
        (one["change"], one["usd_per_month"]) for one in document["sensitivity"] if one["usd_per_month"] is not None
    ]
    parts += [
        f"<h2>If an assumption is wrong: {first['requests_per_month']:,.0f} requests a month</h2>",
        _bars([("as planned", first["usd_per_month"]), *changes]),
        "".join(
            f"<p>{escape(one['change'])}: no machine keeps the objective</p>"
            for one in document["sensitivity"]
            if one["usd_per_month"] is None
        ),
        f"<h2>Before the first request: {document['upfront_usd']:,.2f} USD and people's hours</h2>",
    ]
    if training := document["training"]:
        parts.append(
            f"<p>Training: {training['runs']} x {training['usd']:,.2f} USD, {training['machines']} x "
            f"{escape(training['machine'])} {training['purchase']}, {training['billed_hours']:.1f} h, speed not "
            f"measured; {training['interruptions']:.1f} restarts ({escape(training['basis'])}).</p>"
        )
    if data := document["data"]:
        parts.append(
            f"<p>Data: {data['usd']:,.2f} USD, {data['gigabytes']:g} GB on {data['engine']}, a paper estimate.</p>"
        )
    parts.append(f"<h2>Prices</h2>{_prices(document)}<p>{escape(document['left_out'].capitalize())}.</p>")
    return _page(f"What {document['recipe']} costs", parts)


def option_words(option: Mapping[str, Any]) -> str:
    """`2 x g6.xlarge spot, float8`, of a scenario or of one of its options."""
    return f"{option['machines']} x {option['machine']} {option['purchase']}, {option['precision']}"


def latency_words(seconds: Mapping[str, float | None]) -> str:
    """Bounds or percentiles for readers who do not know the letters; None is left out.

    >>> latency_words({"ttft": 2.0, "tpot": 0.1, "e2e": None})
    'first token within 2 s, 0.1 s a token'
    """
    words = {"ttft": "first token within {:.2g} s", "tpot": "{:.2g} s a token", "e2e": "whole answer within {:.3g} s"}
    return ", ".join(form.format(seconds[name]) for name, form in words.items() if seconds.get(name))


def large_lines(bill: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of at least 1 % of the bill, the largest first, and the others."""
    bound = 0.01 * math.fsum(line["usd"] for line in bill)
    ordered = sorted(bill, key=lambda line: -line["usd"])
    return [line for line in ordered if line["usd"] >= bound], [line for line in ordered if line["usd"] < bound]


def actual_page(document: dict[str, Any]) -> str:
    """The page of what was spent: against the plan and the APIs, by day, service, key and model."""
    planned = document["planned_usd_per_month"]
    against = "no plan given" if planned is None else f"planned {planned:,.2f} USD ({document['over_plan_share']:+.1%})"
    parts = [
        f"<p>{document['from']} to {document['to']} (UTC): {document['usd']:,.2f} USD, "
        f"{document['usd_per_month']:,.2f} a month; {against}</p>",
        "".join(f"<p>{escape(words)}</p>" for words in actual_words(document)),
        "<h2>USD a day</h2>",
        day_plot(document["by_day"], None if planned is None else planned / DAYS_PER_MONTH),
        "<h2>By service</h2>",
        _bars([(row["name"], row["usd"]) for row in document["services"]]),
    ]
    for field in ("keys", "models"):
        if document[field]:
            rows = [(f"{row['name']} ({row['requests']:,} requests)", row["usd"]) for row in document[field]]
            parts += [f"<h2>By {field[:-1]}, shared by tokens</h2>", _bars(rows)]
    return _page("What it did cost", parts)


def actual_words(document: dict[str, Any]) -> list[str]:
    """What was spent, in sentences: a request, what the plan says of the traffic that came, idle hours, and APIs."""
    found = []
    if document["usd_per_request"] is not None:
        million = document["usd_per_million_tokens"]
        each = "" if million is None else f", {million:.2f} a million tokens"
        found.append(f"{document['requests']:,} requests: {document['usd_per_request']:.6f} USD each{each}.")
    if traffic := document["traffic"]:
        planned = traffic["planned_usd_per_month"]
        words = "no machine keeps the objective" if planned is None else f"the plan is {planned:,.2f} USD a month"
        found.append(
            f"For the traffic that came ({traffic['requests_per_month']:,} requests a month, "
            f"{traffic['input_tokens']:g} + {traffic['output_tokens']:g} tokens) {words}."
        )
    if (idle := document["idle"]) and idle["of_hours"]:
        found.append(
            f"{idle['hours']} of {idle['of_hours']} hours had no request: {idle['machine_usd']:,.2f} USD of machines."
        )
    elif idle:
        found.append("Idle hours: not known, for this gateway has not noted them.")
    for one in document["apis"]:
        saved = one["saved_usd"]
        verdict = f"{saved:,.2f} USD saved" if saved >= 0 else f"{-saved:,.2f} USD lost"
        found.append(
            f"The same tokens at {one['api']}: {one['usd']:,.2f} USD; {verdict} "
            f"({one['staff_usd']:,.2f} of people's hours included)."
        )
    return found


def day_plot(days: Sequence[dict[str, Any]], planned_usd_per_day: float | None) -> str:
    """A bar for each day's USD, and the plan as a dashed line."""
    high = max([row["usd"] for row in days] + [planned_usd_per_day or 0.0])
    ticks = linear_ticks(0.0, high)
    up = linear_scale(0.0, ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    across = linear_scale(0, len(days), _LEFT, _WIDTH - _RIGHT)
    parts = [_level(up(tick), f"{tick:g}") for tick in ticks]
    parts += [
        f'<rect class="bar" x="{across(place) + 0.5:.1f}" y="{up(max(row["usd"], 0)):.1f}" '
        f'width="{max(across(1) - across(0) - 1, 0.5):.1f}" height="{max(up(0) - up(max(row["usd"], 0)), 0):.1f}">'
        f"<title>{row['day']}: {row['usd']:,.2f} USD, {row['requests']:,} requests</title></rect>"
        for place, row in enumerate(days)
    ]
    parts += [
        f'<text class="label" x="{across(place):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="{side}">{day}</text>'
        for place, side, day in ((0, "start", days[0]["day"]), (len(days), "end", days[-1]["day"]))
    ]
    if planned_usd_per_day is not None:
        y = up(planned_usd_per_day)
        parts.append(f'<line class="api" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text class="label" x="{_WIDTH - _RIGHT + 6}" y="{y + 4:.1f}">the plan</text>')
    return picture(parts, width=_WIDTH, height=_HEIGHT, title="USD a day")


def volume_plot(own: Points, interfaces: Sequence[tuple[str, Points]]) -> str:
    """Cost over volume on two logarithmic axes: our own as a solid line, each API's dashed."""
    every = [point for points in (own, *(points for _, points in interfaces)) for point in points]
    low_x, high_x = min(x for x, _ in every), max(x for x, _ in every)
    low_y, high_y = max(min(y for _, y in every), 1.0), max(y for _, y in every)
    across = linear_scale(math.log10(low_x), math.log10(high_x), _LEFT, _WIDTH - _RIGHT)
    up = linear_scale(math.log10(low_y), math.log10(high_y) + 1e-9, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        _level(up(math.log10(tick)), f"{tick:,.0f}") for tick in logarithmic_ticks(low_y, high_y) if _is_power(tick)
    ]
    parts += [
        f'<text class="label" x="{across(math.log10(tick)):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
        f'text-anchor="middle">{tick:,.0f}</text>'
        for tick in logarithmic_ticks(low_x, high_x)
        if _is_power(tick)
    ]
    for name, points, kind in [*((name, points, "api") for name, points in interfaces), ("our own", own, "own")]:
        places = [(across(math.log10(x)), up(math.log10(y))) for x, y in points if y >= low_y]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
        x, y = places[-1]
        parts.append(
            f'<text class="label" x="{x + 6:.1f}" y="{y + 4:.1f}">{escape(name.rsplit("/", 1)[-1][:26])}</text>'
        )
    parts.append(f'<text class="label" x="{_LEFT}" y="{_HEIGHT - 8}">requests a month (USD a month upwards)</text>')
    return picture(parts, width=_WIDTH, height=_HEIGHT, title="USD a month over requests a month")


def _curves(planner: Planner) -> tuple[Points, list[tuple[str, Points]]]:
    """Our own cost, people's hours included, and each API's, over volume."""
    cost, asked = planner.cost, recipe_traffic(planner.cost)
    staff = cost.staff_hours_per_month * cost.staff_usd_per_hour
    months = [(volume, planner.usd_or_none(replace(asked, requests_per_month=volume))) for volume in _VOLUMES]
    own = [(volume, usd + staff) for volume, usd in months if usd is not None]
    others: list[tuple[str, Points]] = []
    for api in cost.compare_with:
        each = monthly_bill(
            ApiUse(api, cost.cached_input_share, cost.batch_prices),
            replace(asked, requests_per_month=1.0),
            planner.table,
        ).usd
        others.append((api, [(volume, each * volume) for volume in _VOLUMES]))
    return own, others


def _volumes(scenarios: Sequence[dict[str, Any]]) -> str:
    """A row a volume."""
    rows = "".join(
        f"<tr><td class='n'>{one['requests_per_month']:,.0f}</td><td class='n'>{one['usd_per_month']:,.2f}</td>"
        f"<td class='n'>{one['usd_per_million_tokens']:,.2f}</td><td class='n'>{one['idle_share']:.0%}</td>"
        f"<td>{escape(option_words(one))}</td></tr>"
        for one in scenarios
    )
    head = "".join(
        f"<th class='n'>{name}</th>" for name in ("requests a month", "USD a month", "USD a million tokens", "idle")
    )
    return f"<table><tr>{head}<th>the cheapest</th></tr>{rows}</table>"


def _prices(document: Mapping[str, Any]) -> str:
    """A row a price: what for, a unit of it, who says so and of which day."""
    bills = [one["bill"] for one in (*document["scenarios"], document["training"], document["data"]) if one]
    lines = {(line["name"], line["source"]): line for bill in bills for line in bill}
    rows = [
        f"<tr><td>{escape(line['name'])}</td><td class='n'>{line['usd_per_unit']:g}</td><td>{line['unit']}</td>"
        f"<td>{escape(line['source'])}, {line['as_of']}</td></tr>"
        for line in lines.values()
    ]
    rows += [
        f"<tr><td>{escape(one['api'])}</td><td></td><td></td><td>{escape('; '.join(one['price_sources']))}</td></tr>"
        for one in document["break_even"]
    ]
    return f"<table><tr><th>what</th><th class='n'>USD</th><th>one</th><th>source</th></tr>{''.join(rows)}</table>"


def _bars(rows: Sequence[tuple[str, float]]) -> str:
    """Rows with a bar each, the largest first."""
    largest = max((usd for _, usd in rows), default=0.0) or 1.0
    cells = "".join(
        f"<tr><td>{escape(name)}</td><td class='n'>{usd:,.2f}</td><td style='width:40%'><svg viewBox='0 0 100 8' "
        f"preserveAspectRatio='none' height='8'>"
        f"<rect class='bar' width='{max(usd, 0) / largest * 100:.1f}' height='8'/></svg></td></tr>"
        for name, usd in sorted(rows, key=lambda row: (-row[1], row[0]))
    )
    return f"<table><tr><th>what</th><th>USD</th><th></th></tr>{cells}</table>"


def _level(y: float, label: str) -> str:
    """A horizontal line of the grid, with its value."""
    return (
        f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
        f'<text class="label" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _is_power(value: float) -> bool:
    return abs(math.log10(value) - round(math.log10(value))) < 1e-9


def _page(title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )
