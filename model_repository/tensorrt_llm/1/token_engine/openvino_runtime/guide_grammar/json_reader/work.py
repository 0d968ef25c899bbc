"""The work that the reading of one JSON schema takes, counted so that it ends early.

The prover's own limit ends a process; this one says by a sentence what is too much.
"""

from __future__ import annotations

from token_engine.openvino_runtime.guide_grammar.grammar import GuideError

MAX_STEPS = 150_000  # of some 20 microseconds


class Work:
    """A count for the schema that is being read; a process reads one at a time."""

    def __init__(self) -> None:
        self._steps = 0

    def begin(self) -> None:
        """Begin with another schema."""
        self._steps = 0

    def spend(self, steps: int) -> None:
        """Count; raises `GuideError` when it is too much."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise GuideError(f"takes more than {MAX_STEPS} steps to read; it must be simpler")


WORK = Work()
