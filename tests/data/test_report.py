from __future__ import annotations

import copy
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_artifacts import FIRST, REJECTED, REJECTED_SCHEMA, facts, identity, write_rejected
from nexus_llm.data.looking import plots as report_plots
from nexus_llm.data.looking import report

FACTS = facts({"train": 60, "validation": 20, "test": 0})
VOID = {"meta", "br", "link", "input", "img", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects them and the text that a person reads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in VOID and not self._is_closed():
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def _is_closed(self) -> bool:
        return (self.get_starttag_text() or "").endswith("/>")


def rejected(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    """`rows` are (ordinal, origin, rule, reason, value, excerpt)."""
    whole = [(ordinal, identity(origin), "files", origin, *rest) for ordinal, origin, *rest in rows]
    return pl.DataFrame(whole, REJECTED_SCHEMA, orient="row")


def test_the_page_is_one_sound_document_that_loads_nothing(tmp_path: Path) -> None:
    write_rejected(tmp_path, REJECTED)
    html = report.page(FACTS, report.examples(pl.scan_parquet(tmp_path / "rejected.parquet")), "quick & dirty")
    page = Page(html)
    assert "quick & dirty" in page.text
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"""(?:src|href)=|url\(|@import""", html)
    assert "all counts add up" in page.text


def test_everything_from_outside_is_escaped_and_control_characters_are_made_visible() -> None:
    evil = "<script>alert('x')</script>\x00\x1b"
    odd = copy.deepcopy(FACTS)
    odd["sources"] = {evil: odd["sources"]["files"] | {"unknown_endings": {f".{evil}": 1}}}
    odd["languages"] = {evil: 4}
    odd["contamination"] = {evil: 1}
    rows = [(1, evil, "min_characters", evil, 1.0, evil), (2, "o:2", "exact_duplicate", f"equal to {FIRST}", 1.0, evil)]
    html = report.page(odd, report.examples(rejected(rows)), evil)
    assert "script" not in Page(html).tags
    assert html.count("&lt;script&gt;") >= 8
    assert "\x00" not in report.page(FACTS, report.examples(rejected(rows)), "t")
    assert "␛" in html


def test_personal_data_and_erased_texts_are_never_on_the_page() -> None:
    rows = [(1, "o:1", "pii", "holds a card", None, "4111 1111"), (2, "o:2", "erased", "request 17", None, "my secret")]
    found = report.examples(rejected(rows))
    assert [one.excerpt for examples in found.by_rule.values() for one in examples] == [None, None]
    html = report.page(FACTS, found, "t")
    assert "4111" not in html
    assert "my secret" not in html
    assert "request 17" in html


def test_examples_are_spread_over_each_rule_and_rules_stand_by_size() -> None:
    rows = [(number, f"f:{number}", "common", "c", 1.0, "x") for number in range(90)]
    rows += [(number, f"g:{number}", "rare", "r", 1.0, "x") for number in (95, 99)]
    found = report.examples(rejected(rows)).by_rule
    assert list(found) == ["common", "rare"]
    assert [one.origin for one in found["common"]] == ["f:0", "f:30", "f:60"]
    assert [one.origin for one in found["rare"]] == ["g:95", "g:99"]


def test_no_rejection_at_all_is_fine() -> None:
    empty = report.examples(rejected([]))
    assert empty == report.Examples()
    nothing = copy.deepcopy(FACTS) | {"rejected": {}, "duplicates": {"exact": 0, "near": 0}}
    assert "Why documents were left out" not in report.page(nothing, empty, "t")


def test_copies_of_a_near_duplicate_count_for_the_document_that_was_kept() -> None:
    rows = [row for row in REJECTED if row[2].endswith("_duplicate")]
    rows += [(20, "z:1", "exact_duplicate", f"equal to {identity('other')}", 1.0, "other text")]
    first, second = report.examples(rejected(rows)).clusters
    assert (first.kept_id, first.copies) == (FIRST, 3)
    assert (second.kept_id, second.copies, second.excerpt) == (identity("other"), 1, "other text")


def test_duplicates_that_name_each_other_in_a_ring_do_not_hang() -> None:
    ring = [(n, f"o:{n}", "exact_duplicate", f"equal to {identity(f'o:{(n + 1) % 3}')}", 1.0, "x") for n in range(3)]
    assert isinstance(report.examples(rejected(ring)), report.Examples)


def test_the_facts_of_a_sound_artifact_pass_every_check() -> None:
    found = report.checks(FACTS)
    assert len(found) >= 9
    assert [one.claim for one in found if not one.holds] == []


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        (("read",), {"read = kept + rejected + duplicates", "read = the sources' together"}),
        (("kept",), {"kept = documents of all splits", "kept = the sources' together"}),
        (("quarantined",), {"broken = the sources' together"}),
        (("documents", "train"), {"kept = documents of all splits"}),
        (("tokens", "train"), {"tokens = the sources' together"}),
        (("characters", "train"), {"characters = the sources' together"}),
        (("duplicates", "near"), {"read = kept + rejected + duplicates"}),
        (("rejected", "pii"), {"pii = the sources' together"}),
        (("sources", "files", "rejected", "pii"), {"pii = the sources' together", "source files: read = kept"}),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_count_that_is_off_by_one_is_found_and_shown(path: tuple[str, ...], claims: set[str]) -> None:
    wrong = copy.deepcopy(FACTS)
    # The sources share one dictionary of duplicates with the whole in the fixture: take them apart first.
    wrong["sources"]["files"]["duplicates"] = dict(wrong["sources"]["files"]["duplicates"])
    *parents, last = path
    place: Any = wrong
    for name in parents:
        place = place[name]
    place[last] += 1
    broken = {one.claim for one in report.checks(wrong) if not one.holds}
    assert all(any(claim in one for one in broken) for claim in claims)
    text = Page(report.page(wrong, report.Examples(), "t")).text
    assert "counts do not add up" in text
    assert "differs by 1" in text


def test_facts_of_a_small_engine_without_the_optional_parts_make_a_page() -> None:
    few = {name: FACTS[name] for name in ("read", "kept", "quarantined", "duplicates", "rejected", "documents")}
    few |= {name: FACTS[name] for name in ("tokens", "characters", "shards")}
    few["sources"] = {"files": {"files": 3, "read": FACTS["read"], "broken": 1, "unknown_endings": {}}}
    assert "all counts add up" in Page(report.page(few, report.Examples(), "t")).text


def test_a_page_of_a_huge_corpus_stays_small() -> None:
    huge = copy.deepcopy(FACTS)
    huge["sources"] = {f"source {n}": FACTS["sources"]["files"] for n in range(3000)}
    huge["rejected"] = {f"rule_{n}": 1 for n in range(500)}
    huge["languages"] = {f"l{n}": n + 1 for n in range(176)}
    rows = [(n, f"{'deep/' * 30}f:{n}", f"rule_{n % 500}", "too much " * 10, 0.5, "x" * 2000) for n in range(2000)]
    assert len(report.page(huge, report.examples(rejected(rows)), "t").encode()) < 300_000


def test_each_step_of_the_funnel_starts_where_the_one_before_it_ended() -> None:
    steps = report.funnel_steps(FACTS)
    assert [one.name for one in steps] == [
        "records found",
        "could not be read",
        "quality rules",
        "personal data",
        "exact duplicates",
        "near-duplicates",
        "kept",
    ]
    for before, after in zip(steps, steps[1:], strict=False):  # noqa: RUF007 - pairs read better so
        assert after.left + after.removed == before.left


@given(
    st.dictionaries(st.sampled_from(["erased", "pii", "language", "blocked_x", "x", "chat_template"]), st.integers(0))
)
def test_the_funnel_takes_out_every_rejection_once(counts: dict[str, int]) -> None:
    whole = FACTS | {"rejected": counts, "read": FACTS["kept"] + sum(counts.values()) + 3}
    steps = report.funnel_steps(whole)
    assert sum(one.removed for one in steps) == sum(counts.values()) + 3 + FACTS["quarantined"]
    assert steps[-2].left == steps[-1].left == FACTS["kept"]


@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_share_reads_as_nothing_or_all_only_when_it_is(part: int, more: int) -> None:
    whole = part + more
    assert report_plots.share(whole, whole) == "100 %"
    assert report_plots.share(part, whole) != "100 %"
    assert (report_plots.share(part, whole) == "0 %") is (part == 0)


@pytest.mark.browser
def test_nothing_on_the_page_is_wider_than_a_screen(tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver_path = shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        pytest.skip("no chromium with chromedriver on this machine")
    from selenium.webdriver.chrome.service import Service

    (tmp_path / "report.html").write_text(
        report.page(FACTS, report.examples(rejected(list(REJECTED))), "t"), encoding="utf-8"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *quiet):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        for width in (400, 1000):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((tmp_path / "report.html").as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            if folder := os.environ.get("NEXUS_SCREENSHOTS"):
                browser.save_screenshot(str(Path(folder) / f"data-report-{width}.png"))
        assert browser.get_log("browser") == []
    finally:
        browser.quit()
