"""The load test's arithmetic: metrics, histograms, merging, objectives, validity."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from figures.histogram import Histogram
from figures.record import RequestRecord
from figures.results import RunResults
from figures.slo import EXIT_BROKEN, EXIT_INVALID, EXIT_OK, exit_code, good, parse_slo, parse_slos
from figures.traffic import MAX_BUCKETS, Timeline
from figures.validity import WorkerHealth
from hypothesis import given
from hypothesis import strategies as st
from output.terminal_table import run_table

HEADER = {"warmup_s": 1.0, "duration_s": 10.0, "slos": ["ttft:p99<100ms", "tpot<10ms"]}
SECONDS = st.floats(min_value=0, max_value=1e4, allow_nan=False)


def request(at: float, **changed: Any) -> RequestRecord:
    """Sent 1 ms late, first token after 50 ms, then two responses of 1 and 2 tokens."""
    values: dict[str, Any] = {
        "request_id": f"{at}",
        "workload": "test",
        "scheduled_at": at,
        "sent_at": at + 0.001,
        "first_token_at": at + 0.05,
        "last_token_at": at + 0.08,
        "ended_at": at + 0.09,
        "gaps": ((0.01, 1), (0.02, 2)),
        "num_input_tokens": 9,
        "num_output_tokens": 4,
        "finish_reason": "length",
        "correct": True,
    }
    return RequestRecord(**{**values, **changed})


def histogram(values: list[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def test_record_metrics_follow_their_definitions() -> None:
    record = request(5.0)
    assert record.ttft == pytest.approx(0.05)
    assert record.ttft_from_send == pytest.approx(0.049)
    assert record.itl == pytest.approx((0.01, 0.01))  # a gap counts by the tokens it brought
    assert record.tpot == pytest.approx(0.03 / 3)
    assert record.e2e == pytest.approx(0.09)
    assert record.send_lag == pytest.approx(0.001)
    assert [tokens for _, tokens in record.token_times()] == [1, 1, 2]


def test_a_record_survives_its_line_of_json() -> None:
    record = request(5.0, error="a\nb", journey="slow_reader")
    assert "\n" not in record.to_json()
    assert RequestRecord.from_json(record.to_json()) == record
    with pytest.raises(ValueError, match="no field 'colour'"):
        RequestRecord.from_json('{"colour": 1}')


@given(st.lists(SECONDS, min_size=1, max_size=300), st.sampled_from([50.0, 90.0, 99.0, 99.9, 100]))
def test_percentiles_equal_those_of_sorted_values(values: list[float], percent: float) -> None:
    true = sorted(values)[max(math.ceil(round(len(values) * percent / 100, 6)), 1) - 1]
    said = histogram(values).percentile(percent)
    assert said == pytest.approx(true, rel=0.0005, abs=2e-9)


@given(st.lists(st.lists(SECONDS, max_size=30), max_size=6))
def test_merging_works_in_any_order_and_loses_nothing(parts: list[list[float]]) -> None:
    whole = histogram([value for part in parts for value in part])
    for order in (parts, parts[::-1]):
        merged = Histogram()
        for part in order:
            merged.merge(Histogram.from_dict(json.loads(json.dumps(histogram(part).to_dict()))))
        assert merged.summary() == whole.summary()
        assert merged.counts == whole.counts


def test_merged_workers_equal_one_worker() -> None:
    generator = random.Random(0)
    one, parts = RunResults(HEADER), [RunResults(HEADER) for _ in range(3)]
    for number in range(500):
        at = number / 50
        failed = {"error_class": "ServerBusy", "error": "full"} if number % 50 == 0 else {}
        phase = "warmup" if at < 1 else "measured"
        record = request(at, phase=phase, first_token_at=at + generator.random() / 5, **failed)
        one.add(record)
        generator.choice(parts).add(record)
    merged = RunResults()
    for part in parts:
        merged.merge(RunResults.decode(part.encode()))
    assert merged.summary() == one.summary()


def test_rates_count_the_measured_window_only() -> None:
    results = RunResults(HEADER)
    results.add(request(0.5, phase="warmup"))  # ends in the warm-up
    results.add(request(0.96, phase="warmup"))  # its end and its tokens are in the window
    results.add(request(2.0))
    results.add(request(10.95, phase="drained"))  # only its arrival is in the window
    summary = results.summary()
    assert summary["counts"]["scheduled"] == 2
    assert summary["counts"]["warmup"] == 2
    assert summary["rates"]["requests_per_s"] == pytest.approx(2 / 10)
    assert summary["rates"]["output_tokens_per_s"] == pytest.approx(8 / 10)
    assert summary["metrics"]["ttft"]["count"] == 2


def test_normal_figures_exclude_faulty_clients() -> None:
    results = RunResults(HEADER)
    results.add(request(2.0))
    results.add(request(2.0, journey="slow_reader", ended_at=9.0))
    summary = results.summary()
    assert summary["metrics"]["e2e"]["count"] == 1
    assert summary["journeys"]["slow_reader"]["metrics"]["e2e"]["max"] == pytest.approx(7.0)


def test_goodput_needs_every_objective_of_a_request() -> None:
    slos = parse_slos("ttft:p99<60ms,tpot:p99<20ms")
    assert good(request(1.0), slos)
    assert not good(request(1.0, first_token_at=1.07), slos)
    assert not good(request(1.0, last_token_at=1.2), slos)
    assert not good(request(1.0, correct=False), slos)
    assert not good(request(1.0, error_class="ServerBusy"), slos)


def test_an_objective_limits_a_percentile() -> None:
    slo = parse_slo("ttft:p90 < 1.5s")
    assert (slo.metric, slo.percent, slo.limit_s) == ("ttft", 90.0, 1.5)
    assert slo.held_in(histogram([0.1] * 90 + [9.0] * 10))
    assert not slo.held_in(histogram([0.1] * 89 + [9.0] * 11))
    assert not slo.held_in(Histogram())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ttft", "not of the form"),
        ("tfft<1s", "'tfft'"),
        ("ttft<1h", "'h'"),
        ("ttft:p101<1s", "101"),
        ("ttft<0s", "limit above 0, not 0"),
        ("ttft<1.2.3s", "1.2.3"),
    ],
)
def test_a_wrong_objective_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_slo(text)


def test_a_long_timeline_is_bounded_and_merges_with_a_short_one() -> None:
    long, short, whole = Timeline(), Timeline(), Timeline()
    for number in range(3 * MAX_BUCKETS):
        part = long if number % 2 or number > MAX_BUCKETS // 2 else short
        part.add(request(float(number)), True)
        whole.add(request(float(number)), True)
    assert len(long.buckets) <= MAX_BUCKETS
    assert short.width_s < long.width_s
    copy = Timeline.from_dict(json.loads(json.dumps(long.to_dict())))
    copy.merge(short)
    assert copy.summary() == whole.summary()
    short.merge(long)
    assert short.summary() == whole.summary()


def test_a_late_client_makes_the_run_invalid() -> None:
    results = RunResults({**HEADER, "slos": ["ttft:p99<100ms"]})
    results.add(request(2.0))
    assert exit_code(results.summary()) == EXIT_OK
    results.add(request(2.0, sent_at=2.03))
    summary = results.summary()
    assert "sent 30" in summary["validity"]["reasons"][0]
    assert exit_code(summary) == EXIT_INVALID


def test_allowed_client_lag_grows_with_the_reported_tail() -> None:
    """The SLO's limit is irrelevant: of a TTFT of 50 ms the client may not add 40."""
    results = RunResults({**HEADER, "slos": ["ttft:p99<1000s"]})
    results.add(request(2.0, sent_at=2.03))
    assert not results.validity()["valid"]
    results.header["max_lag_s"] = 0.04
    assert results.validity()["valid"]
    slow = RunResults({**HEADER, "slos": ["ttft:p99<1ms"]})
    slow.add(request(2.0, sent_at=2.03, first_token_at=3.0))
    assert slow.validity()["valid"], "5 % of a second are 50 ms"


def test_a_loop_that_wakes_late_makes_the_run_invalid() -> None:
    results = RunResults({**HEADER, "slos": ["ttft:p99<1000s"]})
    results.add(request(2.0, sent_at=2.001, first_token_at=12.0))
    health = results.workers["3"] = WorkerHealth()
    health.loop_lag.add(0.019)
    assert results.validity()["valid"]
    health.loop_lag.add(0.03)
    (reason,) = results.validity()["reasons"]
    assert reason.startswith("worker 3's event loop woke 30.0 ms late (p99), more than 20 ms")
    assert "give the load test a machine, or cores, of its own" in reason


def test_a_valid_run_states_the_precision_of_its_tails() -> None:
    """Precise is within 2 ms or 3 % of the figure; a gap of 20 ms read 5 ms late is not."""
    results = RunResults({**HEADER, "slos": ["ttft:p99<1000s"]})
    results.add(request(2.0, sent_at=2.001, first_token_at=2.5, gaps=((0.02, 1),)))
    health = results.workers["0"] = WorkerHealth()
    health.loop_lag.add(0.0019)
    assert results.validity() == {"valid": True, "reasons": [], "doubts": []}
    health.loop_lag.add(0.005)
    (doubt,) = results.validity()["doubts"]
    assert doubt.startswith("p99 of itl may be up to 5.0 ms too high")
    assert doubt in run_table(results.summary())
    health.loop_lag.add(0.018)
    assert "p99 of ttft and itl may be" in results.validity()["doubts"][0]
    health.loop_lag.add(0.05)
    assert not results.validity()["valid"]
    assert results.validity()["doubts"] == []


def test_rates_of_a_running_round_use_the_elapsed_time() -> None:
    results = RunResults(HEADER)
    for at in (1.5, 2.0, 2.5):
        results.add(request(at))
    assert results.summary()["rates"]["requests_per_s"] == pytest.approx(0.3)
    rates = results.summary(2.0)["rates"]
    assert rates["requests_per_s"] == rates["offered_per_s"] == pytest.approx(1.5)
    assert results.summary(99.0)["rates"] == results.summary()["rates"]


def test_the_timeline_shows_the_one_long_gap() -> None:
    timeline = Timeline()
    gaps = tuple((3.0 if number == 500 else 0.01, 1) for number in range(1000))
    timeline.add(request(2.0, gaps=gaps, num_output_tokens=1001), True)
    (bucket,) = (each for each in timeline.summary()["buckets"] if "itl" in each["metrics"])
    assert bucket["metrics"]["itl"]["p99"] == pytest.approx(0.01, rel=1e-3)
    assert bucket["metrics"]["itl"]["max"] == 3.0


def test_a_saturated_or_dead_worker_makes_the_run_invalid() -> None:
    results = RunResults(HEADER)
    results.workers["1"] = WorkerHealth(cpu_s=9.5, wall_s=10.0)
    assert "worker 1 used 95% of its core" in results.validity()["reasons"][0]
    results = RunResults(HEADER)
    results.note("worker 0 died at 3 s", voids=True)
    assert RunResults.decode(results.encode()).validity()["reasons"] == ["worker 0 died at 3 s"]


def test_a_broken_objective_or_wrong_answer_sets_exit_code_1() -> None:
    for broken in ({"first_token_at": 2.5}, {"correct": False}, {"error_class": "ServerBusy"}):
        results = RunResults(HEADER)
        results.add(request(2.0, **broken))
        assert exit_code(results.summary()) == EXIT_BROKEN
