"""What the engine and the guide prover say to each other, pickled over a socket pair.

To the prover: `Guide`. From it: `ProverReady` once, then for each guide a `Proof` or a `Disproof`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProverLimits:
    """What a guide may cost. On the prover's command line, in this order."""

    cpu_seconds: int = 10  # of all threads together, to read and compile it
    process_bytes: int = 2 * 2**30  # of the prover's private memory
    retained_bytes: int = 128 * 2**20  # what it may hold when it is compiled
    idle_seconds: int = 60  # then the prover ends


@dataclass(frozen=True, slots=True)
class ProverReady:
    """The prover takes guides."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The guide compiles, and what that costs in any process."""

    ebnf: str  # the grammar that the library compiles
    cpu_seconds: float
    retained_bytes: int  # the library never forgets a grammar


@dataclass(frozen=True, slots=True)
class Disproof:
    """The guide cannot be served; `reason` is two clauses: "takes ..., allowed is ..."."""

    reason: str
