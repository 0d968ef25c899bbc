"""A clock that moves only when a test sets it."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """Takes the place of the module `time` in code that calls `time.monotonic()`."""

    def __init__(self) -> None:
        self.now = 0.0

    @classmethod
    def of(cls, module: ModuleType, patch: pytest.MonkeyPatch) -> Clock:
        """Give `module` a new clock."""
        clock = cls()
        patch.setattr(module, "time", clock)
        return clock

    def monotonic(self) -> float:
        return self.now
