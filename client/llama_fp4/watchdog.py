"""Token timeouts for the synchronous client, whose reads have no timeout of their own.

One thread watches all streams of a client, and runs only while one of them has such a limit. It
uses `threading` only, so that gevent's monkey patch makes it a greenlet.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import perf_counter
from weakref import WeakMethod

from llama_fp4.request_state import RequestState


class Watchdog:
    """Calls a stream's `expire` once the deadline of its state has passed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: dict[RequestState, WeakMethod[Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def watch(self, state: RequestState, expire: WeakMethod[Callable[[], None]]) -> None:
        """Watch until `forget`. A deadline may move later; `wake` reports an earlier one."""
        if self._process != os.getpid():  # a fork has no threads, and the parent's streams
            self.__init__()  # type: ignore[misc]
        with self._changed:
            self._watched[state] = expire
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="llama-fp4", daemon=True)
                self._thread.start()
            self._changed.notify()

    def wake(self) -> None:
        """Look again: a deadline has moved to an earlier time."""
        with self._changed:
            self._changed.notify()

    def forget(self, state: RequestState) -> None:
        """Stop watching a stream that has ended."""
        with self._changed:
            if self._watched.pop(state, None) and not self._watched:
                self._changed.notify()

    def close(self) -> None:
        """Stop; returns when the thread has ended."""
        with self._changed:
            self._watched.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watched:
                    self._thread = None
                    return
                nearest = min(state.deadline for state in self._watched)
                left = nearest - perf_counter()
                if left > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                now = perf_counter()
                late = [each for each in self._watched if each.deadline <= now]
                calls = [self._watched.pop(each) for each in late]
            for call in calls:
                expire = call()
                if expire is not None:
                    expire()
                del expire  # or it would keep the stream alive until the next one expires
