"""Personal data: what is found, what is left alone, and that redaction is final."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_llm.errors import DataError, MissingExtraError, ModelError
from nexus_llm.pii import candidates as pii_candidates
from nexus_llm.pii import names as pii_names
from nexus_llm.pii import patterns as pii_patterns
from nexus_llm.pii import redaction as pii
from nexus_llm.pii.candidates import ADDRESS, CARD, NUMBER, PHONE, SOCIAL_SECURITY
from nexus_llm.pii.redaction import ENTITIES, find, redact

SHARED = Path(__file__).parents[2] / "shared" / "data"
PEM_BODY = "MIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu\nKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwEC"

FOUND = {
    "EMAIL_ADDRESS": [
        "ann.lee+news@mail.example.co.uk", "o'brien@example.ie", "jürgen.groß@bücher.de", "иван@почта.рф.com",
        "a@b.io", "x_1@xn--bcher-kva.example",
    ],
    "PHONE_NUMBER": [
        "+1-984-182-0190", "+46 (0)8 928 571 38", "(579)888-3058", "212-555-0123", "1.212.555.0123",
        "345-899-3560x4587", "001-518-640-0854", "+353 (0)1 4863212", "(206) 266-4064 ext. 12",
    ],
    "CREDIT_CARD": ["4111111111111111", "4111 1111 1111 1111", "3782-822463-10005", "30569309025904"],
    "IBAN_CODE": ["GB82WEST12345698765432", "GB82 WEST 1234 5698 7654 32", "de89370400440532013000", "NO9386011117947"],
    "US_SSN": ["460-89-9847", "078-05-1120"],
    "IP_ADDRESS": ["81.2.69.142", "106.31.73.20", "2a02:6b8::feed:ff", "6e40:4041:c617:e898:c11:40d2:c669:2eb4"],
    "SECRET": [
        "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2" * 20, "xoxb-123456789012-abcdefGHIJ",
        "AIza" + "Sy0-_" * 7, "sk-proj-" + "aB3_" * 10, "sk-ant-api03-" + "aB3-" * 20, "hf_" + "aB" * 17,
        "glpat-" + "aB3_" * 5, "sk_live_" + "aB3d" * 6, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcDEF123_-x",
        f"-----BEGIN RSA PRIVATE KEY-----\n{PEM_BODY}\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n" + PEM_BODY.replace("\n", "\\n"),
    ],
}  # fmt: skip

LEFT_ALONE = {
    "EMAIL_ADDRESS": ["@ann", "ann@localhost", "icon@2x.png", "a @ b.com", "lodash@4.17.21", "user@host", "x@.com"],
    "PHONE_NUMBER": [
        "2020-01-02", "1990 2000 2010", "1,234,567", "12345678", "555 123 4567", "123-456-7890", "1914-1918 1939-1945",
        "550e8400-e29b-41d4-a716-446655440000", "+999 1234567", "phone in 01/02/2023", "call 7", "3.14159265358979",
        "library 212-555-0123-99",
    ],
    "CREDIT_CARD": ["4111111111111112", "9111111111111111", "0.4111111111111111", "card 0000000000000000"],
    "IBAN_CODE": ["GB82WEST12345698765433", "XX82WEST12345698765432", "GB82WEST1234569876543", "AB12 CDEF GHIJ KLMN"],
    "US_SSN": ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "460 89 9847", "14-89-98"],
    "IP_ADDRESS": [
        "1.2.3.4", "12.1.2.3", "version 10.15.7.22", "v81.2.69.142", "§ 81.2.69.14", "Chrome/91.0.44.12",
        "81.2.69.14.5", "256.12.13.14", "127.0.0.1", "10.12.13.14", "192.168.10.20", "172.16.10.20", "255.255.255.0",
        "12:34:56", "a::b", "std::vector", "fe80::1ff:fe23:890a", "2001:db8::1", "aa:bb:cc:dd:ee:ff", "81.02.69.142",
    ],
    "SECRET": [
        "AKIA", "sk-toggleable-content-label-arrow-and-more-letters", "task-aB3_aB3_aB3_aB3_aB3_aB3_aB3_aB3_aB3_",
        "-----BEGIN PUBLIC KEY-----", "eyJhbGciOiJIUzI1NiJ9", "XAKIAIOSFODNN7EXAMPLE", "ghp_short", "hf_hub_download",
        "the secret key is under the mat, as it was in all the years before", "npm_config_registry",
    ],
}  # fmt: skip

WITH_CONTEXT = [
    ("PHONE_NUMBER", "Phone:\n60-56-85-91", "60-56-85-91"),
    ("PHONE_NUMBER", "please call me on 9472 7916", "9472 7916"),
    ("PHONE_NUMBER", "467 3395 fax", "467 3395"),
    ("US_SSN", "SSN: 460899847", "460899847"),
    ("US_SSN", "social security number 460 89 9847", "460 89 9847"),
    ("CREDIT_CARD", "my card 3598899323053410", "3598899323053410"),
    (
        "SECRET",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ),
    (
        "SECRET",
        '"SecretAccessKey" : "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"',
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ),
]


def found_in(text: str) -> list[tuple[str, str]]:
    """(entity, what was found) in order."""
    data = text.encode()
    return [(entity, data[start:end].decode()) for _, entity, start, end in find(pl.Series([text])).iter_rows()]


@pytest.mark.parametrize(("entity", "value"), [(entity, value) for entity in FOUND for value in FOUND[entity]])
@pytest.mark.parametrize("frame", ["%s", "It is %s.", "(%s)", "\u7535\u8bdd%s\u8bf7", "a\n%s\tb", "\0%s\0", "é %s, é"])
def test_each_entity_is_found_exactly_wherever_it_stands(entity, value, frame):
    assert found_in(frame % value) == [(entity, value)]


@pytest.mark.parametrize(
    ("entity", "value"), [(entity, value) for entity in LEFT_ALONE for value in LEFT_ALONE[entity]]
)
def test_what_only_looks_alike_is_left_alone(entity, value):
    assert entity not in dict(found_in(f"It is {value} today"))


@pytest.mark.parametrize(("entity", "text", "value"), WITH_CONTEXT)
def test_what_might_be_anything_is_found_where_a_word_says_what_it_is(entity, text, value):
    assert found_in(text) == [(entity, value)]
    assert found_in(value) == []


@pytest.mark.parametrize(
    "text", ["４１１１１１１１１１１１１１１１", "ann＠example.com", "٤١١١١١١١١١١١١١١١", "212–555–0123"]
)
def test_digits_and_signs_of_other_scripts_are_no_part_of_a_number(text):
    assert found_in(text) == []


def test_where_two_overlap_the_one_stays_that_is_worse_to_leak():
    assert found_in("card 4111 1111 1111 1111 212-555-0123") == [
        ("CREDIT_CARD", "4111 1111 1111 1111"),
        ("PHONE_NUMBER", "212-555-0123"),
    ]
    assert found_in("https://ghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2@github.com")[0][0] == "SECRET"


def test_only_the_entities_asked_for_are_found_and_counted():
    texts = pl.Series(["ann@example.com 460-89-9847", "81.2.69.142", None, ""])
    assert find(texts, ["US_SSN"])["entity"].to_list() == ["US_SSN"]
    redacted, counts = redact(texts, ["EMAIL_ADDRESS", "IP_ADDRESS"])
    assert redacted.to_list() == ["<EMAIL_ADDRESS> 460-89-9847", "<IP_ADDRESS>", None, ""]
    assert counts.to_dicts()[:2] == [{"EMAIL_ADDRESS": 1, "IP_ADDRESS": 0}, {"EMAIL_ADDRESS": 0, "IP_ADDRESS": 1}]
    assert counts.height == 4
    assert find(texts, []).is_empty()


def test_redaction_leaves_the_texts_it_was_given_as_they_were():
    texts = pl.Series(["ann@example.com", "nothing"])
    assert redact(texts)[0].to_list() == ["<EMAIL_ADDRESS>", "nothing"]
    assert texts.to_list() == ["ann@example.com", "nothing"]


def test_a_slice_of_a_series_is_searched_from_its_own_start():
    texts = pl.Series(["ann@example.com", "bob", "x bob@example.com"])[1:]
    assert find(texts).rows() == [(1, "EMAIL_ADDRESS", 2, 17)]


def test_a_text_never_borrows_context_from_the_one_before():
    assert find(pl.Series(["phone ", "1234567"])).is_empty()
    assert find(pl.Series(["ann", "@example.com"])).is_empty()


def test_an_entity_without_a_pattern_is_refused_with_the_names_there_are():
    with pytest.raises(DataError, match="US_PASSPORT") as caught:
        redact(pl.Series(["a"]), ["US_PASSPORT"])
    assert "EMAIL_ADDRESS" in caught.value.fix


PIECES = st.sampled_from(
    [value for values in FOUND.values() for value in values]
    + [text for _, text, _ in WITH_CONTEXT]
    + [
        "phone ",
        "ssn ",
        "card ",
        "version ",
        " ",
        "-",
        ".",
        ",",
        "\n",
        "\0",
        "(",
        "+",
        "1",
        "12",
        "555-",
        "é",
        "\u7535",
        "@",
        ":",
        "<",
        ">",
    ]
    + ["a", "secret key", "0" * 25, "<EMAIL_ADDRESS>", "://", "https://", "::", "x12"]
)
MIXED = st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join)


@given(st.lists(MIXED, max_size=4))
@settings(max_examples=150)
def test_redacting_twice_changes_nothing_and_findings_lie_in_order_within_their_text(texts):
    redacted, counts = redact(pl.Series(texts, dtype=pl.String))
    again, none = redact(redacted)
    assert again.to_list() == redacted.to_list()
    assert not any(map(any, none.iter_rows()))
    found = find(pl.Series(texts, dtype=pl.String)).rows()
    for row, text in enumerate(texts):
        data, place, length = text.encode(), 0, len(text.encode())
        mine = [one for one in found if one[0] == row]
        for _, entity, start, end in mine:
            assert place <= start < end <= len(data)
            data[start:end].decode()
            place = end
            length += len(entity) + 2 - (end - start)
        if len(mine) == sum(counts.row(row)):  # nothing more was found around the placeholders
            assert len(redacted[row].encode()) == length


# Digits in every grouping, and what makes a number of them: words before and behind, signs, borders of the windows.
DIGITS = st.sampled_from([1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 9, 12, 16, 19, 20]).flatmap(
    lambda size: st.text("0123456789", min_size=size, max_size=size)
)
AROUND_NUMBERS = st.sampled_from(
    ["phone", "Telephone", "tel.", "cell", "mobile:", "FAX", "whatsapp", "hotline", "desk", "telefon", "Tél", "móvil",
     "handy", "call me at ", "dial 1 to ", "ring us on ((((", "office", "(fax)", "x12", "ext. 5",
     "ssn", "SSN #", "ss #",
     "social security", "card", "visa", "version", "cats", "+ ", "81.2.69.142", "460899847", "460-89-9847", "555-0123",
     "4111111111111111", "3782-822463-10005", "3598899323053410", "std", "2a02:6b8::1"]
)  # fmt: skip
NUMBERS = st.lists(
    AROUND_NUMBERS | DIGITS | st.sampled_from([" ", " ", "-", ".", "/", "(", ")", "+", "00", ",", "\n", "é", "a", "_"])
    | st.integers(20, 40).map(" ".__mul__),
    max_size=10,
).map("".join)  # fmt: skip


@given(MIXED | NUMBERS)
@settings(max_examples=1000)
def test_the_candidates_miss_nothing_that_the_patterns_see_in_the_whole_text(text):
    """The compiled pass only points at places: running each pattern over the whole text finds the same."""
    data = text.encode()
    whole = (0, len(data))
    hits = [
        *pii._numbers(data, *whole, may_be=ADDRESS | CARD | SOCIAL_SECURITY | PHONE),
        *pii._named("EMAIL_ADDRESS", pii_patterns.email(data, *whole)),
        *pii._named("IBAN_CODE", pii_patterns.iban(data, *whole)),
        *pii._named("IP_ADDRESS", pii_patterns.ipv6(data, *whole)),
    ]
    for start in range(len(data)):
        before = data[start - 1 : start].decode(errors="replace")
        is_first = (
            start == 0 or data[start] == ord("-") or not (before.isascii() and (before.isalnum() or before in "_-"))
        )
        spans = [pii_patterns.secret(data, start) if is_first else None]
        spans += [pii_patterns.aws_secret(data, start) if data[start : start + 3].lower() == b"key" else None]
        hits += [("SECRET", *span) for span in spans if span]
    ordered = sorted(
        {(0, start, ENTITIES.index(entity), end) for entity, start, end in hits}, key=lambda hit: (*hit[:3], -hit[3])
    )
    expected = [(ENTITIES[rank], start, end) for _, start, rank, end in pii._without_overlaps(ordered)]
    assert [row[1:] for row in find(pl.Series([text])).iter_rows()] == expected


@given(st.text())
def test_no_text_whatever_makes_it_fail(text):
    assert find(redact(pl.Series([text]))[0]).is_empty()


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1 ",
        "1.",
        "a@",
        "a@b.",
        "(1",
        "+1",
        "AKIA",
        "sk-",
        "1:",
        "::",
        "eyJ.",
        "-----BEGIN ",
        "GB82 ",
        "secretkey",
        "@",
        "4111 ",
    ],
)
def test_a_megabyte_of_anything_takes_about_a_second(piece):
    text = pl.Series([piece * (1_000_000 // len(piece))])
    redact(pl.Series(["warm up"]))
    started = time.process_time()
    redact(text)
    assert time.process_time() - started < (1 if piece == "1" else 3)


class FakeAnalyzer:
    """Presidio's engine as `pii_names` uses it: whoever is called Zoë or Müller is a person."""

    def analyze(self, text, language, entities):
        assert (language, entities) == ("en", ["PERSON"])
        names = [("Zoë Müller", 0.85), ("Müller", 0.85), ("Zoë", 0.2)]
        return [
            SimpleNamespace(start=text.index(name), end=text.index(name) + len(name), score=score)
            for name, score in names
            if name in text
        ]


def test_names_come_from_presidio_and_yield_to_what_the_patterns_found():
    def finder(texts):
        return pii_names.find_persons(texts, FakeAnalyzer())

    texts = pl.Series(["été: Zoë Müller, Müller@example.com", None, "Zoë"])
    assert finder(texts).rows() == [(0, "PERSON", 7, 19)]
    redacted, counts = redact(texts, ["EMAIL_ADDRESS", "PERSON"], finder=finder)
    assert redacted.to_list() == ["été: <PERSON>, <EMAIL_ADDRESS>", None, "Zoë"]
    assert counts.row(0) == (1, 1)
    assert redact(pl.Series(["Müller@example.com"]), ["EMAIL_ADDRESS", "PERSON"], finder=finder)[0].to_list() == [
        "<EMAIL_ADDRESS>"
    ]


def test_names_without_presidio_say_what_to_install():
    with pytest.raises((MissingExtraError, ModelError)) as caught:
        pii_names.presidio()
    assert "install" in caught.value.fix or "download" in caught.value.fix


@pytest.mark.skipif(not (SHARED / "pii-presidio").exists(), reason="needs ../shared/data/pii-presidio")
def test_presidios_own_evaluation_set_is_found_nearly_whole_and_without_false_alarm():
    records = json.loads((SHARED / "pii-presidio" / "synth_dataset_v2.json").read_text())
    found = find(pl.Series([record["full_text"] for record in records]))
    hits = set()
    for row, entity, start, end in found.iter_rows():
        data = records[row]["full_text"].encode()
        hits.add((row, entity, len(data[:start].decode()), len(data[:end].decode())))
    truth = {
        (row, span["entity_type"], span["start_position"], span["end_position"])
        for row, record in enumerate(records)
        for span in record["spans"]
        if span["entity_type"] in ENTITIES
    }
    assert len(hits & truth) / len(truth) > 0.95
    assert len(hits & truth) / len(hits) > 0.99


def test_digits_without_the_shape_or_the_words_of_any_entity_are_no_candidates():
    text = "In 2024-05-17 12345678 of 123456789, id 123456789012, 3.14159265, 10-11-12-13, not 4111111111111112"
    assert pii_candidates.candidates(*pii.buffers(pl.Series([text])), NUMBER).kind.size == 0


@pytest.mark.parametrize("number", ["460899847", "555 0123 444"])
def test_what_stands_around_a_number_is_looked_for_within_its_own_text(number):
    data, offsets = pii.buffers(pl.Series(["phone + ssn ", number, "fax"]))
    assert pii_candidates.candidates(data, offsets, NUMBER).kind.size == 0


def test_the_prefix_table_finds_each_prefix_by_its_rare_byte():
    texts = [prefix.decode() + "x" * 60 for prefix in pii_candidates.SECRET_PREFIXES]
    data, offsets = pii.buffers(pl.Series(texts))
    found = pii_candidates.candidates(data, offsets, pii_candidates.SECRET)
    assert found.row.tolist() == list(range(len(texts)))
    assert (found.start == offsets[:-1]).all()
    assert found.detail.tolist() == list(range(len(texts)))
