"""Several workloads in one run: `mlperf-server=7,chat=2,128/128=1`.

An arrival's workload depends on the seed and its number alone, so it is the same on every worker
and in every run with that seed. A run of one workload is a mix of one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

from traffic.workloads import Conversation, Workload

REPLAY = "replay"  # the recording's name, alone or in a mix


def parse_mix(text: str) -> dict[str, float]:
    """Each workload's share of the arrivals, in the order given; the shares add up to 1.

    A missing weight is 1. Raises ValueError that names the part and what it must be.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, given, weight = (each.strip() for each in part.partition("="))
        if not name:
            raise ValueError(
                f"the workload {text!r} must be as chat=2,128/128=1, without an empty part"
            )
        if name in weights:
            raise ValueError(f"the workload {text!r} must have {name!r} once, not twice")
        weights[name] = _weight(name, weight) if given else 1.0
    largest = max(weights.values())  # first: the sum of two large numbers is infinite
    scaled = {name: weight / largest for name, weight in weights.items()}
    return {name: weight / math.fsum(scaled.values()) for name, weight in scaled.items()}


def chosen(number: int, seed: int, shares: Mapping[str, float]) -> str:
    """The workload of the arrival with that number.

    By a hash, as this runs for the whole schedule: seeding a random generator takes ten times as
    long.
    """
    if len(shares) > 1:
        hashed = hashlib.blake2b(f"workload/{seed}/{number}".encode(), digest_size=8).digest()
        drawn = int.from_bytes(hashed, "big") / 2**64
        for name, share in shares.items():
            drawn -= share
            if drawn < 0:
                return name
    return list(shares)[-1]  # the only one, or the rest after rounding


class WorkloadMix:
    """`conversation(number)` for any number; `workloads` by name, one for each of `shares`."""

    def __init__(
        self, seed: int, shares: Mapping[str, float], workloads: Mapping[str, Workload]
    ) -> None:
        self.shares = dict(shares)
        self._seed = seed
        self._workloads = workloads
        self._counted = 0  # arrivals below this number have been looked at, and of them
        self._recorded = 0  # so many are the recording's

    @property
    def distinct(self) -> int:
        """The number of different conversations; 0: every arrival has its own."""
        return sum(each.distinct for each in self._workloads.values())

    def distinct_conversations(self) -> Iterator[Conversation]:
        """All of them, workload after workload."""
        for workload in self._workloads.values():
            yield from map(workload.distinct_conversation, range(workload.distinct))

    def conversation(self, number: int) -> Conversation:
        """The arrival's conversation; numbers start at 0."""
        workload = self._workloads[chosen(number, self._seed, self.shares)]
        return workload.conversation(self._place(number) if workload.in_order else number)

    def _place(self, number: int) -> int:
        """How many earlier arrivals belong to the recording, which is replayed in order."""
        if number < self._counted:
            self._counted = self._recorded = 0
        for before in range(self._counted, number):
            self._recorded += chosen(before, self._seed, self.shares) == REPLAY
        self._counted = number
        return self._recorded


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        raise ValueError(f"the weight of {name} must be as {name}=2, not {text!r}") from None
    if not 0 < weight < math.inf:  # nan is neither
        raise ValueError(f"the weight of {name} must be a number above 0, not {text}")
    return weight
