r"""What counts as personal data: one function an entity, which yields the exact places within the bytes of a text.

Each function takes a window (UTF-8 bytes with enough text around), and yields `(start, end)` of what begins in `[begin,
end)`. Patterns see ASCII: digits and letters of other scripts, full-width ones too, are no part of a number, and a
number directly behind a Chinese or Japanese character still counts. In a pattern for bytes, `\w` is `[A-Za-z0-9_]`.

The line is drawn for training text, where a wrong redaction damages a document: what only *might* be personal (eight
bare digits) needs a word such as "phone" before it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

BEFORE_BYTES = 96
"""How much text before a candidate the patterns may look at; the longest context below takes 70."""
AFTER_BYTES = 32
"""The same behind it: an extension number, a word such as "fax"."""
SECRET_BYTES = 16_384
"""Longest secret: a private key of 16,384 bits takes 12.7 kB as PEM. Those with a prefix of their own are shorter:"""
TOKEN_BYTES = 640
"""the longest but private keys and JSON web tokens."""

Spans = Iterator[tuple[int, int]]

_AT = re.compile(b"@")
_LETTER_BYTES = rb"[A-Za-z0-9_]|[\xc3-\xdf][\x80-\xbf]"  # ASCII; Latin, Greek, Cyrillic, Hebrew, Arabic (U+00C0–U+07FF)
_LOCAL_PART = re.compile(rb"(?:" + _LETTER_BYTES + rb")(?:[.+%'-]|" + _LETTER_BYTES + rb"){0,63}\Z")
_LABEL = rb"(?:[A-Za-z0-9]|[\xc3-\xdf][\x80-\xbf])(?:[A-Za-z0-9-]|[\xc3-\xdf][\x80-\xbf]){0,62}"
_DOMAIN = re.compile(rb"(?:" + _LABEL + rb"\.){1,8}(xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})")
# "icon@2x.png" is a picture for dense screens, not an address.
_FILE_ENDINGS = frozenset((b"css", b"gif", b"html", b"jpeg", b"jpg", b"js", b"png", b"svg", b"webp"))


def email(window: bytes, begin: int, end: int) -> Spans:
    """Addresses as in use (RFC 5321 without quoted parts), whose @ lies in `[begin, end)`."""
    for at in _AT.finditer(window, begin, end):
        before = window[max(0, at.start() - 64) : at.start()]
        local = _LOCAL_PART.search(before)
        domain = _DOMAIN.match(window, at.end())
        if local and domain and domain[1].lower() not in _FILE_ENDINGS:
            yield at.start() - len(local[0]), domain.end()


_CARD = re.compile(
    rb"(?<![\w/])(?<![\w+][.-])(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|3\d{3}([ -])\d{6}\2\d{4,5})"
    rb"(?!\w|[.-]\d)"
)
# Issuer ranges (ISO/IEC 7812 register as in "Payment card number", Wikipedia, read 2026-11): prefix range, lengths.
_ISSUERS = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),  # Mastercard
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (300, 305, (14, 16)),  # Diners Club
    (36, 36, (14, 16, 17, 18, 19)),
    (38, 39, (14, 16)),
    (6011, 6011, (16, 17, 18, 19)),  # Discover
    (644, 659, (16, 17, 18, 19)),
    (3528, 3589, (16, 17, 18, 19)),  # JCB
    (2131, 2131, (15,)),  # JCB until 1996; test numbers still have them
    (1800, 1800, (15,)),
    (62, 62, (16, 17, 18, 19)),  # UnionPay
    *((prefix, prefix, tuple(range(12, 20))) for prefix in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763)),
)


_CARD_BEFORE = re.compile(rb"\b(?:cards?|cc|visa|mastercard|amex)\b[^0-9]{0,24}\Z", re.IGNORECASE)


def credit_card(window: bytes, begin: int, end: int) -> Spans:
    """Numbers that pass the Luhn test, bare or in groups of four (4-6-5), of a known issuer's prefix and length.

    Behind a word such as "card" any prefix will do.
    """
    for match in _CARD.finditer(window, begin):
        if match.start() >= end:
            return
        digits = match[0].replace(b" ", b"").replace(b"-", b"").decode()
        is_card = len(set(digits)) > 1 and passes_luhn(digits)  # sixteen zeros pass
        if is_card and (is_issued(digits) or _CARD_BEFORE.search(_before(window, match))):
            yield match.span()


def is_issued(digits: str) -> bool:
    """Whether the digits have a card issuer's prefix and length.

    >>> is_issued("4111111111111111"), is_issued("9111111111111111")
    (True, False)
    """
    return any(
        len(digits) in lengths and low <= int(digits[: len(str(low))]) <= high for low, high, lengths in _ISSUERS
    )


def _before(window: bytes, match: re.Match[bytes]) -> bytes:
    return window[max(0, match.start() - BEFORE_BYTES) : match.start()]


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B).

    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


_IBAN = re.compile(rb"(?<!\w)(?<!\w-)[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}")
# SWIFT IBAN registry, release 99 (December 2024): characters by country.
IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
    21: "CH CR HR LI LV", 22: "BG BH DE GB GE IE ME RS", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ DZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC",
    33: "RU",
}  # fmt: skip
_IBAN_LENGTH_OF = {country: length for length, countries in IBAN_LENGTHS.items() for country in countries.split()}
_SIGNS = {signs: re.compile(rb"[A-Za-z0-9](?: ?[A-Za-z0-9]){%d}(?!\w)" % (signs - 1)) for signs in IBAN_LENGTHS}


def iban(window: bytes, begin: int, end: int) -> Spans:
    """Account numbers of a registered country's length with a right check number (ISO 13616, mod 97), bare or
    spaced."""
    place = begin
    while (match := _IBAN.search(window, place)) and match.start() < end:
        place = match.start() + 1
        length = _IBAN_LENGTH_OF.get(match[0][:2].decode().upper())
        stop = _end_of_signs(window, match.start(), length or 0)
        if length and stop and passes_mod97(window[match.start() : stop].decode()):
            yield match.start(), stop
            place = stop


def _end_of_signs(window: bytes, start: int, signs: int) -> int:
    """Place behind the first `signs` letters or digits from `start`, single spaces skipped; 0 inside a word."""
    match = _SIGNS[signs].match(window, start) if signs else None
    return match.end() if match else 0


def passes_mod97(text: str) -> bool:
    """Whether an IBAN's check number is right.

    >>> passes_mod97("GB82 WEST 1234 5698 7654 32"), passes_mod97("GB82 WEST 1234 5698 7654 33")
    (True, False)
    """
    signs = text.replace(" ", "")
    return int("".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])) % 97 == 1


# Never issued: area 000, 666 and 900–999, group 00, serial 0000 (https://www.ssa.gov/employer/randomization.html).
_SSN = re.compile(rb"(?<!\w)(?<!\w-)(?!000|666|9)\d{3}([ -]?)(?!00)\d{2}\1(?!0000)\d{4}(?!\w|-\w|\.\d)")
_SSN_CONTEXT = re.compile(rb"(?:\bssn\b|social[ -]security|\bss ?#)[^0-9\n]{0,32}\Z", re.IGNORECASE)


def us_ssn(window: bytes, begin: int, end: int) -> Spans:
    """US social security numbers that can exist: with dashes anywhere; bare or spaced behind "SSN", "social
    security"."""
    for match in _SSN.finditer(window, begin):
        if match.start() >= end:
            return
        if match[1] == b"-" or _SSN_CONTEXT.search(_before(window, match)):
            yield match.span()


_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rb"(?<![\w.])(?<!\w-)(?<![A-Za-z]/)(?:" + _OCTET + rb"\.){3}" + _OCTET + rb"(?!\w|\.\d)")
_VERSION_BEFORE = re.compile(
    rb"(?:\b(?:version|ver|v|release|build|revision|rev|section|chapter|clause)\.?|\xc2\xa7)[ :=\"']{0,3}\Z",
    re.IGNORECASE,
)
# Not on the public internet, hence nobody's (IANA special-purpose registries, read 2026-11). Written out because
# `ipaddress.is_global` differs between Python's patch releases, and an artifact must not.
_SPECIAL_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
    )
)  # fmt: skip
_SPECIAL_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in ("::/8", "100::/64", "2001:db8::/32", "3fff::/20", "fc00::/7", "fe80::/10", "ff00::/8")
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")


def ipv4(window: bytes, begin: int, end: int) -> Spans:
    """Public IPv4 addresses.

    Not those of private, documentation and multicast networks; not 12.2.3.4, whose last three parts have one digit
    (1 address in 17,000), nor what follows "version", "section", "v" or a product's name and slash (Chrome/91.0.44.12):
    such are numbers of versions and clauses.
    """
    for match in _IPV4.finditer(window, begin):
        if match.start() >= end:
            return
        is_version = match[0][-6::2] == b"..." or _VERSION_BEFORE.search(
            window[max(0, match.start() - 24) : match.start()]
        )
        address = ipaddress.IPv4Address(match[0].decode())
        if not is_version and not any(address in network for network in _SPECIAL_V4):
            yield match.span()


_IPV6 = re.compile(rb"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:[0-9.]{7,15})?(?![\w:])")


def ipv6(window: bytes, begin: int, end: int) -> Spans:
    """IPv6 addresses outside special networks; shortened ones only in the public 2000::/3, for `a::b` is C++ too."""
    for match in _IPV6.finditer(window, begin):
        if match.start() >= end:
            return
        text = match[0].rstrip(b".")
        try:
            address = ipaddress.IPv6Address(text.decode())
        except ValueError:
            continue
        is_public = address in _PUBLIC_V6 or b"::" not in text
        if is_public and not any(address in network for network in _SPECIAL_V6):
            yield match.start(), match.start() + len(text)


_EXTENSION = rb"[ ,]{0,2}(?:x|ext\.?|extension) ?\d{1,6}(?!\w)"
_INTERNATIONAL = re.compile(
    rb"(?<![\w+])\(?(?:\+ ?|00)(?P<country>[1-9])(?:[ ().\-/]{0,2}\d){6,14}(?!\d)(?:" + _EXTENSION + rb")?",
    re.IGNORECASE,
)
# (212) 555-0123, 212-555-0123, 1.212.555.0123: area and exchange never begin with 0 or 1 (nanpa.com, read 2026-11).
_NORTH_AMERICAN = re.compile(
    rb"(?<![\w+.])(?<!\w[-/])(?:1[ .-]?)?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{4}"
    rb"(?:" + _EXTENSION + rb"|(?!\w|[.-]\d))",
    re.IGNORECASE,
)
_ANY_NUMBER = re.compile(
    rb"(?<![\w+])\(?\d(?:[ ().\-/]{0,2}\d){6,14}(?!\d)(?:" + _EXTENSION + rb"|(?![\w]))", re.IGNORECASE
)
_PHONE_BEFORE = re.compile(
    rb"(?:\b(?:(?:tele)?phone|tel|cell|mobile|fax|whatsapp|hotline|desk|telefon|t\xc3\xa9l|m\xc3\xb3vil|handy)\b[^0-9]{0,24}"
    rb"|\b(?:call|calling|reach|answering|messages?|sms|dial|ring|contact)(?:\s\w{1,12}){0,3}\s(?:at|on|to)\s)\W{0,4}\Z",
    re.IGNORECASE,
)
_PHONE_BEHIND = re.compile(rb"[ -]{0,2}\(?(?:fax|office|mobile|cell|desk)\b", re.IGNORECASE)
_YEAR = rb"(?:1[89]|20)\d\d"
_DATE = re.compile(
    rb"\(?(?:" + _YEAR + rb"[-./ ]\d{1,2}[-./ ]\d{1,2}(?!\d).*"
    rb"|\d{1,2}[-./ ]\d{1,2}[-./ ]" + _YEAR + rb"(?!\d).*|" + _YEAR + rb" ?[-/ ] ?" + _YEAR + rb")\Z"
)
# ITU-T E.164, list of assigned country codes (15 December 2016).
_COUNTRY_CODES = frozenset(
    """
    1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84
    86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236
    237 238 239 240 241 242 243 244 245 246 247 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265
    266 267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 376 377 378
    380 381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 593 594 595 596
    597 598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 800 808 850 852
    853 855 856 870 878 880 881 882 883 886 888 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 977
    979 992 993 994 995 996 998
    """.split()  # noqa: SIM905 - 215 quoted words would fill a screen
)


def phone(window: bytes, begin: int, end: int) -> Spans:
    """Telephone numbers with their extensions; one may be found twice, whole and in part.

    International: + or 00, an assigned country code, 8 to 15 digits (00 only with separators). North American, with
    separators. And any 7 to 15 digits behind words such as "phone" and "call me at", or before "fax", dates excepted.
    """
    first = max(0, begin - 3)  # a candidate begins at its first digit, a number at "(+"
    for match in _INTERNATIONAL.finditer(window, first, end + AFTER_BYTES):
        if match.start() < end and _is_international(match):
            yield _without_open_bracket(match)
    for match in _NORTH_AMERICAN.finditer(window, first, end + AFTER_BYTES):
        if match.start() < end:
            yield match.span()
    for match in _ANY_NUMBER.finditer(window, first, end + AFTER_BYTES):
        if match.start() < end and _is_called_a_phone(window, match):
            yield _without_open_bracket(match)


def _without_open_bracket(match: re.Match[bytes]) -> tuple[int, int]:
    """The place of a number; of "(+46 8 928 57" without the bracket that the sentence closes."""
    is_open = match[0][:1] == b"(" and match[0].count(b"(") > match[0].count(b")")
    return match.start() + is_open, match.end()


def _is_international(match: re.Match[bytes]) -> bool:
    text = match[0].decode()
    digits = "".join(filter(str.isdigit, text[match.start("country") - match.start() :]))
    has_code = any(digits[:length] in _COUNTRY_CODES for length in (1, 2, 3))
    return has_code and len(digits) >= 8 and ("+" in text or not text.isdigit())


def _is_called_a_phone(window: bytes, match: re.Match[bytes]) -> bool:
    if _DATE.match(match[0]):
        return False
    return bool(_PHONE_BEFORE.search(_before(window, match)) or _PHONE_BEHIND.match(window, match.end()))


# Formats as their makers' documents and secret scanners give them (docs.github.com "secret scanning patterns",
# docs.aws.amazon.com IAM "unique identifiers", api.slack.com "token types"; read 2026-11).
_SECRETS = tuple(
    re.compile(pattern)
    for pattern in (
        rb"(?:AKIA|ASIA)[A-Z2-7]{16}(?!\w)",
        rb"AIza[\w-]{35}(?![\w-])",
        rb"SG\.[\w-]{16,32}\.[\w-]{16,64}",
        rb"eyJ[\w-]{8,4000}\.eyJ[\w-]{8,8000}(?:\.[\w-]{8,2000})?",
        rb"gh[pousr]_[A-Za-z0-9]{36,255}",
        rb"github_pat_\w{60,255}",
        rb"glpat-[\w-]{20,64}",
        rb"hf_[A-Za-z0-9]{30,64}",
        rb"hooks\.slack\.com/services/T\w{6,20}/B\w{6,20}/\w{16,40}",
        rb"npm_[A-Za-z0-9]{36}",
        rb"pypi-AgE[\w-]{50,500}",
        rb"[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}",
        # OpenAI's and Anthropic's: long, with a digit and a capital, which CSS classes such as sk-toggleable lack
        rb"sk-(?=[\w-]{0,255}[0-9])(?=[\w-]{0,255}[A-Z])[\w-]{32,255}",
        rb"xapp-[\w-]{20,255}",
        rb"xox[abeprs]-[\w-]{10,255}",
    )
)
_KEY_BLOCK_BEGIN = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BLOCK_END = re.compile(rb"-----END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BLOCK_BODY = re.compile(rb"(?:(?:\s|\\[nr])*+[A-Za-z0-9+/=]{16,}+)*+")
_AWS_SECRET = re.compile(
    rb"secret[\w -]{0,16}key[\"'\s]{0,3}(?:[:=]|=>|is)[\"'\s]{0,3}(?P<key>[A-Za-z0-9+/]{40})(?![A-Za-z0-9+/=])",
    re.IGNORECASE,
)


def secret(window: bytes, start: int) -> tuple[int, int] | None:
    """(start, end) of the token or private key that begins exactly at `start`, or None.

    A private key without its end line reaches as far as its base64 does.
    """
    if header := _KEY_BLOCK_BEGIN.match(window, start):
        last = _KEY_BLOCK_END.search(window, header.end(), start + SECRET_BYTES)
        body = _KEY_BLOCK_BODY.match(window, header.end(), start + SECRET_BYTES)
        assert body is not None  # an empty body matches
        return start, last.end() if last else body.end()
    for pattern in _SECRETS:
        if match := pattern.match(window, start):
            return match.span()
    return None


def aws_secret(window: bytes, word: int) -> tuple[int, int] | None:
    """(start, end) of the 40 signs that "secret … key" assigns, whose "key" stands at `word`, or None."""
    match = _AWS_SECRET.search(window, max(0, word - 24), word + 64)
    return match.span("key") if match else None
