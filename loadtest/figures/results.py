"""The results of a run, added up by seconds, journeys, workloads and workers.

Merging is exact and needs no order: the merged results of workers equal those of all requests in
one place. The run's metrics and timeline are those of normal traffic; fault journeys are reported
apart. In a mix, normal traffic is also reported by workload.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from figures.histogram import Histogram
from figures.record import NORMAL, WARMUP, RequestRecord
from figures.slo import Slo, good, parse_slo
from figures.traffic import Timeline, TrafficResults
from figures.validity import WorkerHealth, doubts, reasons_invalid

MAX_INCIDENTS = 100
INCORRECT = "Incorrect"  # among the failures: a whole answer, but not the right one


@dataclass
class RunResults:
    """A run so far. `header` is for JSON and the same on every worker.

    The header's fields that are read here: `warmup_s` and `duration_s` (the measured window begins
    where the warm-up ends, and lasts `duration_s`), `slos` (texts), `workloads` (shares by
    name). Others: started_unix, workload, arrivals, rate, seed, users, workers, model, url,
    fault journeys' shares.
    """

    header: dict[str, Any] = field(default_factory=dict)
    journeys: dict[str, TrafficResults] = field(default_factory=dict)
    workloads: dict[str, TrafficResults] = field(default_factory=dict)  # of a mix, normal traffic
    timeline: Timeline = field(default_factory=Timeline)
    failures: Counter[str] = field(default_factory=Counter)  # "journey/error class"
    examples: dict[str, str] = field(default_factory=dict)  # the first message of each
    workers: dict[str, WorkerHealth] = field(default_factory=dict)
    incidents: list[str] = field(default_factory=list)  # sentences: a worker died, ...
    voided: list[str] = field(default_factory=list)  # the notes that make the run invalid

    def __post_init__(self) -> None:
        self._slos = tuple(parse_slo(text) for text in self.header.get("slos", ()))

    @property
    def window(self) -> tuple[float, float]:
        """Seconds since the run's start at which the measured window begins and ends."""
        start = float(self.header.get("warmup_s", 0.0))
        return start, start + float(self.header.get("duration_s", 0.0))

    @property
    def slos(self) -> tuple[Slo, ...]:
        """The objectives that goodput and the exit code are about."""
        return self._slos

    def add(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        parts = [self.journeys.setdefault(record.journey, TrafficResults())]
        if record.journey == NORMAL and len(self.header.get("workloads", ())) > 1:
            parts.append(self.workloads.setdefault(record.workload, TrafficResults()))
        for part in parts:
            part.add(record, self._slos, self.window)
        failure = record.error_class or (INCORRECT if record.correct is False else "")
        if failure and record.phase != WARMUP:
            kind = f"{record.journey}/{failure}"
            self.failures[kind] += 1
            self.examples.setdefault(kind, record.error)
        if record.journey == NORMAL:
            self.timeline.add(record, good(record, self._slos))

    def note(self, sentence: str, voids: bool = False) -> None:
        """Keep an incident of the run for the summary; `voids`: it makes the run invalid."""
        if sentence not in self.incidents and len(self.incidents) < MAX_INCIDENTS:
            self.incidents.append(sentence)
            if voids:
                self.voided.append(sentence)

    def merge(self, other: RunResults) -> None:
        """Add the results of another worker, or of another part of the run."""
        if not self.header:
            self.header, self._slos = dict(other.header), other._slos
        for name, journey in other.journeys.items():
            self.journeys.setdefault(name, TrafficResults()).merge(journey)
        for name, workload in other.workloads.items():
            self.workloads.setdefault(name, TrafficResults()).merge(workload)
        self.timeline.merge(other.timeline)
        self.failures.update(other.failures)
        for kind, example in sorted(other.examples.items()):
            self.examples.setdefault(kind, example)
        for name, health in other.workers.items():
            self.workers.setdefault(name, WorkerHealth()).merge(health)
        for sentence in other.incidents:
            self.note(sentence, sentence in other.voided)

    def encode(self) -> bytes:
        """Bytes to send from a worker to the master."""
        document = {
            "header": self.header,
            "journeys": {name: each.to_dict() for name, each in self.journeys.items()},
            "workloads": {name: each.to_dict() for name, each in self.workloads.items()},
            "timeline": self.timeline.to_dict(),
            "failures": self.failures,
            "examples": self.examples,
            "workers": {name: health.to_dict() for name, health in self.workers.items()},
            "incidents": self.incidents,
            "voided": self.voided,
        }
        return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), level=1)

    @classmethod
    def decode(cls, data: bytes) -> RunResults:
        """The inverse of `encode`."""
        document = json.loads(zlib.decompress(data))
        results = cls(header=document["header"])
        for parts, name in ((results.journeys, "journeys"), (results.workloads, "workloads")):
            parts |= {key: TrafficResults.from_dict(each) for key, each in document[name].items()}
        results.timeline = Timeline.from_dict(document["timeline"])
        results.failures.update(document["failures"])
        results.examples = document["examples"]
        results.workers = {
            name: WorkerHealth.from_dict(each) for name, each in document["workers"].items()
        }
        results.incidents = document["incidents"]
        results.voided = document["voided"]
        return results

    def journey(self, name: str = NORMAL) -> TrafficResults:
        """The journey's results; empty if it had no request."""
        return self.journeys.get(name, TrafficResults())

    def normal(self, workload: str = "") -> TrafficResults:
        """Results of a workload's normal traffic; of all with "" or a single workload."""
        if not workload or len(self.header.get("workloads", ())) < 2:
            return self.journey()
        return self.workloads.get(workload, TrafficResults())

    def summary(self, so_far_s: float | None = None) -> dict[str, Any]:
        """Everything, for JSON; times in seconds, None without a value.

        `so_far_s`: how much of the measured window has passed, if not all; rates are over that.

        header; counts, metrics and rates of normal traffic; journeys: the same of each journey;
        workloads: of each workload of a mix; slos; failures; timeline; workers; validity;
        incidents.
        """
        seconds = float(self.header.get("duration_s", 0.0))
        seconds = seconds if so_far_s is None else min(so_far_s, seconds)
        names = list(self.header.get("workloads", ()))
        return {
            "header": self.header,
            **self.journey().summary(seconds),
            "journeys": {
                name: journey.summary(seconds) for name, journey in sorted(self.journeys.items())
            },
            "workloads": {
                name: self.normal(name).summary(seconds) for name in names if len(names) > 1
            },
            "slos": [self._of_slo(slo, self.normal(slo.workload)) for slo in self._slos],
            "failures": {
                kind: {"count": count, "example": self.examples.get(kind, "")}
                for kind, count in self.failures.most_common()
            },
            "timeline": self.timeline.summary(),
            "workers": {name: each.summary() for name, each in sorted(self.workers.items())},
            "validity": self.validity(),
            "incidents": self.incidents,
        }

    def validity(self) -> dict[str, Any]:
        """valid; reasons: why the figures may be the client's own; doubts: how exact they are."""
        tails = self.journey().histograms
        asked_s = float(self.header.get("max_lag_s") or 0.0)
        reasons = [
            *self.voided,
            *reasons_invalid(
                self.workers, self.all_send_lag(), tails["ttft"], tails["itl"], asked_s
            ),
        ]
        told = {name: tails[name] for name in ("ttft", "itl")}
        return {
            "valid": not reasons,
            "reasons": reasons,
            "doubts": [] if reasons else doubts(self.workers, told),
        }

    def all_send_lag(self) -> Histogram:
        """How late the requests of all journeys were sent."""
        lag = Histogram()
        for journey in self.journeys.values():
            lag.merge(journey.histograms["send_lag"])
        return lag

    def _of_slo(self, slo: Slo, traffic: TrafficResults) -> dict[str, Any]:
        histogram = traffic.histograms[slo.metric]
        value = histogram.percentile(slo.percent) if histogram.count else None
        return {
            "slo": slo.text,
            "workload": slo.workload,
            "metric": slo.metric,
            "percent": slo.percent,
            "limit_s": slo.limit_s,
            "value_s": value,
            "held": slo.held_in(histogram),
        }
