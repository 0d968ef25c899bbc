"""Ctrl-C reaches the main thread soon, wherever that is and whichever thread gets the signal.

Python only takes note of a signal and acts when the main thread comes by. A signal that one of
gRPC's threads gets, or that comes just before readline waits for a key, ends no such wait.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

WAKE = signal.SIGURG  # ignored by default: whoever else sends it does no harm
AGAIN_S = 0.05


class Waker:
    """From the main thread, once; the thread that this starts ends with the process."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._main = threading.get_ident()
        self._awake = True
        signal.signal(WAKE, self._came_by)  # a signal without a handler interrupts nothing
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    def _came_by(self, number: int, frame: FrameType | None) -> None:
        self._awake = True

    def _watch(self) -> None:
        # Not to this thread, which would only have to wake the other.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, WAKE})
        while numbers := os.read(self._reader, 64):
            if signal.SIGINT not in numbers:
                continue
            self._awake = False
            while not self._awake:
                time.sleep(AGAIN_S)  # first, as mostly the main thread is already awake
                signal.pthread_kill(self._main, WAKE)
