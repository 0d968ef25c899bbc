"""Real runs of a mix of workloads, on the real server: the figures of each workload.

The truth about them is records.jsonl, counted and sorted here by plain Python.
"""

from __future__ import annotations

import collections
import itertools
import json
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from figures.record import RequestRecord
from figures.traffic import OF_A_WORKLOAD
from output.read_run import read_run
from serving.child_server import ServerProcess
from traffic.arrivals import unit_arrivals
from traffic.mix import chosen, parse_mix

from tests.support.load_runs import FREE, Ended, recording, records, run, summary

MIX = "64/8=3,chat=1,32/6=0.5"
SHORT_MIX = ("-t", "2s", "--rate", "30", "--warmup", "0.5", "--turns", "2", "--think-time", "0.05")
REPLAYED = "16/4=2,replay=1"
LOADS = {
    "one process": ("--json-file", "FOLDER/locust"),
    "two processes": ("--processes", "2"),
    "replayed": ("--workload", REPLAYED, "--replay", "RECORDING"),
    "closed": ("--closed-loop", "-u", "4", "--faults", "slow_reader=0.3"),
    "bound": ("--slo", "ttft:p99<1000s,64/8:e2e:p50<1us"),
    "hopeless": (
        *("--workload", "64/8=3,32/6=1", "--slo", "32/6:e2e:p50<1us", "-t", "24s"),
        "--stop-when-saturated",
    ),
    "search": ("--workload", "64/8=3,32/6=1", "--slo", "32/6:e2e:p50<1us", "--find-max-rate"),
}


@pytest.fixture(scope="module")
def loads(
    replay_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ended]]]:
    url, folder = replay_server.ports.url("grpc"), tmp_path_factory.mktemp("mixes")
    played = recording(folder, 3)
    with ThreadPoolExecutor(4) as pool:
        futures = {}
        for name, arguments in LOADS.items():
            place = folder / name.replace(" ", "-")
            filled = [
                each.replace("FOLDER", str(place)).replace("RECORDING", played)
                for each in arguments
            ]
            futures[name] = pool.submit(
                run, url, place, *FREE, "--workload", MIX, *SHORT_MIX, *filled
            )
        yield futures


def plain_percentile(values: list[float], percent: float) -> float:
    """Nearest rank."""
    return sorted(values)[max(math.ceil(round(len(values) * percent / 100, 6)), 1) - 1]


def assert_told(told: dict[str, Any], ours: list[RequestRecord], header: dict[str, Any]) -> None:
    """Counts, percentiles and rates of a workload are those of its records."""
    start = header["warmup_s"]
    end = start + header["duration_s"]
    measured = [each for each in ours if each.phase != "warmup"]
    assert told["counts"]["scheduled"] == len(measured) > 0
    assert told["counts"]["warmup"] == len(ours) - len(measured)
    assert told["counts"]["completed"] == sum(not each.error_class for each in measured)
    assert told["counts"]["output_tokens"] == sum(each.num_output_tokens for each in measured)
    for name in OF_A_WORKLOAD:
        values = [
            value
            for each in measured
            for value in (each.itl if name == "itl" else (getattr(each, name),))
            if value is not None
        ]
        assert told["metrics"][name]["count"] == len(values)
        # A busy server may send an answer in one response, which has no gap.
        for percent in (50.0, 90.0, 99.0) if values else ():
            assert told["metrics"][name][f"p{percent:g}"] == pytest.approx(
                plain_percentile(values, percent), rel=0.0005
            )
    tokens = sum(count for each in ours for at, count in each.token_times() if start <= at < end)
    assert told["rates"]["output_tokens_per_s"] == pytest.approx(tokens / header["duration_s"])


@pytest.mark.parametrize("name", ["one process", "two processes", "replayed", "closed", "bound"])
def test_each_workloads_figures_match_its_records(
    loads: dict[str, Future[Ended]], name: str
) -> None:
    code, text, folder = loads[name].result()
    assert code == (1 if name == "bound" else 0), text
    told, kept = summary(folder), records(folder)
    normal = [each for each in kept if each.journey == "normal"]
    shares = parse_mix(REPLAYED if name == "replayed" else MIX)
    assert list(told["workloads"]) == list(shares)
    assert {each.workload for each in kept} == set(shares)
    for workload, figures in told["workloads"].items():
        ours = [each for each in normal if each.workload == workload]
        assert_told(figures, ours, told["header"])
        assert f"Of them {workload}:" in text
    counts = [each["counts"]["scheduled"] for each in told["workloads"].values()]
    assert sum(counts) == told["counts"]["scheduled"]
    assert {each.correct for each in normal} == {True}
    assert "By workload" in (folder / "report.html").read_text(encoding="utf-8")
    again = read_run(folder)
    assert again.results is not None
    assert again.results.summary()["workloads"] == told["workloads"]


def test_one_and_two_processes_send_the_same(loads: dict[str, Future[Ended]]) -> None:
    def sent(name: str) -> dict[str, tuple[str, int]]:
        _, _, folder = loads[name].result()
        return {
            each.request_id: (each.workload, each.num_input_tokens)
            for each in records(folder)
            if each.turn == 0
        }

    assert sent("one process") == sent("two processes")
    shares = parse_mix(MIX)
    for request_id, (workload, _) in sent("two processes").items():
        seed, _, number, _, _ = request_id.split("-")
        assert workload == chosen(int(number), int(seed), shares)


def test_locusts_statistics_have_a_row_for_each_workload(loads: dict[str, Future[Ended]]) -> None:
    _, _, folder = loads["one process"].result()
    entries = json.loads((folder / "locust.json").read_text(encoding="utf-8"))
    told = {entry["name"]: entry["num_requests"] for entry in entries}
    assert told == collections.Counter(each.workload for each in records(folder))


def test_every_workloads_texts_are_checked(loads: dict[str, Future[Ended]]) -> None:
    _, _, folder = loads["one process"].result()
    # Four distinct conversations of each, those of the chat with two turns.
    assert summary(folder)["header"]["texts_compared"] == 4 + 4 * 2 + 4


def test_an_objective_of_one_workload_does_not_break_others(
    loads: dict[str, Future[Ended]],
) -> None:
    code, text, folder = loads["bound"].result()
    assert code == 1, text
    assert "held    ttft:p99<1000s" in text
    assert "BROKEN  64/8:e2e:p50<1us" in text
    told = summary(folder)["workloads"]
    assert [told[name]["rates"]["goodput_share"] for name in parse_mix(MIX)] == [0.0, 1.0, 1.0]


def test_an_unreachable_objective_of_one_workload_ends_the_load(
    loads: dict[str, Future[Ended]],
) -> None:
    code, text, folder = loads["hopeless"].result()
    assert code == 1, text
    assert "are late for 32/6:e2e:p50<1us, which must be at most" in text
    planned = collections.Counter(
        chosen(number, 0, parse_mix("64/8=3,32/6=1"))
        for number, unit in enumerate(itertools.islice(unit_arrivals("poisson", 0), 3000))
        if 0.5 <= unit / 30 < 24
    )
    late = planned["32/6"] - math.ceil(planned["32/6"] / 2)
    assert f"must be at most {late}" in text
    assert sum(each.workload == "32/6" for each in records(folder)) > late


def test_a_search_can_judge_one_workload(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["search"].result()
    assert code == 1, text
    assert "no rate held the SLOs" in text
    assert "32/6:e2e:p50<1us" in text
    assert "By workload" in (folder / "report.html").read_text(encoding="utf-8")
