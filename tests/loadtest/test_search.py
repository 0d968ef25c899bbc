"""The search for the highest rate: what a step shows, and where it must not say anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
from command_line.options import RunOptions
from figures.record import DRAINED, MEASURED, RequestRecord
from figures.results import RunResults
from figures.slo import parse_slo
from searches.find_max_rate import find_max_rate
from searches.rate_trial import Trial, keeps_up, lengthened, needed, step_seconds
from traffic.arrivals import unit_arrivals

WINDOW_S = 10.0


def record(number: int, due: float, ttft: float, answer_s: float = 0.2) -> RequestRecord:
    end = due + ttft + answer_s
    return RequestRecord(
        request_id=str(number),
        workload="32/2",
        phase=MEASURED if end < WINDOW_S else DRAINED,
        scheduled_at=due,
        sent_at=due,
        first_token_at=due + ttft,
        last_token_at=end,
        ended_at=end,
        gaps=((answer_s, 1),),
        num_output_tokens=2,
        finish_reason="length",
    )


def results_of(records: Iterable[RequestRecord], *slos: str) -> RunResults:
    results = RunResults({"warmup_s": 0.0, "duration_s": WINDOW_S, "slos": slos})
    for each in records:
        results.add(each)
    return results


def step(ttfts: list[float], *slos: str) -> Trial:
    """A step whose requests are spread evenly over the window."""
    apart = WINDOW_S / len(ttfts) if ttfts else 1.0
    made = [record(number, number * apart, ttft) for number, ttft in enumerate(ttfts)]
    return Trial.of(len(ttfts) / WINDOW_S, results_of(made, *(slos or ("ttft:p99<1s",))))


@pytest.mark.parametrize(
    ("late", "requests", "decided", "held"),
    [
        (0, 0, False, False),  # nothing was asked
        (0, 5, False, False),  # p99 of five is one of them
        (1, 5, False, False),  # as is what was late
        (2, 5, True, False),  # of a hundred only one may be late
        (0, 99, False, False),
        (0, 100, True, True),
        (1, 100, True, True),
        (2, 100, True, False),
    ],
)
def test_a_step_decides_only_what_its_requests_show(
    late: int, requests: int, decided: bool, held: bool
) -> None:
    tried = step([2.0] * late + [0.1] * (requests - late))
    assert (tried.decided, tried.held, tried.requests) == (decided, held, requests)
    assert tried.late == (late > 0)
    if not decided:
        assert "ttft:p99<1s needs 100" in tried.why
        assert "too few requests" in tried.outcome


@pytest.mark.parametrize(
    ("slo", "requests"),
    [("e2e:p50<1s", 2), ("ttft:p90<1s", 10), ("itl<1s", 100), ("tpot:p99.9<1s", 1000)],
)
def test_each_percentile_needs_enough_requests(slo: str, requests: int) -> None:
    assert needed(parse_slo(slo)) == requests
    assert step([0.1] * requests, slo).held
    assert not step([0.1] * (requests - 1), slo).decided


def test_a_rate_that_was_not_offered_does_not_hold() -> None:
    made = [record(number, number / 20, 0.1) for number in range(150)]
    results = results_of(made, "ttft:p99<1s")
    assert Trial.of(20.0, results, planned=150).held
    tried = Trial.of(20.0, results, planned=200)
    assert (tried.held, tried.decided) == (False, False)


@pytest.mark.parametrize(("capacity", "behind"), [(8.0, True), (15.0, True), (20.0, False)])
def test_a_rate_with_a_growing_queue_does_not_hold(capacity: float, behind: bool) -> None:
    """20 requests/s to a server of that capacity; no objective would show it."""
    free, made = 0.0, []
    for number, unit in zip(range(200), unit_arrivals("constant", 0), strict=False):
        due = unit / 20
        free = max(free, due) + 1 / capacity
        made.append(record(number, due, free - due))
    results = results_of(made, "ttft:p99<1000s")
    assert keeps_up(results)[0] == (not behind)
    tried = Trial.of(20.0, results)
    assert (tried.held, tried.decided) == (not behind, True)
    assert ("less is completed than is offered" in tried.outcome) == behind


def test_answers_as_long_as_the_step_do_not_count_as_a_growing_queue() -> None:
    made = [record(number, number / 20, 0.1, answer_s=8.0 + number % 7) for number in range(200)]
    assert sum(each.phase == MEASURED for each in made) < 30
    results = results_of(made, "ttft:p99<1s")
    assert keeps_up(results)[0] is None
    tried = Trial.of(20.0, results)
    assert (tried.held, tried.decided) == (False, False)
    assert "10 s are short beside an e2e of" in tried.why


def test_a_rate_with_few_completed_requests_does_not_hold() -> None:
    """All slots of a server fill up in the first seconds: a queue grows only after them."""
    slots: list[float] = [0.0] * 64  # when each is free again; a request takes 4 s: 16 a second
    made = []
    for number in range(300):
        due = number / 30
        free = max(due, slots[number % 64])
        slots[number % 64] = free + 4.0
        made.append(record(number, due, free - due, answer_s=4.0))
    assert not Trial.of(30.0, results_of(made, "ttft:p99<1000s")).held


def test_a_steady_server_with_long_answers_keeps_up() -> None:
    made = [record(number, number / 20, 0.1, answer_s=1.7) for number in range(200)]
    results = results_of(made, "ttft:p99<1s")
    assert results.journey().counts["in_window"] < 0.95 * 200
    assert Trial.of(20.0, results).held


def test_a_step_lasts_much_longer_than_a_request() -> None:
    options = RunOptions(load_s=4.0, warmup_s=0.4, slos="ttft:p99<1s")
    assert lengthened(options, 100.0, 3.0)[0].load_s == pytest.approx(60.4)


def test_a_step_is_lengthened_until_its_percentiles_are_meaningful() -> None:
    options = RunOptions(load_s=4.0, warmup_s=0.4, slos="ttft:p99<1s", seed=3)
    seconds = step_seconds(options, 0.5)
    due = [unit / 0.5 for _, unit in zip(range(1000), unit_arrivals("poisson", 3), strict=False)]
    assert sum(0.4 <= each < seconds for each in due) == 100
    assert step_seconds(options, 500.0) == 4.0
    longer, needed_s = lengthened(options, 0.5)
    assert (longer.load_s, needed_s) == (seconds, seconds)
    most, needed_s = lengthened(options, 0.01)
    assert most.load_s == 600.0 < needed_s
    assert "(-t)" in Trial.too_long(0.01, needed_s).why


def test_a_rare_workload_has_its_own_objective() -> None:
    options = RunOptions(
        workload="128/128=9,1000/10=1", slos="1000/10:ttft:p90<1s", load_s=1.0, warmup_s=0.0
    )
    assert 50 < step_seconds(options, 1.0) < 250  # ten of about a hundred
    half = RunOptions(slos="ttft:p90<1s", faults="slow_reader=0.5", load_s=1.0, warmup_s=0.0)
    whole = RunOptions(slos="ttft:p90<1s", load_s=1.0, warmup_s=0.0)
    assert step_seconds(half, 1.0) > step_seconds(whole, 1.0)


def server(
    capacity: float, seconds: float, most_s: float = math.inf
) -> Callable[[float, bool], Trial]:
    """A step as the master runs it, of a server that holds `capacity` requests/s."""

    def trial(rate: float, whole: bool) -> Trial:
        lasts = max(seconds, 100 / rate) if whole else seconds
        if lasts > max(most_s, seconds):
            return Trial.too_long(rate, lasts)
        requests = int(rate * lasts)
        held = rate <= capacity
        decided = requests >= 100 or (not held and requests >= 4)
        return Trial(
            rate=rate,
            held=held and decided,
            decided=decided,
            late=not held and requests > 0,
            requests=requests,
            why="few",
        )

    return trial


@pytest.mark.parametrize("capacity", [0.3, 1.1, 40.0])
@pytest.mark.parametrize(("start", "seconds"), [(0.05, 4.0), (0.2, 30.0), (4.0, 1.0)])
def test_the_search_reports_only_rates_that_a_step_has_shown(
    capacity: float, start: float, seconds: float
) -> None:
    found = find_max_rate(server(capacity, seconds), start)
    assert found.rate is not None
    assert found.rate <= capacity <= found.rate * 1.05
    shown = [each for each in found.trials if each.rate == found.rate]
    assert shown[-1].requests >= 100


def test_the_search_says_if_no_step_can_be_long_enough() -> None:
    found = find_max_rate(server(0.1, 4.0, most_s=600.0), 0.05)
    assert (found.rate, found.told) == (None, False)
    assert "(-t)" in found.why


def test_a_step_that_was_too_short_is_repeated_once() -> None:
    steps: list[tuple[float, bool]] = []

    def trial(rate: float, whole: bool) -> Trial:
        steps.append((rate, whole))
        decided = rate >= 4 or steps.count((rate, whole)) == 2
        return Trial(rate=rate, held=rate < 3 and decided, decided=decided, requests=9, why="few")

    found = find_max_rate(trial, 1.0)
    assert found.rate == pytest.approx(2.9, abs=0.15)
    assert steps[:5] == [(1, False), (2, False), (4, False), (2, True), (2, True)]


def test_a_step_with_one_late_request_is_repeated() -> None:
    tried: list[tuple[float, bool]] = []

    def trial(rate: float, whole: bool) -> Trial:
        tried.append((rate, whole))
        first = len(tried) == 1
        return Trial(
            rate=rate, held=not first and rate < 3, decided=not first, late=first, why="few"
        )

    assert find_max_rate(trial, 2.0).rate == pytest.approx(2.9, abs=0.15)
    assert tried[:3] == [(2.0, False), (2.0, True), (4.0, False)]
