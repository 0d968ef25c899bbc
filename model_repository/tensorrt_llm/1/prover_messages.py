"""What the engine and the guide prover say to each other, pickled over a socket pair.

To the prover: `Guide`. From it: `ProverReady` once, then for each guide a `Proof` or a `Disproof`.
"""

from __future__ import annotations

from dataclasses import dataclass

CPU_SECONDS = 10  # for one guide, of all threads together


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
