"""Whether the client was the bottleneck: its processor, its event loop, its sends.

A load test that cannot keep up shows its own slowness as the server's. Above these limits the run
is INVALID; below them it names the figures that may be inexact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from figures.histogram import Histogram

MAX_CPU = 0.9  # of one core, over the measured window: Python code uses at most one
MAX_LAG_S = 0.02  # p99, of sends and of the event loop
MAX_LAG_SHARE = 0.05  # of the reported tail that the lag is part of, where that allows more
SURE_S, SURE_SHARE = (
    0.002,
    0.03,
)  # reported percentiles are this exact, unless the run says otherwise
REMEDY = (
    "give the load test a machine, or cores, of its own, or more --processes; --max-lag allows more"
)


@dataclass
class WorkerHealth:
    """One worker process, over the measured window."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    cpu_max: float = 0.0  # of one core, the highest share in any sample
    tokens_per_s_max: float = 0.0
    loop_lag: Histogram = field(default_factory=Histogram)  # late wake-ups of the event loop

    @property
    def cpu(self) -> float:
        """Share of one core."""
        return self.cpu_s / self.wall_s if self.wall_s else 0.0

    def sample(self, cpu_s: float, wall_s: float, tokens: int) -> None:
        """Count what the process used and received in `wall_s` seconds."""
        self.cpu_s += cpu_s
        self.wall_s += wall_s
        self.cpu_max = max(self.cpu_max, cpu_s / wall_s)
        self.tokens_per_s_max = max(self.tokens_per_s_max, tokens / wall_s)

    def merge(self, other: WorkerHealth) -> None:
        """Add another stretch of the same worker."""
        self.cpu_s += other.cpu_s
        self.wall_s += other.wall_s
        self.cpu_max = max(self.cpu_max, other.cpu_max)
        self.tokens_per_s_max = max(self.tokens_per_s_max, other.tokens_per_s_max)
        self.loop_lag.merge(other.loop_lag)

    def summary(self) -> dict[str, Any]:
        """For the report: shares of one core, tokens/s, loop lag in seconds."""
        return {
            "cpu": self.cpu,
            "cpu_max": self.cpu_max,
            "tokens_per_s_max": self.tokens_per_s_max,
            "loop_lag": self.loop_lag.summary(),
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "cpu_max": self.cpu_max,
            "tokens_per_s_max": self.tokens_per_s_max,
            "loop_lag": self.loop_lag.to_dict(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> WorkerHealth:
        """The inverse of `to_dict`."""
        return cls(**{**document, "loop_lag": Histogram.from_dict(document["loop_lag"])})


def allowed_lag(tail: Histogram, asked_s: float = 0.0) -> float:
    """Seconds (p99) that the client may be late: a small part of p99 of `tail`.

    A share of the reported value, not of an SLO: with an SLO of seconds, a ttft of 50 ms would pass
    of which 40 are the client's. `asked_s`: `--max-lag`; above 0, it replaces all this.
    """
    reported = tail.percentile(99) if tail.count else 0.0
    return asked_s or max(MAX_LAG_S, MAX_LAG_SHARE * reported)


def reasons_invalid(
    workers: Mapping[str, WorkerHealth],
    send_lag: Histogram,
    ttft: Histogram,
    itl: Histogram,
    asked_s: float = 0.0,
) -> list[str]:
    """One sentence per limit that was passed; none if the client kept up.

    Late sends are part of `ttft`, late wake-ups of every gap in `itl` too.
    """
    sends, wakes = allowed_lag(ttft, asked_s), allowed_lag(itl, asked_s)
    reasons = []
    for name, health in sorted(workers.items()):
        if health.cpu > MAX_CPU:
            reasons.append(
                f"worker {name} used {health.cpu:.0%} of its core, more than {MAX_CPU:.0%}"
            )
        late = health.loop_lag.percentile(99)
        if late > wakes:
            reasons.append(
                f"worker {name}'s event loop woke {late * 1e3:.1f} ms late (p99), "
                f"more than {wakes * 1e3:.0f} ms: every time may be that much too late"
            )
    late = send_lag.percentile(99)
    if late > sends:
        reasons.append(
            f"requests were sent {late * 1e3:.1f} ms late (p99), more than {sends * 1e3:.0f} ms"
        )
    if reasons:
        reasons[-1] += f"; {REMEDY}"
    return reasons


def doubts(workers: Mapping[str, WorkerHealth], tails: Mapping[str, Histogram]) -> list[str]:
    """Sentences on the percentiles that may be less exact than `SURE_S` or `SURE_SHARE`.

    `tails`: ttft and itl. A response that comes while the event loop is busy is read that much
    later.
    """
    late = max((health.loop_lag.percentile(99) for health in workers.values()), default=0.0)
    inexact = [
        name
        for name, tail in tails.items()
        if tail.count and late > max(SURE_S, SURE_SHARE * tail.percentile(99))
    ]
    if not inexact:
        return []
    return [
        f"p99 of {' and '.join(inexact)} may be up to {late * 1e3:.1f} ms too high: "
        "a client's event loop woke that late (p99)"
    ]
