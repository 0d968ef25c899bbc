"""Service level objectives, and the exit code that follows from them.

For example `ttft:p99<2000ms`, or `chat:ttft:p99<300ms` for one workload of a mix. The limit applies
to the run's percentile, and to each request's own time: goodput counts the requests that keep every
limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from figures.histogram import Histogram
from figures.record import RequestRecord

METRICS = ("ttft", "ttft_from_send", "itl", "tpot", "e2e")
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
PATTERN = re.compile(
    r"((?P<workload>[^:<]+):)??(?P<metric>\w+)(:p(?P<percent>[\d.]+))?<(?P<limit>[\d.]+)(?P<unit>[a-zA-Zµ]*)"
)
DEFAULT_PERCENT = 99.0

EXIT_OK = 0
EXIT_BROKEN = 1  # an SLO did not hold, an answer failed or was wrong, or a file is not whole
EXIT_BAD_INPUT = 2  # the run did not begin
EXIT_INVALID = 3  # the client was the bottleneck, or a worker died: the figures are meaningless
EXIT_LEFT = 130  # a shell's, for a program that Ctrl-C ended


@dataclass(frozen=True, slots=True)
class Slo:
    """`metric`'s `percent`-th percentile must stay below `limit_s` seconds."""

    metric: str
    percent: float
    limit_s: float
    text: str
    workload: str = ""  # the only workload that it applies to; "": all

    def concerns(self, workload: str) -> bool:
        """Whether the objective applies to that workload's requests."""
        return self.workload in ("", workload)

    def held_by(self, record: RequestRecord) -> bool:
        """Whether the request kept the limit; for `itl`, its own percentile counts.

        A metric that an answered request lacks, such as `tpot` with one token, breaks nothing.
        """
        if not record.ok:
            return False
        value = getattr(record, self.metric)
        if self.metric == "itl":
            ordered = sorted(value)
            rank = max(math.ceil(round(len(ordered) * self.percent / 100, 6)), 1)
            value = ordered[rank - 1] if ordered else None
        return value is None or bool(value < self.limit_s)

    def held_in(self, histogram: Histogram) -> bool:
        """Whether the run kept the limit; without any value it did not."""
        return histogram.count > 0 and histogram.percentile(self.percent) < self.limit_s


def parse_slo(text: str) -> Slo:
    """`metric:pNN<limit unit`, as in `tpot:p99<100ms`; without `:pNN` it is p99.

    With `workload:` before it, it applies to that workload only.

    Raises ValueError that names the wrong part and what it must be.
    """
    match = PATTERN.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ValueError(f"the SLO {text!r} is not of the form metric:p99<2000ms")
    metric, unit = match["metric"], match["unit"]
    if metric not in METRICS:
        raise ValueError(f"the SLO {text!r} must be on one of {', '.join(METRICS)}, not {metric!r}")
    if not unit:
        raise ValueError(f"the SLO {text!r} must have a unit: one of {', '.join(UNITS)}")
    if unit not in UNITS:
        raise ValueError(f"the SLO {text!r} must be in one of {', '.join(UNITS)}, not {unit!r}")
    percent = _number(match["percent"], text) if match["percent"] else DEFAULT_PERCENT
    limit = _number(match["limit"], text) * UNITS[unit]
    if not 0 < percent <= 100:
        raise ValueError(
            f"the SLO {text!r} must have a percentile above 0 and at most 100, not {percent:g}"
        )
    if limit <= 0:
        raise ValueError(f"the SLO {text!r} must have a limit above 0, not {match['limit']}")
    return Slo(metric, percent, limit, text.replace(" ", ""), match["workload"] or "")


def parse_slos(text: str, workloads: Collection[str] | None = None) -> tuple[Slo, ...]:
    """SLOs separated by commas; they may name the `workloads`."""
    slos = tuple(parse_slo(each) for each in text.split(",") if each.strip())
    for slo in slos:
        if slo.workload and workloads is not None and slo.workload not in workloads:
            raise ValueError(
                f"the SLO {slo.text!r} must be of one of the workloads {', '.join(workloads)}, "
                f"not {slo.workload!r}"
            )
    return slos


def good(record: RequestRecord, slos: Sequence[Slo]) -> bool:
    """Whether the request counts for goodput: answered, not wrong, every SLO on it held."""
    return record.ok and all(slo.held_by(record) for slo in slos if slo.concerns(record.workload))


def exit_code(summary: Mapping[str, Any], whole: bool = True) -> int:
    """The exit code for `RunResults.summary()`; in an invalid run no objective holds.

    `whole`: whether all files of the run could be written.
    """
    if not summary["validity"]["valid"]:
        return EXIT_INVALID
    wrong = any(
        journey["counts"]["failed"] + journey["counts"]["incorrect"]
        for journey in summary["journeys"].values()
    )
    held = all(slo["held"] for slo in summary["slos"])
    return EXIT_OK if held and whole and not wrong else EXIT_BROKEN


def _number(text: str, slo: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the SLO {slo!r} holds {text!r}, which is not a number") from None
