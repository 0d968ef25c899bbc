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
    trials: list[Trial] = []
    low, high, rate, doubted, whole, told = 0.0, math.inf, start, False, False, True
    repeated = 0.0
    why = tried_out = f"{MAX_TRIALS} rates were tried"
    while sum(each.decided for each in trials) < MAX_TRIALS:
        tried = trial(rate, whole)
        if tried is None:
            why, told = "it was interrupted", bool(low)
            break
        trials.append(tried)
        if not tried.valid and not doubted:
            doubted = True  # the machine may have been busy for a moment: once more
            continue
        if not tried.valid:
            why = f"the client was the bottleneck at {rate:.3g} requests/s: use more --processes"
            told = bool(low)
            break
        doubted = False
        if not tried.decided:
            why, told = tried.why, False
            closing = whole and math.isfinite(high)
            if len(trials) >= MOST_UNDECIDED or (
                closing and (rate == repeated or not tried.requests)
            ):
                break
            if closing:
                repeated = rate  # once more: what a request takes at that rate is known now
                continue
            # One late request is no percentile: the same rate once more, for long enough.
            whole = tried.late and not whole
            rate *= 1 if whole else 2
            continue
        why, told = tried_out, True
        low, high = (rate, high) if tried.held else (low, rate)
        whole = math.isfinite(high)
        if low and high / low <= 1 + resolution:
            why = f"{high:.3g} requests/s did not hold them"
            break
        if not low and rate <= start / 2**MOST_HALVINGS:
            why = f"not even {rate:.3g} requests/s held them"
            break
        rate = _next(low, high)
    return Found(rate=low or None, why=why, trials=tuple(trials), told=told)


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
