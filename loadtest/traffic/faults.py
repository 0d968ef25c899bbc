"""How a client treats its stream: normally, or as faulty clients do.

normal        reads every response as it comes.
cancel_storm  a burst of requests, each cancelled after a few tokens.
slow_reader   pauses after every response.
over_long     a prompt over the server's limit; the right answer is a refusal.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from figures.record import NORMAL

CANCEL_STORM, SLOW_READER, OVER_LONG = "cancel_storm", "slow_reader", "over_long"
FAULTS = (CANCEL_STORM, SLOW_READER, OVER_LONG)
STORM_REQUESTS = 8
STORM_TOKENS = 16  # at most, before a request is cancelled
SLOW_READ_S = 0.05  # after every response


@dataclass(frozen=True, slots=True)
class Journey:
    """How one request's stream is read."""

    name: str = NORMAL
    leave_after: int | None = None  # tokens, then the stream is closed
    pause_s: float = 0.0  # after every response
    refusal: bool = False  # a refusal by INVALID_ARGUMENT is the right answer


def parse_faults(text: str) -> dict[str, float]:
    """Each journey's share of the arrivals, from `cancel_storm=0.1,slow_reader=0.05`.

    Raises ValueError that names the part, its value and what it must be.
    """
    shares: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, share = part.partition("=")
        if name not in FAULTS:
            raise ValueError(f"the fault must be one of {', '.join(FAULTS)}, not {name!r}")
        try:
            shares[name] = float(share)
        except ValueError:
            raise ValueError(f"the share of {name} must be as {name}=0.1, not {share!r}") from None
        if not 0 <= shares[name] <= 1:
            raise ValueError(f"the share of {name} must be from 0 to 1, not {share}")
    if sum(shares.values()) > 1:
        raise ValueError(
            f"the faults' shares must add up to at most 1, not {sum(shares.values()):g}"
        )
    return shares


def journeys_of(number: int, seed: int, shares: Mapping[str, float]) -> Sequence[Journey]:
    """The arrival's journeys: one, or a storm's many. They depend on seed and number alone."""
    if not shares:
        return (Journey(),)
    generator = random.Random(f"journey/{seed}/{number}")
    drawn = generator.random()
    for name, share in shares.items():
        drawn -= share
        if drawn < 0:
            return _faulty(name, generator)
    return (Journey(),)


def _faulty(name: str, generator: random.Random) -> Sequence[Journey]:
    if name == CANCEL_STORM:
        return [
            Journey(name, leave_after=generator.randrange(STORM_TOKENS + 1))
            for _ in range(STORM_REQUESTS)
        ]
    if name == SLOW_READER:
        return (Journey(name, pause_s=SLOW_READ_S),)
    return (Journey(name, refusal=True),)
