"""How serve.py asks this room to finish its requests before Triton is stopped.

Triton 2.51 stops every model's queue as soon as it shuts down, also for ensemble requests in
flight: their streams then get nothing more and never end. So serve.py asks here first, by a
file in a folder that both know, and stops Triton when the answer appears there. Then this room
ends its engine itself, and reports that too, because Triton unloads no model while an HTTP client
is connected, and in the end kills them all. Every room also reports there how far its start is.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

DIRECTORY_VARIABLE = "LLAMA_FP4_DRAIN_DIRECTORY"
OPEN = "open"  # exists once the room takes requests
REQUEST = "drain"  # holds the seconds that requests in flight may still take
ANSWER = "drained"
ENDED, KILLED = "engine.ended", "engine.killed"  # the engine process is gone: by itself, by force
ENGINE_ROOM = "tensorrt_llm"
# The file with which each room reports that the slow part of its start is done.
SIGNS = {
    "preprocessing": "preprocessing.loaded",
    "postprocessing": "postprocessing.loaded",
    "tensorrt_llm_bls": "tensorrt_llm_bls.loaded",
    ENGINE_ROOM: "tensorrt_llm.begun",
}


def tell_serve(sign: str) -> None:
    """Put the file `sign` into the folder, if Triton was started by serve.py."""
    folder = os.environ.get(DIRECTORY_VARIABLE)
    if folder:
        Path(folder, sign).touch()


class DrainRequest:
    """What the room polls; always false where serve.py did not start Triton."""

    def __init__(self) -> None:
        directory = os.environ.get(DIRECTORY_VARIABLE)
        self._directory = Path(directory) if directory else None
        self._deadline: float | None = None

    def open(self) -> None:
        """Say that there may be requests in flight from now on."""
        tell_serve(OPEN)

    def is_asked(self) -> bool:
        """Whether no request may be admitted any more."""
        if self._deadline is None and self._directory is not None:
            try:
                seconds = float((self._directory / REQUEST).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return False
            self._deadline = time.monotonic() + seconds
        return self._deadline is not None

    def is_overdue(self) -> bool:
        """Whether requests still in flight must end now."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def confirm(self) -> None:
        """Say that no request is in flight."""
        tell_serve(ANSWER)

    def tell_end(self, by_itself: bool) -> None:
        """Say that the engine process is gone."""
        tell_serve(ENDED if by_itself else KILLED)
