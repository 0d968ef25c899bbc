"""The results of a run: added up request by request, over seconds, journeys and workers.

Merging is exact and has no order, so that results of workers, or of parts of one worker's run,
make the same as all requests in one place. Only normal traffic makes the run's metrics and
timeline; fault journeys are reported apart.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from histogram import Histogram
from records import DRAINED, NORMAL, WARMUP, RequestRecord
from self_check import WorkerHealth, doubts, reasons_invalid
from slo import Slo, good, parse_slo
from timeline import Timeline

METRICS = ("ttft", "ttft_from_send", "itl", "tpot", "e2e", "send_lag")
MAX_INCIDENTS = 100
INCORRECT = "Incorrect"  # among the failures: a whole answer, but not the right one


@dataclass
class JourneyResults:
    """Of one journey's requests: histograms of the measured ones, counts of all.

    Counts: scheduled (measured and drained), completed, failed, cancelled, incorrect, good,
    drained, warmup, input_tokens, output_tokens; in_window: completed between the end of the
    warm-up and of the load, whenever they were scheduled; tokens_in_window likewise.
    """

    histograms: dict[str, Histogram] = field(
        default_factory=lambda: {name: Histogram() for name in METRICS}
    )
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, record: RequestRecord, slos: Sequence[Slo]) -> None:
        """Count a request that is over."""
        if record.phase == WARMUP:
            self.counts["warmup"] += 1
            return
        self.counts["scheduled"] += 1
        self.counts["drained"] += record.phase == DRAINED
        self.counts[_outcome(record)] += 1
        self.counts["incorrect"] += record.correct is False
        self.counts["good"] += good(record, slos)
        self.counts["input_tokens"] += record.num_input_tokens
        self.counts["output_tokens"] += record.num_output_tokens
        for name in METRICS:
            value = getattr(record, name)
            if name == "itl":
                for gap in value:
                    self.histograms[name].add(gap)
            elif value is not None:
                self.histograms[name].add(value)

    def merge(self, other: JourneyResults) -> None:
        """Add the other's."""
        self.counts.update(other.counts)
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)


@dataclass
class RunResults:
    """A run so far. `header` is the run's: JSON-able, the same on every worker.

    The header's fields that are read here: `warmup_s` and `duration_s` (the measured window begins
    where the warm-up ends, and lasts `duration_s`), `slos` (texts). Others: started_unix, workload,
    arrivals, rate, seed, concurrency, processes, model, url, fault journeys' shares.
    """

    header: dict[str, Any] = field(default_factory=dict)
    journeys: dict[str, JourneyResults] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    failures: Counter[str] = field(default_factory=Counter)  # "journey/error class"
    examples: dict[str, str] = field(default_factory=dict)  # the first message of each
    workers: dict[str, WorkerHealth] = field(default_factory=dict)
    incidents: list[str] = field(default_factory=list)  # sentences: a worker died, ...
    voided: list[str] = field(default_factory=list)  # those of them that make the run invalid

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
        """Count a request that is over, as a worker does."""
        journey = self.journeys.setdefault(record.journey, JourneyResults())
        journey.add(record, self._slos)
        start, end = self.window
        ended = record.ended_at
        if ended is not None and start <= ended < end and not record.error_class:
            journey.counts["in_window"] += not record.cancelled
        journey.counts["tokens_in_window"] += record.tokens_between(start, end)
        failure = record.error_class or (INCORRECT if record.correct is False else "")
        if failure and record.phase != WARMUP:
            kind = f"{record.journey}/{failure}"
            self.failures[kind] += 1
            self.examples.setdefault(kind, record.error)
        if record.journey == NORMAL:
            self.timeline.add(record, good(record, self._slos))

    def note(self, sentence: str, voids: bool = False) -> None:
        """Keep what happened to the run itself; the summary tells it."""
        if sentence not in self.incidents and len(self.incidents) < MAX_INCIDENTS:
            self.incidents.append(sentence)
            if voids:
                self.voided.append(sentence)

    def merge(self, other: RunResults) -> None:
        """Add the results of another worker, or of another part of the run."""
        if not self.header:
            self.header, self._slos = dict(other.header), other._slos
        for name, journey in other.journeys.items():
            self.journeys.setdefault(name, JourneyResults()).merge(journey)
        self.timeline.merge(other.timeline)
        self.failures.update(other.failures)
        for kind, example in sorted(other.examples.items()):
            self.examples.setdefault(kind, example)
        for name, health in other.workers.items():
            self.workers.setdefault(name, WorkerHealth()).merge(health)
        for sentence in other.incidents:
            self.note(sentence, sentence in other.voided)

    def encode(self) -> bytes:
        """For the way from a worker to the master."""
        document = {
            "header": self.header,
            "journeys": {
                name: {
                    "counts": journey.counts,
                    "histograms": {
                        each: histogram.to_dict()
                        for each, histogram in journey.histograms.items()
                        if histogram.count
                    },
                }
                for name, journey in self.journeys.items()
            },
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
        """The way back from `encode`."""
        document = json.loads(zlib.decompress(data))
        results = cls(header=document["header"])
        for name, each in document["journeys"].items():
            journey = results.journeys.setdefault(name, JourneyResults())
            journey.counts.update(each["counts"])
            for metric, histogram in each["histograms"].items():
                journey.histograms[metric] = Histogram.from_dict(histogram)
        results.timeline = Timeline.from_dict(document["timeline"])
        results.failures.update(document["failures"])
        results.examples = document["examples"]
        results.workers = {
            name: WorkerHealth.from_dict(each) for name, each in document["workers"].items()
        }
        results.incidents = document["incidents"]
        results.voided = document["voided"]
        return results

    def journey(self, name: str = NORMAL) -> JourneyResults:
        """The journey's results, empty ones if it had no request."""
        return self.journeys.get(name, JourneyResults())

    def summary(self, so_far_s: float | None = None) -> dict[str, Any]:
        """Everything, JSON-able; times in seconds, None where there is no value.

        `so_far_s`: how much of the measured window is over, where not all: rates are of that.

        header; counts, metrics and rates of normal traffic; journeys: the same of each journey;
        slos; failures; timeline; workers; validity; incidents.
        """
        normal = self.journey()
        return {
            "header": self.header,
            **self._of_journey(normal, so_far_s),
            "journeys": {
                name: self._of_journey(journey, so_far_s)
                for name, journey in sorted(self.journeys.items())
            },
            "slos": [self._of_slo(slo, normal) for slo in self._slos],
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
        """valid; reasons: why the client may have made the figures; doubts: how exact they are."""
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
        """The lag of every journey's sends."""
        lag = Histogram()
        for journey in self.journeys.values():
            lag.merge(journey.histograms["send_lag"])
        return lag

    def _of_journey(self, journey: JourneyResults, so_far_s: float | None) -> dict[str, Any]:
        seconds = float(self.header.get("duration_s", 0.0))
        seconds = seconds if so_far_s is None else min(so_far_s, seconds)
        counts = journey.counts

        def rate(count: int) -> float | None:
            return count / seconds if seconds > 0 else None

        return {
            "counts": {name: counts[name] for name in COUNTS},
            "metrics": {name: each.summary() for name, each in journey.histograms.items()},
            "rates": {
                "offered_per_s": rate(counts["scheduled"]),
                "requests_per_s": rate(counts["in_window"]),
                "output_tokens_per_s": rate(counts["tokens_in_window"]),
                "goodput_per_s": rate(counts["good"]),
                "goodput_share": counts["good"] / counts["scheduled"]
                if counts["scheduled"]
                else None,
            },
        }

    def _of_slo(self, slo: Slo, journey: JourneyResults) -> dict[str, Any]:
        histogram = journey.histograms[slo.metric]
        value = histogram.percentile(slo.percent) if histogram.count else None
        return {
            "slo": slo.text,
            "metric": slo.metric,
            "percent": slo.percent,
            "limit_s": slo.limit_s,
            "value_s": value,
            "held": slo.held_in(histogram),
        }


COUNTS = (
    "scheduled",
    "completed",
    "failed",
    "cancelled",
    "incorrect",
    "good",
    "drained",
    "warmup",
    "in_window",
    "input_tokens",
    "output_tokens",
    "tokens_in_window",
)


def _outcome(record: RequestRecord) -> str:
    if record.error_class:
        return "failed"
    return "cancelled" if record.cancelled else "completed"
