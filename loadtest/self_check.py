"""Whether the client was the bottleneck: its processor, its event loop, its sends.

A load test that cannot keep up shows its own slowness as the server's. Above these limits the run
is INVALID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from histogram import Histogram

MAX_CPU = 0.9  # of one core, over the measured window: a Python process has no more than one
MAX_SEND_LAG_S = 0.02  # p99
MAX_LOOP_LAG_S = 0.02  # p99


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
        """JSON-able."""
        return {
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "cpu_max": self.cpu_max,
            "tokens_per_s_max": self.tokens_per_s_max,
            "loop_lag": self.loop_lag.to_dict(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> WorkerHealth:
        """The way back from `to_dict`."""
        return cls(**{**document, "loop_lag": Histogram.from_dict(document["loop_lag"])})


def reasons_invalid(workers: Mapping[str, WorkerHealth], send_lag: Histogram) -> list[str]:
    """Sentences, one per limit that was passed; none if the client kept up."""
    reasons = []
    for name, health in sorted(workers.items()):
        if health.cpu > MAX_CPU:
            reasons.append(
                f"worker {name} used {health.cpu:.0%} of its core, allowed is {MAX_CPU:.0%}: "
                "use more --processes"
            )
        lag = health.loop_lag
        if lag.count and lag.percentile(99) > MAX_LOOP_LAG_S:
            reasons.append(
                f"worker {name}'s event loop woke {lag.percentile(99) * 1e3:.1f} ms late (p99), "
                f"allowed are {MAX_LOOP_LAG_S * 1e3:.0f} ms"
            )
    if send_lag.count and send_lag.percentile(99) > MAX_SEND_LAG_S:
        reasons.append(
            f"requests were sent {send_lag.percentile(99) * 1e3:.1f} ms late (p99), "
            f"allowed are {MAX_SEND_LAG_S * 1e3:.0f} ms"
        )
    return reasons
