"""The messages between the server and the engine process, pickled over a socket pair.

To the engine: `GenerationRequest`, `Cancel`, `Shutdown`. From it: `Progress` and `Loaded` while it
loads, then `Ready` or `Failed`, then one `StepDone` for every step that made a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from token_engine.interface import EngineStats, TokenDelta


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget the request `key`. Deltas that cross this message on the way are dropped."""

    key: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End after the current step."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A phase of the start is over."""

    phase: str  # "engine load" or "warm-up"
    seconds: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine is loaded and not yet warm."""

    facts: dict[str, str]  # `TokenEngine.facts`


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine is warm and takes requests."""

    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine cannot start; `reason` is one sentence for the operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """What one step made, for all requests in the batch."""

    deltas: list[TokenDelta]
    stats: EngineStats
