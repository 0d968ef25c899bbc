"""What an engine over an `AsyncLoop` does for the engine process, whatever the library."""

from __future__ import annotations

import sys
import threading

from token_engine.async_loop import AsyncLoop
from token_engine.interface import TokenDelta, TokenEngine

STEP_PATIENCE_S = 0.005  # of a step for its first token; a message waits no longer either
SHUTDOWN_PATIENCE_S = 7.0  # less than the supervisor's


class AsyncEngine(TokenEngine):
    """A runtime adds what is its own: `submit`, `stats` and `_shutdown_library`."""

    def __init__(self, loop: AsyncLoop) -> None:
        self._loop = loop
        self._open: set[int] = set()  # without their last delta, and not cancelled
        self._refused: list[TokenDelta] = []

    @property
    def has_work(self) -> bool:
        return bool(self._open)

    def cancel(self, key: int) -> None:
        if key in self._open:
            self._open.remove(key)
            self._refused = [delta for delta in self._refused if delta.key != key]
            self._loop.cancel(key)

    def step(self) -> list[TokenDelta]:
        """What has come since the last step; a pass of the GPU may have added nothing yet."""
        come, self._refused = self._refused, []
        come += self._loop.take(0 if come else STEP_PATIENCE_S)
        deltas = [delta for delta in come if delta.key in self._open]  # else it was cancelled
        self._open -= {delta.key for delta in deltas if delta.finish_reason}
        return deltas

    def shutdown(self) -> None:
        self._loop.close()
        # Dead workers can hold it up for ever, and nobody is started anew before this ends.
        thread = threading.Thread(target=self._shutdown_library, daemon=True)
        thread.start()
        thread.join(SHUTDOWN_PATIENCE_S)
        if thread.is_alive():
            message = f"{self._loop.library} did not shut down in {SHUTDOWN_PATIENCE_S:g} s"
            print(message, file=sys.stderr, flush=True)

    def _shutdown_library(self) -> None:
        """Free what the library holds; may hang."""
