"""Block lists: what an entry covers, and that it covers no more."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.judging.block_lists import VERDICT_SCHEMA, blocks_license, load

DOMAINS = [
    "Example.org   # and its subdomains", "# a comment", "", "*.wild.com", ".dot.com", "bücher.example",
    "http://user@host.net:80/path", "co.uk.",
]  # fmt: skip
URLS = ["https://www.bar.com/a/", "bar.com/q?x=1", "bar.com/b#top", "only.com"]


def rules(addresses, names=(), /, **lists):
    """The rule that each URL breaks, or its licence."""
    licenses = pl.Series(names or [None] * len(addresses), dtype=pl.String)
    return load(**lists).verdicts(pl.Series(addresses, dtype=pl.String), licenses)["rule"].to_list()


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org", "HTTP://EXAMPLE.ORG.:8080/x?y#z", "example.org/a", "//a.b.example.org/",
        "https://user:word@example.org/", "  https://example.org/  ", "https://a.wild.com", "x.dot.com", "wild.com",
        "https://Bücher.example/x", "https://xn--bcher-kva.example", "ftp://sub.host.net", "bbc.co.uk", "example.org?q",
    ],
)  # fmt: skip
def test_a_domain_blocks_itself_and_its_subdomains_however_the_url_is_written(url):
    assert rules([url], domains=DOMAINS) == ["blocked_domain"]


@pytest.mark.parametrize(
    "url",
    [
        "https://notexample.org", "https://example.org.evil.com", "https://example.com/example.org", "org", "",
        "https://evil.com/?u=http://example.org/", "https://evil.com/x@example.org", "uk", "host.network", None, ":",
    ],
)  # fmt: skip
def test_a_domain_blocks_nothing_else(url):
    assert rules([url], domains=DOMAINS) == [None]


@pytest.mark.parametrize(
    ("url", "is_blocked"),
    [
        ("http://bar.com/a", True), ("https://www.bar.com/a/b?c", True), ("bar.com/a?x", True), ("bar.com/ab", False),
        ("bar.com/A", False), ("BAR.com/a", True), ("bar.com/", False), ("bar.com/q?x=1#y", True),
        ("bar.com/q?x=12", False), ("bar.com/q", False), ("bar.com/b#top", True), ("bar.com/b", False),
        ("sub.bar.com/a", False), ("only.com", True), ("https://www.only.com/all", True), ("sub.only.com", False),
    ],
)  # fmt: skip
def test_a_url_blocks_what_lies_below_it(url, is_blocked):
    assert rules([url], urls=URLS) == ["blocked_url" if is_blocked else None]


@pytest.mark.parametrize(
    ("expression", "is_blocked"),
    [
        ("GPL-3.0-only", True), ("gpl-3.0-ONLY", True), ("GPL-3.0", False), ("CC-BY-NC-SA-4.0", True),
        ("CC-BY-4.0", False),
        ("MIT OR GPL-3.0-only", False), ("GPL-3.0-only OR CC-BY-NC-4.0", True), ("MIT AND CC-BY-NC-4.0", True),
        ("(MIT OR GPL-3.0-only) AND CC-BY-NC-2.0", True), ("MIT, CC-BY-NC-4.0", True), ("MIT; Apache-2.0", False),
        ("MIT AND (Apache-2.0 OR GPL-3.0-only)", False), ("no or maybe", False), ("", False), ("((", False),
        ("AND", False), (None, False),
    ],
)  # fmt: skip
def test_a_licence_is_blocked_when_no_allowed_way_is_left(expression, is_blocked):
    found = rules([None], [expression], licenses=["GPL-3.0-only  # copyleft", "CC-BY-NC*", "", "# none"])
    assert found == ["blocked_license" if is_blocked else None]


@given(st.text(alphabet="()ANDOR ,;MITx*-"), st.lists(st.text(max_size=3), max_size=3))
def test_any_licence_text_is_answered(expression, blocked):
    assert blocks_license(blocked, expression) in (True, False)


@given(st.lists(st.none() | st.text(), max_size=6), st.lists(st.text(max_size=12), max_size=6))
def test_any_text_passes_as_url_and_as_entry(urls, entries):
    found = rules(urls, domains=entries, urls=entries)
    assert len(found) == len(urls)
    assert all(rule is None for url, rule in zip(urls, found, strict=True) if not url)


LABELS = st.lists(st.sampled_from(["a", "bb", "c-c", "com", "org"]), min_size=1, max_size=4).map(".".join)


@given(st.lists(LABELS, min_size=1, max_size=5), LABELS)
def test_domains_match_as_whole_endings(blocked, host):
    expected = any(host == one or host.endswith(f".{one}") for one in blocked)
    assert rules([f"https://{host}/x"], domains=blocked) == ["blocked_domain" if expected else None]


def test_verdicts_say_which_entry_matched_and_domains_come_first():
    lists = load(domains=["example.org"], urls=["https://example.org/a", "b.com/x"], licenses=["gpl-*"])
    urls = pl.Series(["https://www.example.org/a", "http://b.com/x/y", "c.com", None])
    verdicts = lists.verdicts(urls, pl.Series(["GPL-2.0", "GPL-2.0", "GPL-2.0", "MIT"]))
    assert verdicts.schema == pl.Schema(VERDICT_SCHEMA)
    assert verdicts.rows() == [
        ("blocked_domain", "its domain is blocked: example.org", None),
        ("blocked_url", "its address is blocked: b.com/x", None),
        ("blocked_license", "its licence is blocked: GPL-2.0", None),
        (None, None, None),
    ]


def test_a_whole_file_gives_what_its_lines_give():
    lines = [*DOMAINS, "d.example\r", "\ufeff"]
    data = b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n"
    assert load(domains=data).domains.tolist() == load(domains=lines).domains.tolist()
    assert rules(["https://d.example"], domains=data) == ["blocked_domain"]
    assert load(domains=b"").domains.size == load(domains=b"\xef\xbb\xbf\n\n# none\n").domains.size == 0


def test_a_hundred_thousand_entries_take_eight_bytes_each():
    data = "\n".join(f"site{number}.example" for number in range(100_000)).encode()
    lists = load(domains=data)
    assert lists.domains.nbytes == 800_000
    urls = pl.Series([f"https://www.site{number}.example/" for number in range(99_990, 100_010)])
    verdicts = lists.verdicts(urls, pl.Series([None] * 20, dtype=pl.String))
    assert verdicts["rule"].is_not_null().to_list() == [True] * 10 + [False] * 10
