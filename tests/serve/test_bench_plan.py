"""Plans, traces, prompts, percentiles and the page of a load test: its pure parts."""

from __future__ import annotations

import itertools
import json
import statistics
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.errors import DataError, UsageError
from nexus_llm.serve.bench.plan import Arrival, BenchPlan, Lengths, Slo, arrivals
from nexus_llm.serve.bench.prompts import Prompts, WordCount
from nexus_llm.serve.bench.records import GapHistogram, Records, RequestTimes
from nexus_llm.serve.bench.report import report_html
from nexus_llm.serve.bench.run import Client, Measured
from nexus_llm.serve.bench.stream import BadStreamError, ChatStream
from nexus_llm.serve.bench.summary import summary
from nexus_llm.serve.bench.trace import read_trace

TRACES = Path(__file__).parents[3] / "shared" / "data"
needs_traces = pytest.mark.skipif(not (TRACES / "azure-llm-2023").is_dir(), reason="needs ../shared/data")


def plan(**fields: Any) -> BenchPlan:
    return BenchPlan(**{"url": "http://127.0.0.1:1", "model": "m", **fields})


def measured(*requests: RequestTimes, seconds: float = 2.0, **fields: Any) -> Measured:
    records = Records()
    for one in requests:
        records.add(one)
    return Measured(plan(**fields), records, seconds, Client(0.1, [0.001]), planned=len(requests))


def good(**fields: Any) -> RequestTimes:
    known = {"scheduled": 1.0, "sent": 1.0, "arrivals": array("d", [1.5, 1.6, 1.8]), "ended": 2.0, "output_tokens": 3}
    return RequestTimes(**{**known, **fields})


def test_poisson_arrivals_have_their_rate_their_spread_and_their_seed() -> None:
    times = [
        one.at_seconds
        for one in arrivals(plan(load="poisson", rate_per_second=50.0, duration_seconds=200.0, requests=None))
    ]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times[-1] < 200
    assert len(times) == pytest.approx(10_000, rel=0.05)
    # Of exponential gaps the standard deviation equals the mean.
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    again, other = (
        arrivals(plan(load="poisson", rate_per_second=50.0, duration_seconds=1.0, requests=None, seed=seed))
        for seed in (0, 1)
    )
    assert [one.at_seconds for one in again] == times[: len(again)]
    assert [one.at_seconds for one in other] != times[: len(other)]


def test_lengths_are_fixed_or_drawn_from_a_range() -> None:
    drawn = arrivals(plan(requests=500, input_tokens=Lengths.parse("64-67", option="--input-tokens")))
    assert {one.input_tokens for one in drawn} == {64, 65, 66, 67}
    assert {one.output_tokens for one in drawn} == {64}
    for wrong in ("0", "9-3", "a", "1-2-3", "-4", "", "1.5"):
        with pytest.raises(UsageError):
            Lengths.parse(wrong, option="--input-tokens")


@pytest.mark.parametrize("wrong", ["ttft", "ttft=x", "speed=1", "ttft=0", "ttft=nan", "ttft=inf", "", "e2e=-1"])
def test_an_slo_that_says_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError):
        Slo.parse(wrong)


def test_traces_of_both_formats_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    azure, mooncake = tmp_path / "a.csv", tmp_path / "m.jsonl"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:04.5000000,30,4\r\n"
        "2023-11-16 18:17:03.9799600,10,2\r\n"
    )
    mooncake.write_text(
        '{"timestamp": 500, "input_length": 700, "output_length": 5, "hash_ids": [3, 4]}\n'
        '{"timestamp": 3500, "input_length": 9, "output_length": 1, "hash_ids": [3]}\n'
    )
    rows = read_trace(azure)
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(10, 2), (30, 4)]
    assert [row.at_seconds for row in rows] == pytest.approx([0.0, 0.52004], abs=1e-5)
    planned = arrivals(plan(load="trace", trace=mooncake, trace_speed=10.0, requests=None, max_input_tokens=600))
    assert planned == [Arrival(0.0, 600, 5, (3, 4)), Arrival(0.3, 9, 1, (3,))]
    assert len(read_trace(mooncake, limit=1)) == 1
    fixed = arrivals(plan(load="trace", trace=mooncake, requests=None, input_tokens=Lengths(8, 8)))
    assert [(one.input_tokens, one.output_tokens, one.blocks) for one in fixed] == [(8, 5, ()), (8, 1, ())]


def test_a_broken_trace_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    header = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04,1,1\n"
    for content, said in (
        ("a,b\n", ":1"), (header + "yesterday,1,1\n", ":3"), (header + "2023-11-16 18:17:04,x,1\n", ":3"),
        ('{"timestamp": 1}\n', ":1"), ('{"timestamp": 1, "input_length": 1, "output_length": 1}\n{oops\n', ":2"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(DataError, match=said):
            read_trace(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")


@needs_traces
@pytest.mark.parametrize(
    ("name", "requests", "hours"),
    [
        ("azure-llm-2023/AzureLLMInferenceTrace_code.csv", 8_819, 1.0),
        ("azure-llm-2023/AzureLLMInferenceTrace_conv.csv", 19_366, 1.0),
        ("mooncake-conv-synth/conversation_trace.jsonl", 12_031, 1.0),
        ("mooncake-conv-synth/synthetic_trace.jsonl", 3_993, None),
    ],
)
def test_the_public_traces_are_read_whole(name: str, requests: int, hours: float | None) -> None:
    rows = read_trace(TRACES / name)
    assert len(rows) == requests
    assert rows[0].at_seconds == 0
    assert all(row.input_tokens >= 0 for row in rows)
    if hours:
        assert rows[-1].at_seconds == pytest.approx(3600 * hours, rel=0.05)


def test_prompts_are_as_long_as_asked_and_differ_from_their_first_words_on() -> None:
    prompts = Prompts(WordCount(10.0, 1.25), seed=1)
    texts = [prompts.text(number, Arrival(0, 510, 1)) for number in range(5_000)]
    assert {len(text.split(" ")) for text in texts} == {400}
    assert len({" ".join(text.split(" ")[:6]) for text in texts}) == 5_000
    assert texts[:9] == [Prompts(WordCount(10.0, 1.25), seed=1).text(number, Arrival(0, 510, 1)) for number in range(9)]
    assert len(prompts.text(1, Arrival(0, 200_000, 1)).split(" ")) == 159_992
    assert len(prompts.text(1, Arrival(0, 1, 1)).split(" ")) == 1


def test_prompts_of_a_trace_share_the_blocks_that_it_says_they_share() -> None:
    prompts = Prompts(WordCount(), seed=1)
    one, two = (prompts.text(number, Arrival(0, 1_100, 1, (7, 8, number))) for number in (20, 30))
    assert one.split()[:1024] == two.split()[:1024]
    assert one.split()[1024:1030] != two.split()[1024:1030]
    assert len(one.split()) == 1_100


@given(values=st.lists(st.floats(2e-6, 9e4), min_size=1, max_size=300))
def test_percentiles_of_gaps_are_right_within_a_quarter_of_a_per_cent(values: list[float]) -> None:
    histogram = GapHistogram()
    for half in (values[::2], values[1::2]):
        histogram.add(np.array(half))
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        exact = float(np.quantile(values, share, method="inverted_cdf"))
        assert histogram.percentiles()[name] == pytest.approx(exact, rel=0.0026, abs=1e-6)


@given(data=st.binary(max_size=200), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_a_stream_reads_alike_however_it_is_cut_and_never_breaks_on_garbage(data: bytes, sizes: list[int]) -> None:
    real = (
        b'data: {"choices":[{"delta":{"content":"\xc3\xa4"}}]}\r\n\r\n'
        b'data:{"choices":[],"usage":{"completion_tokens":9}}\n\n'
    )
    stream, position, place = ChatStream(), 0, 0
    while position < len(real):
        stream.feed(real[position : position + sizes[place % len(sizes)]])
        position, place = position + sizes[place % len(sizes)], place + 1
    assert (stream.pieces, stream.completion_tokens, stream.has_ended) == (1, 9, False)
    try:
        stream.feed(data)
    except BadStreamError:
        return
    assert stream.pieces >= 1


def test_rates_percentiles_and_errors() -> None:
    refused = RequestTimes(scheduled=1.0, sent=1.0, ended=1.1, error="http_429")
    told = summary(measured(good(), refused, good()))
    assert told["output_tokens_per_second"] == 3.0
    assert told["requests_per_second"] == 1.0
    assert told["ttft_seconds"] == {"p50": 0.5, "p90": 0.5, "p95": 0.5, "p99": 0.5}
    assert told["inter_token_seconds"]["p95"] == pytest.approx(0.2, rel=0.0026)
    assert told["time_per_output_token_seconds"]["p50"] == pytest.approx(0.15)
    assert told["e2e_seconds"]["p50"] == 1.0
    assert told["errors"] == {"http_429": 1}


def test_a_test_without_an_answer_has_no_percentiles_and_still_a_page() -> None:
    told = summary(measured(slo=Slo(ttft=1.0)))
    assert told["ttft_seconds"] == {"p50": None, "p90": None, "p95": None, "p99": None}
    assert "<svg" in report_html(told)


def test_goodput_counts_those_that_met_every_bound_among_all_that_were_sent() -> None:
    slow = good(scheduled=0.0)
    one_piece = good(arrivals=array("d", [1.1]), output_tokens=1)
    silent = good(arrivals=array("d"), output_tokens=0)
    failed = RequestTimes(error="timeout")
    slo = Slo(ttft=0.6, itl=0.16, stall=0.3, e2e=1.5)
    told = summary(measured(good(), slow, one_piece, silent, failed, slo=slo))["goodput"]
    assert told["met"] == {"ttft": 2, "itl": 3, "stall": 3, "e2e": 3}
    assert told["requests_per_second"] == 1.0
    assert told["share"] == 0.4


def test_a_document_says_nothing_of_the_key_and_is_json() -> None:
    told = summary(measured(good(), api_key="sk-canary"), environment={"cores": 2})
    text = json.dumps(told, allow_nan=False) + report_html(told)
    assert "canary" not in text


def test_the_page_is_whole_in_itself_and_escapes_what_servers_say() -> None:
    bad = RequestTimes(scheduled=1.0, sent=1.2, ended=1.3, error="<script>alert(1)</script>")
    done = measured(good(), bad, load="poisson", rate_per_second=2.0, model="<b>m</b>", slo=Slo(ttft=1.0))
    page = report_html(summary(done, environment={"processor": "<i>x</i>"}))
    assert "<script" not in page
    assert "<b>m" not in page
    assert "<i>x" not in page
    assert "not valid" in page
    for outside in ("http-equiv", "src=", "href=", "@import", "url("):
        assert outside not in page
    assert "prefers-color-scheme: dark" in page


def test_a_hundred_thousand_requests_fit_in_a_few_megabytes_however_many_tokens() -> None:
    import tracemalloc

    pieces = array("d", [index * 0.01 for index in range(200)])
    tracemalloc.start()
    records = Records()
    for number in range(2_000):
        records.add(RequestTimes(number=number, arrivals=pieces, ended=2.0, output_tokens=200))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size * 50 < 16e6
    assert records.gaps.percentiles()["p50"] == pytest.approx(0.01, rel=0.003)
