"""Starts and ends the guide prover (`prover.py`), says how it died, and has their messages.

The messages are pickled, so their classes cannot lie in `prover.py`, which is `__main__` there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from token_engine.interface import Guide

PROGRAM = "token_engine.openvino_runtime.prover"
ROOM = Path(__file__).resolve().parents[2]
WALL_SECONDS = 60.0  # for one guide and the start; the prover's own limit is computing time
KILLED_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class ProverLimits:
    """What a guide may cost. On the prover's command line, in this order."""

    cpu_seconds: int = 10  # of all threads together, to read and compile it
    process_bytes: int = 2 * 2**30  # of the prover's private memory
    retained_bytes: int = 128 * 2**20  # what it may hold when it is compiled


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
    """The guide cannot be served; `reason` is two clauses: "takes ...; it must ..."."""

    reason: str


class ProverLost(RuntimeError):
    """The prover could not be started: no guide's fault."""


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection
    ready: bool = False


class ProverProcess:
    """One guide at a time: `begin` it, then ask for the `result` until there is one.

    The process is started before the first guide or with it, and again after it has died.
    """

    def __init__(self, directory: Path, limits: ProverLimits) -> None:
        self._directory = directory
        self._limits = limits
        self._child: _Child | None = None
        self._guide: Guide | None = None
        self._deadline = 0.0

    def start(self) -> None:
        """Have a process that is ready for the first guide. Returns at once; it may fail later."""
        if self._child is not None and self._child.process.poll() is not None:
            self.stop()  # it died while it had nothing to do
        if self._child is None:
            self._child = self._start()

    def begin(self, guide: Guide) -> None:
        """Hand over a guide. Returns at once."""
        self.start()
        assert self._child is not None
        self._guide = guide
        self._deadline = time.monotonic() + WALL_SECONDS
        with contextlib.suppress(OSError):  # it has just died: `result` finds out how
            self._child.connection.send(guide)

    def result(self, wait_seconds: float = 0.0) -> Proof | Disproof | None:
        """What became of the guide, None as long as that is open. Raises `ProverLost`."""
        if self._guide is None or self._child is None:
            return None
        try:
            while self._child.connection.poll(wait_seconds):
                message = self._child.connection.recv()
                if not isinstance(message, ProverReady):
                    self._guide = None
                    return message  # type: ignore[no-any-return]
                self._child.ready = True
        except (EOFError, OSError):
            return self._explain_death()
        if time.monotonic() < self._deadline:
            return None
        self.stop()
        self.start()
        return Disproof(f"takes more than {WALL_SECONDS:g} s to compile; it must be simpler")

    def stop(self) -> None:
        """End the process. Idempotent."""
        child, self._child, self._guide = self._child, None, None
        if child is not None:
            child.process.kill()
            child.process.wait(KILLED_WAIT_S)
            child.connection.close()

    def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    PROGRAM,
                    str(self._directory),
                    str(theirs.fileno()),
                    *(str(limit) for limit in dataclasses.astuple(self._limits)),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # The compiler has many threads, and each would take its own arena.
                env={**os.environ, "PYTHONPATH": str(ROOM), "MALLOC_ARENA_MAX": "2"},
            )
        return _Child(process, Connection(ours.detach()))

    def _explain_death(self) -> Disproof:
        """The pipe is closed by the guide that was begun. Raises `ProverLost`."""
        child = self._child
        assert child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(KILLED_WAIT_S)
        code = child.process.returncode
        self.stop()
        if not child.ready:
            raise ProverLost(f"the guide prover could not be started (exit code {code})")
        self.start()
        if code == -signal.SIGXCPU:
            return Disproof(
                f"takes more than {self._limits.cpu_seconds} s of computing time to compile; "
                "it must be simpler"
            )
        how = f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"
        return Disproof(f"cannot be compiled (the compiler {how}); it must be simpler")
