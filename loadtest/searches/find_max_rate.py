"""The highest arrival rate that holds the SLOs: double until it breaks, then halve the bracket.

A step decides nothing without enough requests: p99 of 20 requests is a single request. While
nothing is late, such a step only leads on to twice the rate; once the bracket closes, each step
lasts until it has enough requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from searches.rate_trial import Trial

RESOLUTION = 0.05  # the search ends at this width of the bracket, relative to the rate
MAX_TRIALS = 16  # that decide
MOST_UNDECIDED = 24
MOST_HALVINGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`rate`: the highest that held, or None. `why` the search ended there.

    `told`: False if the trials do not show that no rate holds.
    """

    rate: float | None
    why: str
    trials: tuple[Trial, ...]
    told: bool = True


def find_max_rate(
    trial: Callable[[float, bool], Trial | None], start: float, resolution: float = RESOLUTION
) -> Found:
    """`trial(rate, whole)` runs a round; a `whole` one has enough requests to decide.

    If it returns None, an interruption, the search ends.
    """
    search = _Search(start, resolution)
    while not search.ended:
        search.add(trial(search.rate, search.whole))
    return Found(
        rate=search.low or None, why=search.why, trials=tuple(search.trials), told=search.told
    )


class _Search:
    """The bracket so far, and the next rate; over once it `ended`."""

    def __init__(self, start: float, resolution: float) -> None:
        self.rate, self.whole = start, False
        self.low, self.ended, self.why, self.told = 0.0, False, "", True
        self.trials: list[Trial] = []
        self._start, self._resolution = start, resolution
        self._high, self._repeated, self._doubted = math.inf, 0.0, False

    def add(self, tried: Trial | None) -> None:
        """The trial at `rate` is over."""
        if tried is None:
            self._end("it was interrupted", told=bool(self.low))
            return
        self.trials.append(tried)
        if not tried.valid:
            self._invalid()
            return
        self._doubted = False
        if tried.decided:
            self._decided(tried)
        else:
            self._undecided(tried)

    def _end(self, why: str, told: bool = True) -> None:
        self.ended, self.why, self.told = True, why, told

    def _invalid(self) -> None:
        if self._doubted:
            self._end(
                f"the client was the bottleneck at {self.rate:.3g} requests/s: use more "
                "--processes",
                told=bool(self.low),
            )
        self._doubted = True  # the machine may have been busy for a moment: once more

    def _undecided(self, tried: Trial) -> None:
        closing = self.whole and math.isfinite(self._high)
        again = closing and (self.rate == self._repeated or not tried.requests)
        if again or len(self.trials) >= MOST_UNDECIDED:
            self._end(tried.why, told=False)
        elif closing:
            self._repeated = self.rate  # once more: a request's time at that rate is known now
        else:
            # One late request is no percentile: the same rate once more, for long enough.
            self.whole = tried.late and not self.whole
            self.rate *= 1 if self.whole else 2

    def _decided(self, tried: Trial) -> None:
        if tried.held:
            self.low = self.rate
        else:
            self._high = self.rate
        self.whole = math.isfinite(self._high)
        if self.low and self._high / self.low <= 1 + self._resolution:
            self._end(f"{self._high:.3g} requests/s did not hold them")
        elif not self.low and self.rate <= self._start / 2**MOST_HALVINGS:
            self._end(f"not even {self.rate:.3g} requests/s held them")
        elif sum(each.decided for each in self.trials) >= MAX_TRIALS:
            self._end(f"{MAX_TRIALS} rates were tried")
        else:
            self.rate = _next(self.low, self._high)


def curve(trials: Sequence[Trial]) -> str:
    """The table of all trials, by rate."""
    names = [name for name, _ in trials[0].values] if trials else []
    head = ["rate/s", "requests", "completed/s", "tokens/s", "good", *names, ""]
    rows = [head]
    for each in sorted(trials, key=lambda tried: tried.rate):
        times = ["-" if value is None else f"{value * 1e3:,.1f} ms" for _, value in each.values]
        rows.append(
            [
                f"{each.rate:.3g}",
                f"{each.requests:,}",
                f"{each.requests_per_s:,.2f}",
                f"{each.output_tokens_per_s:,.0f}",
                f"{each.goodput_share:.1%}",
                *times,
                each.outcome,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _next(low: float, high: float) -> float:
    if math.isinf(high):
        return low * 2
    return math.sqrt(low * high) if low else high / 2
