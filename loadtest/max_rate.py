"""The highest arrival rate that holds the SLOs: double until it breaks, then halve the bracket."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESOLUTION = 0.05  # the bracket's width at which the search ends, of the rate
MAX_TRIALS = 16
MOST_HALVINGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A round at one rate."""

    rate: float  # offered requests/s
    held: bool
    valid: bool = True  # False: the client was the bottleneck
    stopped_early: bool = False
    requests_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    goodput_share: float = 0.0
    values: tuple[tuple[str, float | None], ...] = ()  # SLO and its percentile in seconds

    @classmethod
    def of(cls, rate: float, summary: Mapping[str, Any], stopped_early: bool) -> Trial:
        """Of a round's `RunResults.summary()`; a failed or wrong answer holds nothing."""
        counts, rates, slos = summary["counts"], summary["rates"], summary["slos"]
        wrong = counts["failed"] + counts["incorrect"]
        return cls(
            rate=rate,
            held=not (stopped_early or wrong) and all(slo["held"] for slo in slos),
            valid=summary["validity"]["valid"],
            stopped_early=stopped_early,
            requests_per_s=rates["requests_per_s"] or 0.0,
            output_tokens_per_s=rates["output_tokens_per_s"] or 0.0,
            goodput_share=rates["goodput_share"] or 0.0,
            values=tuple((slo["slo"], slo["value_s"]) for slo in slos),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`rate` is the highest that held, None if none did; `why` the search ended there."""

    rate: float | None
    why: str
    trials: tuple[Trial, ...]


def find_max_rate(
    trial: Callable[[float], Trial | None], start: float, resolution: float = RESOLUTION
) -> Found:
    """`trial(rate)` runs a round; None from it, an interruption, ends the search."""
    trials: list[Trial] = []
    low, high, rate, doubted = 0.0, math.inf, start, False
    why = f"{MAX_TRIALS} rates were tried"
    while len(trials) < MAX_TRIALS:
        tried = trial(rate)
        if tried is None:
            why = "it was interrupted"
            break
        trials.append(tried)
        if not tried.valid and not doubted:
            doubted = True  # the machine may have been busy for a moment: once more
            continue
        if not tried.valid:
            why = f"the client was the bottleneck at {rate:.3g} requests/s: use more --processes"
            break
        doubted = False
        low, high = (rate, high) if tried.held else (low, rate)
        if low and high / low <= 1 + resolution:
            why = f"{high:.3g} requests/s did not hold them"
            break
        if not low and rate <= start / 2**MOST_HALVINGS:
            why = f"not even {rate:.3g} requests/s held them"
            break
        rate = _next(low, high)
    return Found(rate=low or None, why=why, trials=tuple(trials))


def curve(trials: Sequence[Trial]) -> str:
    """The table of all trials, by rate."""
    names = [name for name, _ in trials[0].values] if trials else []
    head = ["rate/s", "requests/s", "tokens/s", "good", *names, ""]
    rows = [head]
    for each in sorted(trials, key=lambda tried: tried.rate):
        times = ["-" if value is None else f"{value * 1e3:,.1f} ms" for _, value in each.values]
        outcome = "held" if each.held else "broken"
        if not each.valid:
            outcome = "INVALID"
        elif each.stopped_early:
            outcome += ", stopped early"
        rows.append(
            [
                f"{each.rate:.3g}",
                f"{each.requests_per_s:,.2f}",
                f"{each.output_tokens_per_s:,.0f}",
                f"{each.goodput_share:.1%}",
                *times,
                outcome,
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
