"""When requests arrive: one seeded schedule for the whole run, whatever the number of workers.

A process draws arrivals at one per unit of time, and a rate curve turns units into seconds. So a
change of the rate moves only later arrivals.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PROCESSES = ("poisson", "constant", "gamma", "trace")


def unit_arrivals(process: str, seed: int, burstiness: float = 1.0) -> Iterator[float]:
    """Endless arrival times, one per unit on average.

    `burstiness` is the gamma process's shape: below 1 arrivals come in bursts, 1 is Poisson, above
    1 they become regular.
    """
    generator = random.Random(f"arrivals/{seed}")
    gaps: dict[str, Callable[[], float]] = {
        "poisson": lambda: generator.expovariate(1.0),
        "constant": lambda: 1.0,
        "gamma": lambda: generator.gammavariate(burstiness, 1.0 / burstiness),
    }
    if process not in gaps:
        raise ValueError(f"arrivals must be one of {', '.join(gaps)}, not {process!r}")
    gap = gaps[process]
    at = 0.0
    while True:
        at += gap()
        yield at


@dataclass
class RateCurve:
    """Requests per second over time: `steps` of (seconds since the run's start, rate)."""

    rate: float
    steps: list[tuple[float, float]] = field(default_factory=list)

    def change(self, at: float, rate: float) -> None:
        """Set the rate from the second `at` on. Changes must be in order of time."""
        if rate <= 0:
            raise ValueError(f"the rate must be above 0 requests/s, not {rate:g}")
        if self.steps and at < self.steps[-1][0]:
            raise ValueError(f"a change of the rate at {at:g} s comes after a later one")
        self.steps.append((at, rate))

    def seconds(self, unit: float) -> float:
        """The second at which the arrival at `unit` is due: where the rate's integral is `unit`."""
        start, rate, left = 0.0, self.rate, unit
        for at, following in self.steps:
            passed = (at - start) * rate
            if passed >= left:
                break
            left -= passed
            start, rate = at, following
        return start + left / rate

    def at(self, seconds: float) -> float:
        """The rate at that time."""
        rate = self.rate
        for start, following in self.steps:
            if seconds >= start:
                rate = following
        return rate


@dataclass
class Schedule:
    """A worker's part of the arrivals: every `count`-th from the `index`-th on."""

    units: Iterator[float]
    index: int = 0
    count: int = 1

    def arrivals(self) -> Iterator[tuple[int, float]]:
        """(number in the whole schedule, units of time until it is due)."""
        for number, unit in enumerate(self.units):
            if number % self.count == self.index:
                yield number, unit


def count_before(units: Iterator[float], curve: RateCurve, end_s: float) -> int:
    """How many arrivals are due before `end_s`."""
    return sum(1 for _ in itertools.takewhile(lambda unit: curve.seconds(unit) < end_s, units))
