"""A histogram of times: sums and merges are exact, percentiles within 0.05 percent.

The buckets are HdrHistogram's: eleven significant bits of whole nanoseconds. They are in a dict,
because a run has a histogram for each metric and second, and the library's array takes 180 KB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

SIGNIFICANT_BITS = 11
HALF = 1 << (SIGNIFICANT_BITS - 1)
RELATIVE_ERROR = 0.5 / HALF  # how far a value may be from its bucket's middle
NANOSECONDS = 1_000_000_000
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


class Histogram:
    """Counts of values in seconds. Sums are whole nanoseconds, so that merging is exact."""

    __slots__ = ("count", "counts", "largest_ns", "smallest_ns", "sum_ns")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.count = 0
        self.sum_ns = 0
        self.largest_ns = 0
        self.smallest_ns = 0

    def add(self, seconds: float) -> None:
        """Count one value; a negative one counts as zero."""
        value = max(int(seconds * NANOSECONDS), 0)
        bucket = _bucket(value)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.smallest_ns = min(value, self.smallest_ns) if self.count else value
        self.largest_ns = max(value, self.largest_ns)
        self.count += 1
        self.sum_ns += value

    def merge(self, other: Histogram) -> None:
        """Add the other histogram's values."""
        if not other.count:
            return
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.smallest_ns = (
            min(other.smallest_ns, self.smallest_ns) if self.count else other.smallest_ns
        )
        self.largest_ns = max(other.largest_ns, self.largest_ns)
        self.count += other.count
        self.sum_ns += other.sum_ns

    @property
    def mean(self) -> float:
        """Seconds, exact; nan without values."""
        return self.sum_ns / self.count / NANOSECONDS if self.count else math.nan

    @property
    def largest(self) -> float:
        """Seconds, exact; nan without values."""
        return self.largest_ns / NANOSECONDS if self.count else math.nan

    def percentile(self, percent: float) -> float:
        """The nearest-rank percentile in seconds: the ceil(n * percent / 100)-th of n values.

        0 and 100 are exact, others within `RELATIVE_ERROR`. nan without values.
        """
        if not self.count:
            return math.nan
        # Rounded first: 99.9 * 1000 / 100 is 999.0000000000001, and the rank is 999, not 1000.
        rank = max(math.ceil(round(self.count * percent / 100, 6)), 1)
        if rank >= self.count:
            return self.largest
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                middle = min(max(_middle(bucket), self.smallest_ns), self.largest_ns)
                return middle / NANOSECONDS
        raise AssertionError("count is the sum of counts")

    def count_above(self, seconds: float) -> int:
        """How many values are certainly above `seconds`: those in higher buckets."""
        limit = _bucket(int(seconds * NANOSECONDS)) + 1
        return sum(count for bucket, count in self.counts.items() if bucket >= limit)

    def values(self) -> Iterator[tuple[float, int]]:
        """Each bucket's middle in seconds, within the extremes, and its count; in rising order."""
        for bucket in sorted(self.counts):
            middle = min(max(_middle(bucket), self.smallest_ns), self.largest_ns)
            yield middle / NANOSECONDS, self.counts[bucket]

    def summary(self) -> dict[str, float | int | None]:
        """count, and mean, min, p50 ... p99.9 and max in seconds; these are None without values."""
        if not self.count:
            names = ("mean", "min", *map(percentile_name, PERCENTILES), "max")
            return {"count": 0, **dict.fromkeys(names)}
        return {
            "count": self.count,
            "mean": self.mean,
            "min": self.smallest_ns / NANOSECONDS,
            **{percentile_name(each): self.percentile(each) for each in PERCENTILES},
            "max": self.largest,
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON; each bucket as its distance from the one before."""
        buckets = sorted(self.counts)
        steps = [bucket - last for last, bucket in zip([0, *buckets], buckets, strict=False)]
        return {
            "sum_ns": self.sum_ns,
            "smallest_ns": self.smallest_ns,
            "largest_ns": self.largest_ns,
            "steps": steps,
            "counts": [self.counts[bucket] for bucket in buckets],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Histogram:
        """The inverse of `to_dict`."""
        histogram = cls()
        bucket = 0
        for step, count in zip(document["steps"], document["counts"], strict=True):
            bucket += step
            histogram.counts[bucket] = count
        histogram.count = sum(histogram.counts.values())
        histogram.sum_ns = document["sum_ns"]
        histogram.smallest_ns = document["smallest_ns"]
        histogram.largest_ns = document["largest_ns"]
        return histogram


def percentile_name(percent: float) -> str:
    """`p50`, `p99.9`."""
    return f"p{percent:g}"


def _bucket(value: int) -> int:
    shift = value.bit_length() - SIGNIFICANT_BITS
    return shift * HALF + (value >> shift) if shift > 0 else value


def _middle(bucket: int) -> float:
    """The middle of a bucket in nanoseconds."""
    if bucket < 2 * HALF:
        return float(bucket)
    shift = bucket // HALF - 1
    return float((bucket - shift * HALF) << shift) + ((1 << shift) - 1) / 2
