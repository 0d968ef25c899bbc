"""A clock that stands until a test sets it."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """In place of the module `time`, for what asks for `time.monotonic()`."""

    def __init__(self) -> None:
        self.now = 0.0

    @classmethod
    def of(cls, module: ModuleType, patch: pytest.MonkeyPatch) -> Clock:
        """Let `module` ask a new one."""
        clock = cls()
        patch.setattr(module, "time", clock)
        return clock

    def monotonic(self) -> float:
        return self.now
