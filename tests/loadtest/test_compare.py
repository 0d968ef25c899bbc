"""Comparing two runs: ratios against a plain computation, intervals, and what is not comparable."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from compare import parse_conditions
from figures.bootstrap import Sample, Values, compare, statistics, values_by_workload
from figures.record import WARMUP, RequestRecord

from tests.support.paths import LOADTEST
from tests.support.run_folders import made_up, write_run

COMPARE = LOADTEST / "compare.py"


def compared(first: Path, second: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMPARE), str(first), str(second), *options]
    return subprocess.run(command, capture_output=True, text=True)


def nearest_rank(values: list[float], percent: float) -> float:
    return sorted(values)[math.ceil(round(len(values) * percent / 100, 6)) - 1]


def values_of(records: Iterable[RequestRecord]) -> Sample:
    return values_by_workload(records, ())[""]


def test_weighted_statistics_equal_those_of_repeated_values() -> None:
    values = Values([0.5, 0.1, 0.9, 0.3, 0.3], [0, 0, 1, 2, 2])
    draws = np.array([[1, 1, 1], [0, 3, 0], [2, 0, 1]])
    told = statistics(values, draws, ("mean", "p50", "p99"))
    for draw, row in zip(draws, told, strict=True):
        repeated = [
            each
            for each, owner in zip(values.seconds, values.owners, strict=True)
            for _ in range(draw[owner])
        ]
        plain = [float(np.mean(repeated)), *(nearest_rank(repeated, p) for p in (50, 99))]
        assert list(row) == pytest.approx(plain)


def test_ratios_use_measured_requests_only() -> None:
    first, second = made_up(200, seed=1), made_up(200, seed=2, ttft_s=0.15)
    ratios = {
        (each.metric, each.statistic): each for each in compare(values_of(first), values_of(second))
    }

    def ttfts(records: list) -> list[float]:  # type: ignore[type-arg]
        return [each.ttft for each in records if each.phase != WARMUP]

    plain = nearest_rank(ttfts(second), 99) / nearest_rank(ttfts(first), 99)
    found = ratios["ttft", "p99"]
    assert found.ratio == pytest.approx(plain)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.ratio <= found.high
    assert ratios["ttft", "mean"].changed
    assert not ratios["itl", "p50"].changed
    again = compare(values_of(first), values_of(second))
    assert again == list(ratios.values()), "the same seed makes the same intervals"


def test_intervals_contain_the_true_ratio_as_often_as_stated() -> None:
    def ttfts(seed: int) -> tuple[dict[str, Values], int]:
        values, count = values_of(made_up(120, seed))
        return {name: values[name] if name == "ttft" else Values() for name in values}, count

    hits = sum(
        not only.changed
        for seed in range(40)
        for only in compare(ttfts(seed), ttfts(seed + 500), ("mean",))
    )
    assert 33 <= hits <= 40  # of 40, at 95 %


def test_fail_if_sets_exit_code_1(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", made_up(200))
    second = write_run(tmp_path / "b", made_up(200, seed=1, ttft_s=0.2))
    assert compared(first, second, "--fail-if", "ttft:p99>2.5, itl:p50>1.1").returncode == 0
    done = compared(first, second, "--fail-if", "ttft:p99>1.1, ttft:p99.5>1.1")
    assert done.returncode == 1
    assert "FAILED ttft:p99>1.1: the ratio is " in done.stdout
    assert "FAILED ttft:p99.5>1.1: the ratio is " in done.stdout
    assert compared(first, second, "--fail-if", "output_tokens_per_s<0.9").returncode == 0


def test_without_records_there_are_no_intervals(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", made_up(200))
    second = write_run(tmp_path / "b", made_up(200, ttft_s=0.2))
    done = compared(first / "summary.json", second / "summary.json", "--fail-if", "ttft:p99>1.1")
    assert done.returncode == 1
    assert "no intervals" in done.stdout


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seed": 2}, "seed is 1 in"),
        ({"workload": "1000/1000"}, "workload is '128/128' in"),
        ({"rate": 11.0}, "rate is 10.0 in"),
        ({"users": 6}, "users is 1 in"),
        ({"requests_sha256": "b"}, "requests_sha256 is 'a' in"),
        ({"changes": ["12 users"]}, "changes is [] in"),
        ({"cpu": 0.99}, "is INVALID: worker 0 used 99% of its core"),
    ],
)
def test_different_runs_are_not_comparable(
    tmp_path: Path, change: dict[str, object], why: str
) -> None:
    first = write_run(tmp_path / "a", made_up(100))
    second = write_run(tmp_path / "b", made_up(100), **change)  # type: ignore[arg-type]
    done = compared(first, second)
    assert done.returncode == 0
    assert "NOT COMPARABLE: " in done.stdout
    assert why in done.stdout
    assert compared(first, second, "--fail-if", "ttft:p99>9").returncode == 3


def test_wrong_input_gets_one_sentence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", made_up(100))
    empty = write_run(tmp_path / "empty", [])
    for other, sentence in [
        (tmp_path / "nowhere", "does not exist"),
        (empty, "no measured request"),
        (tmp_path / "a" / "records.jsonl", ""),
    ]:
        done = compared(run, other)
        assert done.returncode == (2 if sentence else 0)
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ttft>1.1", "must be as"),
        ("ttft:p99=1.1", "must be as"),
        ("latency:p99>1.1", "must name one of ttft"),
        ("ttft:p101>1.1", "the percentile must be"),
        ("ttft:p9.9.9>1.1", "no right number"),
        ("goodput_share:p99<0.9", "must be as"),
    ],
)
def test_wrong_conditions_are_named(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_conditions(text)


def test_gaps_are_resampled_with_their_request() -> None:
    records = made_up(60)
    values, count = values_of(records)
    assert count == 40
    assert values["itl"].owners == [owner for owner in range(40) for _ in range(15)]
    without = [dataclasses.replace(each, phase=WARMUP) for each in records]
    assert values_of(without)[1] == 0
