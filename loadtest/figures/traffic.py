"""The results of some of a run's requests, and the run second by second.

Results can be merged in any order, exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from figures.histogram import Histogram, percentile_name
from figures.record import DRAINED, WARMUP, RequestRecord
from figures.slo import Slo, good

METRICS = ("ttft", "ttft_from_send", "itl", "tpot", "e2e", "send_lag")
OF_A_WORKLOAD = ("ttft", "itl", "tpot", "e2e")  # shown for each workload
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
TIMELINE_METRICS = ("ttft", "itl", "tpot", "e2e", "send_lag")
TIMELINE_PERCENTILES = (50.0, 90.0, 99.0)
MAX_BUCKETS = 1200


@dataclass
class TrafficResults:
    """Histograms of the measured requests, counts of all requests.

    Counts: scheduled (measured and drained), completed, failed, cancelled, incorrect, good,
    drained, warmup, input_tokens, output_tokens. in_window and tokens_in_window count completed
    requests and tokens between the warm-up's end and the load's, whenever they were scheduled.
    """

    histograms: dict[str, Histogram] = field(
        default_factory=lambda: {name: Histogram() for name in METRICS}
    )
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, record: RequestRecord, slos: Sequence[Slo], window: tuple[float, float]) -> None:
        """Count a finished request; `window` is the start and end of the measured time."""
        start, end = window
        ended = record.ended_at
        if ended is not None and start <= ended < end and not record.error_class:
            self.counts["in_window"] += not record.cancelled
        self.counts["tokens_in_window"] += record.tokens_between(start, end)
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
            for each in value if name == "itl" else (value,):
                if each is not None:
                    self.histograms[name].add(each)

    @property
    def requests(self) -> int:
        """All requests, with those of the warm-up."""
        return self.counts["scheduled"] + self.counts["warmup"]

    def merge(self, other: TrafficResults) -> None:
        """Add the other's figures."""
        self.counts.update(other.counts)
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)

    def summary(self, seconds: float) -> dict[str, Any]:
        """counts, metrics and rates for JSON; rates are over `seconds` of the measured window."""
        counts = self.counts

        def rate(count: int) -> float | None:
            return count / seconds if seconds > 0 else None

        return {
            "counts": {name: counts[name] for name in COUNTS},
            "metrics": {name: each.summary() for name, each in self.histograms.items()},
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "counts": self.counts,
            "histograms": {
                name: histogram.to_dict()
                for name, histogram in self.histograms.items()
                if histogram.count
            },
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TrafficResults:
        """The inverse of `to_dict`."""
        results = cls(counts=Counter(document["counts"]))
        for name, histogram in document["histograms"].items():
            results.histograms[name] = Histogram.from_dict(histogram)
        return results


def _outcome(record: RequestRecord) -> str:
    if record.error_class:
        return "failed"
    return "cancelled" if record.cancelled else "completed"


@dataclass
class Bucket:
    """The figures of some seconds. Metrics count at a request's scheduled time, to show stalls.

    Counts: scheduled and good, at the scheduled time; completed and failed, at the end;
    output_tokens, at the arrival of each.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Bucket) -> None:
        """Add the other's figures."""
        self.counts.update(other.counts)
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram()).merge(histogram)


@dataclass
class Timeline:
    """Buckets of `width_s` seconds by number, from the run's start.

    With more than `MAX_BUCKETS`, pairs of buckets become one: 1, 2, 4, ... seconds wide.
    """

    width_s: int = 1
    buckets: dict[int, Bucket] = field(default_factory=dict)

    def add(self, record: RequestRecord, good: bool) -> None:
        """Count a request, of any phase."""
        bucket = self._bucket(record.scheduled_at)
        bucket.counts["scheduled"] += 1
        bucket.counts["good"] += good
        for name in TIMELINE_METRICS:
            value = getattr(record, name)
            for each in value if name == "itl" else (value,):
                if each is not None:
                    bucket.histograms.setdefault(name, Histogram()).add(each)
        for at, tokens in record.token_times():
            self._bucket(at).counts["output_tokens"] += tokens
        if record.ended_at is not None:
            outcome = "failed" if record.error_class else "completed"
            self._bucket(record.ended_at).counts[outcome] += 1

    def merge(self, other: Timeline) -> None:
        """Add the other's figures; the timeline with shorter buckets is coarsened first."""
        while self.width_s < other.width_s:
            self._halve()
        factor = self.width_s // other.width_s
        for number, bucket in other.buckets.items():
            at = number // factor if factor else number
            self.buckets.setdefault(at, Bucket()).merge(bucket)
        self._bound()

    def summary(self) -> dict[str, Any]:
        """width_s, and for every bucket its start, counts, percentiles and max in seconds."""
        return {
            "width_s": self.width_s,
            "buckets": [
                {
                    "start_s": number * self.width_s,
                    "counts": dict(bucket.counts),
                    "metrics": {
                        name: {
                            **{
                                percentile_name(percent): histogram.percentile(percent)
                                for percent in TIMELINE_PERCENTILES
                            },
                            "max": histogram.largest,
                        }
                        for name, histogram in bucket.histograms.items()
                    },
                }
                for number, bucket in sorted(self.buckets.items())
            ],
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "width_s": self.width_s,
            "buckets": {
                number: {
                    "counts": bucket.counts,
                    "histograms": {
                        name: histogram.to_dict() for name, histogram in bucket.histograms.items()
                    },
                }
                for number, bucket in self.buckets.items()
            },
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Timeline:
        """The inverse of `to_dict`."""
        timeline = cls(document["width_s"])
        for number, each in document["buckets"].items():
            timeline.buckets[int(number)] = Bucket(
                {name: Histogram.from_dict(each) for name, each in each["histograms"].items()},
                Counter(each["counts"]),
            )
        return timeline

    def _bucket(self, at: float) -> Bucket:
        number = int(max(at, 0.0) // self.width_s)
        if number not in self.buckets:
            self.buckets[number] = Bucket()
            self._bound()
            number = int(max(at, 0.0) // self.width_s)
        return self.buckets[number]

    def _bound(self) -> None:
        while len(self.buckets) > MAX_BUCKETS:
            self._halve()

    def _halve(self) -> None:
        self.width_s *= 2
        finer, self.buckets = self.buckets, {}
        for number, bucket in finer.items():
            self.buckets.setdefault(number // 2, Bucket()).merge(bucket)
