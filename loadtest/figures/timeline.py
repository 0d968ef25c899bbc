"""The run second by second, bounded: with too many seconds, they are put together in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from figures.histogram import Histogram, percentile_name
from figures.record import RequestRecord

TIMELINE_METRICS = ("ttft", "itl", "tpot", "e2e", "send_lag")
TIMELINE_PERCENTILES = (50.0, 90.0, 99.0)
MAX_BUCKETS = 1200


@dataclass
class Bucket:
    """One stretch of time. A request's metrics count where it was scheduled, so that a stall shows
    when it was; counts: scheduled, good; completed, failed (where it ended); output_tokens (where
    each arrived)."""

    histograms: dict[str, Histogram] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Bucket) -> None:
        """Add the other's."""
        self.counts.update(other.counts)
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram()).merge(histogram)


@dataclass
class Timeline:
    """Buckets of `width_s` seconds (1, 2, 4, ...) by number, from the run's start."""

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
        """Add the other's; the finer of the two is made as coarse as the other."""
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
        """JSON-able."""
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
        """The way back from `to_dict`."""
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
