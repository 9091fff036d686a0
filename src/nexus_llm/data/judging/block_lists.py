"""Lists of domains, URLs and licences whose texts must not be learned, matched with a record's `url` and `license`.

A list has one entry a line; `#` at a line's start, or behind a space, begins a comment. An entry is a domain, which
blocks its subdomains too; a URL, which blocks what lies below it too (scheme, `www.`, port and a slash at the end do
not count); or a licence's SPDX name, where `*` at the end stands for any ending (`CC-BY-NC*`). Case counts only in
paths.

Domains and URLs are kept as sorted 64-bit hashes: 5 million domains, as in the UT1 lists
(https://dsi.ut-capitole.fr/blacklists/, read 2026-11), take 40 MB. That a billion records with four looked-up parts
each meet a wrong one of 5 million entries has a probability of 0.001.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Hashes = npt.NDArray[np.uint64]
Entries = Iterable[str] | bytes
"""Lines, or a whole file as read: 5 million lines take 100 MB as bytes and five times that as strings."""

VERDICT_SCHEMA = {"rule": pl.String, "reason": pl.String, "value": pl.Float64}
DOMAIN_RULE, URL_RULE, LICENSE_RULE = "blocked_domain", "blocked_url", "blocked_license"

_NOT_ASCII_LINE = re.compile(rb"[^\n]*[\x80-\xff][^\n]*")
_HOST = re.compile(r"^((?:[A-Za-z][\w+.-]*:)?//)?([^/?#@]*@)?([^/?#:]*)")
# SPDX 2.3, annex D: operators in capitals; "GPL v2 or later" is a name.
_OPERATOR = re.compile(r"\s*(?:(?<![\w.+-])(AND|OR)(?![\w.+-])|([(),;]))\s*")


@dataclass(frozen=True)
class BlockLists:
    """What is blocked: sorted hashes of domains and of URLs, and licences in lower case."""

    domains: Hashes
    urls: Hashes
    licenses: tuple[str, ...]

    def verdicts(self, urls: pl.Series, licenses: pl.Series) -> pl.DataFrame:
        """One row a record: `rule`, `reason` with the entry that matched, and `value` (null); null where none did.

        Domains go before URLs, URLs before licences. A null URL or licence matches nothing.
        """
        rules: list[str | None] = [None] * len(urls)
        reasons: list[str | None] = [None] * len(urls)
        for row, name in enumerate(licenses.to_list()):
            if name and self.licenses and blocks_license(self.licenses, name):
                rules[row], reasons[row] = LICENSE_RULE, f"its licence is blocked: {name}"
        if len(self.domains) or len(self.urls):
            for row, rule, entry in self._by_address(urls):
                rules[row] = rule
                reasons[row] = f"its {'domain' if rule == DOMAIN_RULE else 'address'} is blocked: {entry}"
        return pl.DataFrame({"rule": rules, "reason": reasons, "value": [None] * len(urls)}, schema=VERDICT_SCHEMA)

    def _by_address(self, urls: pl.Series) -> list[tuple[int, str, str]]:
        """(row, rule, the entry as the URL writes it) of each URL that is blocked."""
        from nexus_llm.characters import buffers
        from nexus_llm.data.judging.block_list_kernels import look_up

        is_foreign = urls.str.contains(r"[^\x00-\x7f]").fill_null(value=False)
        if is_foreign.any():
            urls = pl.select(
                pl.when(is_foreign).then(urls.map_elements(_in_ascii, pl.String)).otherwise(urls)
            ).to_series()
        data, offsets = buffers(urls)
        kinds, begins, ends = look_up(data, offsets, self.domains, self.urls)
        rows = np.flatnonzero(kinds)
        return [
            (int(row), DOMAIN_RULE if kinds[row] == 1 else URL_RULE, bytes(data[begins[row] : ends[row]]).decode())
            for row in rows
        ]


def load(*, domains: Entries = (), urls: Entries = (), licenses: Iterable[str] = ()) -> BlockLists:
    """The lists from their entries; empty lines and comments are skipped.

    >>> lists = load(domains=["Example.org  # all of it"], licenses=["CC-BY-NC*"])
    >>> found = lists.verdicts(pl.Series(["https://www.example.org/a", None]), pl.Series(["MIT", "CC-BY-NC-4.0"]))
    >>> found["rule"].to_list()
    ['blocked_domain', 'blocked_license']
    """
    names = (re.sub(r"(^|\s)#.*", "", name).strip().lower() for name in licenses)
    return BlockLists(
        domains=_hashes(domains, whole_hosts=True),
        urls=_hashes(urls, whole_hosts=False),
        licenses=tuple(sorted({name for name in names if name})),
    )


def blocks_license(blocked: Iterable[str], expression: str) -> bool:
    """Whether an SPDX expression leaves no way to use the text without a blocked licence.

    Of alternatives (OR) all must be blocked, of licences that hold together (AND, or a list with commas) one.

    >>> blocks_license(["gpl*"], "MIT OR GPL-3.0-only"), blocks_license(["gpl*"], "MIT AND (GPL-2.0 OR GPL-3.0)")
    (False, True)
    """
    tokens = [token for token in _OPERATOR.split(expression) if token and token.strip()]
    return _Expression(tokens, tuple(blocked)).any_of()


class _Expression:
    """Reads tokens from the left; what is malformed counts as if the missing part were not blocked."""

    def __init__(self, tokens: list[str], blocked: tuple[str, ...]) -> None:
        self.tokens = tokens[::-1]
        self.blocked = blocked

    def any_of(self) -> bool:
        """Alternatives: blocked when all are."""
        is_blocked = self._all_of()
        while self.tokens and self.tokens[-1] == "OR":
            self.tokens.pop()
            is_blocked = self._all_of() and is_blocked
        return is_blocked

    def _all_of(self) -> bool:
        is_blocked = self._one()
        while self.tokens and self.tokens[-1] not in ("OR", ")"):
            if self.tokens[-1] in ("AND", ",", ";"):
                self.tokens.pop()
            is_blocked = self._one() or is_blocked
        return is_blocked

    def _one(self) -> bool:
        if not self.tokens or self.tokens[-1] in ("OR", "AND", ")", ",", ";"):
            return False
        part = self.tokens.pop()
        if part == "(":
            is_blocked = self.any_of()
            if self.tokens and self.tokens[-1] == ")":
                self.tokens.pop()
            return is_blocked
        name = part.strip().lower()
        return any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in self.blocked)


def _hashes(entries: Entries, *, whole_hosts: bool) -> Hashes:
    from nexus_llm.data.judging.block_list_kernels import line_hashes

    data = entries if isinstance(entries, bytes) else "\n".join(entries).encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.isascii():
        data = _NOT_ASCII_LINE.sub(lambda line: _in_ascii(line[0].decode(errors="replace")).encode(), data)
    if not data:
        return np.empty(0, np.uint64)
    hashes: Hashes = line_hashes(np.frombuffer(data, np.uint8), whole_hosts)
    return np.sort(hashes)


def _in_ascii(url: str) -> str:
    """The URL with its host as the domain name system has it (bücher.example → xn--bcher-kva.example)."""
    match = _HOST.match(url.strip())
    assert match is not None  # every part is optional
    try:
        host = match[3].encode("idna").decode()
    except UnicodeError:
        host = match[3]
    return f"{match[1] or ''}{match[2] or ''}{host}{url.strip()[match.end() :]}"
