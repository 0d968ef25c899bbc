"""Starts sender.py and talks to it from Locust's greenlets."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from gevent.lock import RLock
from gevent.queue import Queue

from sending.messages import HEARD, REFUSED, RETURNED

SENDER = Path(__file__).with_name("sender.py")
CLOSE_S = 5.0


class SenderError(RuntimeError):
    """The sender failed, or its process ended."""


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class SenderProcess:
    """The sender of one Locust process: started early, and again after it has died."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._writing = RLock()
        self._process: Any = None
        self._answers: dict[int, Any] = {}  # number of the command -> queue of (kind, value)

    def start(self) -> None:
        """Start it unless it runs. It imports from the same paths as this process."""
        with self._writing:  # Popen lets other greenlets run
            if self._process is not None and self._process.poll() is None:
                return
            self._process = subprocess.Popen(
                [sys.executable, str(SENDER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # A terminal's Ctrl-C is for Locust alone. Not a session of its own: Linux would
                # schedule that ahead of Locust's session.
                preexec_fn=_ignore_interrupts,
            )
            self._answers = {}
            gevent.spawn(self._listen, self._process, self._answers)

    def send(self, name: str, *arguments: Any) -> None:
        """Send a command without waiting for its result."""
        self._write(next(self._numbers), name, arguments)

    def call(self, name: str, *arguments: Any, hear: Callable[[Any], None] = lambda _: None) -> Any:
        """Run a command and return its result; `hear` gets its progress.

        Raises ValueError if the command does, `SenderError` if the sender fails or dies.
        """
        self.start()
        number, answers, kind = next(self._numbers), self._answers, HEARD
        answers[number] = Queue()
        try:
            self._write(number, name, arguments)
            while kind == HEARD:
                kind, value = answers[number].get()
                if kind == HEARD:
                    hear(value)
        finally:
            del answers[number]
            if kind == HEARD:  # the caller was interrupted
                self.send("cancel", number)
        if kind == RETURNED:
            return value
        raise (ValueError if kind == REFUSED else SenderError)(value)

    def close(self) -> None:
        """End it cleanly; without this it ends with the Locust process."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.stdin.close()
                self._process.wait(CLOSE_S)

    def _write(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        command = pickle.dumps((number, name, arguments), pickle.HIGHEST_PROTOCOL)
        # OSError: it has died, which `_listen` reports. ValueError: it was closed.
        with self._writing, contextlib.suppress(OSError, ValueError):
            if self._process is None:
                self.start()
            self._process.stdin.write(command)
            self._process.stdin.flush()

    def _listen(self, process: Any, answers: dict[int, Any]) -> None:
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                number, kind, value = pickle.load(process.stdout)
                if number in answers:
                    answers[number].put((kind, value))
        code = process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        for each in answers.values():
            each.put(("died", f"the process that sends the requests ended {how}"))
