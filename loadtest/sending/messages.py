"""The messages between a Locust process and its sender."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from command_line.options import RunOptions
from figures.results import RunResults
from figures.slo import parse_slos

# Kinds of answers: progress (HEARD), or how the command ended.
HEARD, RETURNED, REFUSED, FAILED = "heard", "returned", "refused", "failed"


@dataclass
class Unloaded:
    """`references`: digests of the greedy turns' texts by turn key; `note`: which are missing."""

    references: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Prepared:
    """What every round needs, made before the load."""

    workload: str  # or several, with their weights
    requests_sha256: str = ""
    recorded: int = 0  # requests of the recording
    unloaded: Unloaded = field(default_factory=Unloaded)
    served: dict[str, str] = field(default_factory=dict)  # what prepare.served returns
    machine: str = ""  # this load test's own

    def header(
        self, options: RunOptions, rate: float, started_unix: float, workers: int
    ) -> dict[str, Any]:
        """The header of a round's results."""
        return {
            **options.to_dict(),
            "workload": self.workload,  # of a replay, not the option's
            "workloads": options.shares(),
            "rate": rate,
            "started_unix": started_unix,
            "workers": workers,
            "machine": self.machine,
            "served": self.served,
            "warmup_s": options.warmup_s,
            "duration_s": options.load_s - options.warmup_s,
            "slos": [slo.text for slo in parse_slos(options.slos)],
            "texts_compared": len(self.unloaded.references),
            "requests_sha256": self.requests_sha256,
            "changes": [],  # of the load while it ran
            # An open loop has no users, whatever Locust counts.
            "users": options.users if options.closed_loop else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """A worker's part of a round, from the master."""

    number: int
    options: RunOptions
    header: dict[str, Any]
    started_unix: float
    index: int  # this worker's
    count: int  # of workers
    name: str  # this worker's
    rate: float
    references: dict[str, str] = field(default_factory=dict)  # turn key -> digest


@dataclass(frozen=True, slots=True)
class Report:
    """What happened since the last report."""

    results: RunResults
    lines: list[str]  # the records, as JSON
    events: list[dict[str, Any]]  # arguments of Locust's request events; exceptions as texts
    gauges: dict[str, Any]  # current values, see `LoadRound.gauges`
