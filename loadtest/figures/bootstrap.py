"""Ratios of two runs' statistics with confidence intervals, by bootstrap over requests.

Each of `RESAMPLES` resamples draws as many requests of each run as it has, with replacement, and
divides the second run's statistic by the first's. The interval is the middle 95 % of these ratios.
A request is drawn with all of its gaps, because the gaps of one request depend on each other.
Percentiles are by nearest rank, and the seed is fixed.

The intervals are rather too narrow: the method treats requests as independent, though requests of
one run slow each other down, and it cannot know how much a second run of the same load would vary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from figures.record import NORMAL, WARMUP, RequestRecord

METRICS = ("ttft", "ttft_from_send", "itl", "tpot", "e2e")
STATISTICS = ("mean", "p50", "p90", "p99")
RESAMPLES = 400
CONFIDENCE = 0.95
SEED = 20_260_101
Floats = NDArray[np.float64]


@dataclass
class Values:
    """One metric's values in seconds, and for each value the number of its request."""

    seconds: list[float] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


Sample = tuple[dict[str, Values], int]  # the values by metric, the number of requests


@dataclass(frozen=True, slots=True)
class Ratio:
    """The second run's statistic over the first's, with its interval.

    `low` and `high` are None unless both runs have records. `workload` is "" for all requests.
    """

    metric: str
    statistic: str
    first: float
    second: float
    low: float | None = None
    high: float | None = None
    workload: str = ""

    @property
    def ratio(self) -> float:
        """nan if `first` is zero."""
        return self.second / self.first if self.first else float("nan")

    @property
    def changed(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def values_by_workload(
    records: Iterable[RequestRecord], workloads: Collection[str]
) -> dict[str, Sample]:
    """The values of the normal requests after the warm-up, by metric, and their number.

    For each workload by its name, and for all requests under "".
    """
    values = {each: {name: Values() for name in METRICS} for each in ("", *workloads)}
    counts = dict.fromkeys(values, 0)
    for record in records:
        if record.phase == WARMUP or record.journey != NORMAL:
            continue
        for part in {"", record.workload} & values.keys():
            for name in METRICS:
                value = getattr(record, name)
                for each in value if name == "itl" else (value,):
                    if each is not None:
                        values[part][name].seconds.append(each)
                        values[part][name].owners.append(counts[part])
            counts[part] += 1
    return {part: (values[part], counts[part]) for part in values}


def statistics(
    values: Values, draws: NDArray[np.int64] | None, names: Sequence[str] = STATISTICS
) -> Floats:
    """Seconds, shape [draws, names]; nan for a draw without values.

    `draws` [draws, requests] says how often each request was drawn; None: every request once.
    """
    seconds = np.asarray(values.seconds, np.float64)
    order = np.argsort(seconds, kind="stable")
    ordered, owners = seconds[order], np.asarray(values.owners, np.int64)[order]
    rows = [np.ones(len(ordered))] if draws is None else (draw[owners] for draw in draws)
    return np.array([[_one(ordered, weights, name) for name in names] for weights in _summed(rows)])


def compare(
    first: Sample, second: Sample, names: Sequence[str] = STATISTICS, workload: str = ""
) -> list[Ratio]:
    """The ratios of every metric that both runs have values for."""
    generator = np.random.default_rng(SEED)
    draws = [_draws(generator, count) for _, count in (first, second)]
    ratios = []
    for metric in METRICS:
        runs = [first[0][metric], second[0][metric]]
        if not all(run.seconds for run in runs):
            continue
        whole = [statistics(run, None, names)[0] for run in runs]
        drawn = [statistics(run, draw, names) for run, draw in zip(runs, draws, strict=True)]
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = drawn[1] / drawn[0]
        for place, name in enumerate(names):
            low, high = _interval(spread[:, place])
            ratios.append(
                Ratio(metric, name, whole[0][place], whole[1][place], low, high, workload)
            )
    return ratios


def _draws(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    """How often each draw has each request, shape [RESAMPLES, count]."""
    return np.stack(
        [
            np.bincount(generator.integers(0, count, count), minlength=count)
            for _ in range(RESAMPLES if count else 0)
        ]
        or [np.zeros(0, np.int64)]
    )


def _summed(rows: Iterable[NDArray[np.generic]]) -> Iterable[tuple[Floats, Floats]]:
    for weights in rows:
        yield weights.astype(np.float64), np.cumsum(weights, dtype=np.float64)


def _one(ordered: Floats, weights: tuple[Floats, Floats], name: str) -> float:
    each, summed = weights
    if not summed[-1]:
        return float("nan")
    if name == "mean":
        return float(ordered @ each / summed[-1])
    rank = max(np.ceil(round(summed[-1] * float(name[1:]) / 100, 6)), 1)
    return float(ordered[np.searchsorted(summed, rank)])


def _interval(ratios: Floats) -> tuple[float | None, float | None]:
    there = ratios[np.isfinite(ratios)]
    if not len(there):
        return None, None
    low, high = np.quantile(there, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
