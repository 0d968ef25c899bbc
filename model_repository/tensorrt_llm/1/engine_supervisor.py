"""Keeps one engine process alive, and reports its death at once.

Triton never restarts a dead Python stub and never ends its streams, so the engine computes in a
child of the stub (`engine_process.py`). One thread here starts the child, reads what it sends,
notices when it dies or hangs, reports that, and starts the next one after a growing pause. Another
writes to it: a request of a hundred thousand tokens does not fit the pipe while a step runs, and
neither a caller nor the reader may wait for that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from engine_messages import Cancel, Failed, Loaded, Progress, Ready, Shutdown, StepDone
from token_engine.interface import EngineLoadError, EngineStats, GenerationRequest, TokenDelta

ENGINE_PROGRAM = Path(__file__).with_name("engine_process.py")
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
SHUTDOWN_GRACE_S = 10.0
LONGEST_STOP_S = SHUTDOWN_GRACE_S + 5.0  # includes the time to kill it
POLL_S = 0.5  # how often the watchdog looks at a silent engine


class EngineListener(Protocol):
    """Called from the supervisor's thread."""

    def on_deltas(self, deltas: list[TokenDelta]) -> None:
        """One step's tokens."""

    def on_engine_lost(self, reason: str) -> None:
        """Every request that was submitted and is not finished is lost."""

    def has_open_requests(self) -> bool:
        """Whether any request is unfinished. Without one, a silent engine does not hang."""


Message = GenerationRequest | Cancel | Shutdown


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection
    outbox: SimpleQueue[Message | None] = field(default_factory=SimpleQueue)

    def write_outbox(self) -> None:
        """The writer's thread; ends at None, or when the engine process is gone."""
        with contextlib.suppress(OSError):  # the reader sees a death and reports it
            while (message := self.outbox.get()) is not None:
                self.connection.send(message)


class EngineSupervisor:
    """Start with `start()`; it returns when the engine is warm or raises `EngineLoadError`."""

    def __init__(
        self,
        engine_directory: Path,
        hang_timeout_s: float,
        listener: EngineListener,
        log: Callable[[str], None],
        python: str = "",
    ) -> None:
        self._directory = engine_directory
        self._python = python  # "": this one
        self._hang_timeout_s = hang_timeout_s
        self._listener = listener
        self._log = log
        self._child: _Child | None = None  # only while it is ready
        self._starting: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._end_by = float("inf")  # time.monotonic() at which a stopping engine is killed
        self._was_killed = False  # while stopping
        self._thread: threading.Thread | None = None
        self.stats = EngineStats()
        self.facts: dict[str, str] = {}  # `TokenEngine.facts` of the last process that loaded

    @property
    def ready(self) -> bool:
        """Whether a request that is sent now reaches a warm engine."""
        return self._child is not None

    def start(self) -> None:
        """Start the first engine process and wait until it is warm."""
        child = self._start_child()
        self._thread = threading.Thread(
            target=self._supervise, args=(child,), name="engine-supervisor"
        )
        self._thread.daemon = True
        self._thread.start()

    def submit(self, request: GenerationRequest) -> bool:
        """Hand a request to the engine; False if there is none just now."""
        return self._send(request)

    def cancel(self, key: int) -> None:
        """Free what the request holds in the engine. Deltas already on their way still come."""
        self._send(Cancel(key))

    def stop(self) -> bool:
        """End the engine process, by force after a while; returns whether it ended by itself.

        Idempotent; every caller waits for the end.
        """
        if not self._stopping.is_set():
            self._end_by = time.monotonic() + SHUTDOWN_GRACE_S
        self._stopping.set()
        if not self._send(Shutdown()) and (starting := self._starting) is not None:
            starting.kill()
        if self._thread is not None:
            self._thread.join(LONGEST_STOP_S)
            return not (self._was_killed or self._thread.is_alive())
        return True

    def _send(self, message: Message) -> bool:
        child = self._child
        if child is None:
            return False
        child.outbox.put(message)
        return True

    def _start_child(self) -> _Child:
        """Start an engine process and wait for its Ready; raises `EngineLoadError`."""
        python, environment = _interpreter(self._python)
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [python, str(ENGINE_PROGRAM), str(self._directory), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        child = _Child(process, Connection(ours.detach()))
        self._starting = process
        try:
            self._await_ready(child)
        except BaseException:
            _end(child)
            raise
        threading.Thread(target=child.write_outbox, name="engine-writer", daemon=True).start()
        self._child = child
        self._starting = None
        if self._stopping.is_set():  # `stop` may have run before `_child` was set
            child.outbox.put(Shutdown())
        return child

    def _await_ready(self, child: _Child) -> None:
        while True:
            try:
                message = child.connection.recv()
            except (EOFError, OSError):
                how = _death(child.process)
                raise EngineLoadError(
                    f"the engine process {how} while it loaded; see the log above"
                ) from None
            if isinstance(message, Progress):
                self._log(f"{message.phase}: {message.seconds:.2f} s")
            elif isinstance(message, Loaded):
                self.facts = message.facts
                if message.facts:
                    self._log(", ".join(f"{name} {told}" for name, told in message.facts.items()))
            elif isinstance(message, Failed):
                raise EngineLoadError(message.reason)
            elif isinstance(message, Ready):
                self.stats = message.stats
                return

    def _supervise(self, child: _Child | None) -> None:
        pause = FIRST_PAUSE_S
        while child is not None or not self._stopping.is_set():
            if child is not None:
                started = time.monotonic()
                reason = self._read_until_death(child)
                self._child = None  # before the loss is reported: whoever submits now is refused
                killed = _end(child)
                if self._stopping.is_set():
                    self._was_killed = killed
                    if killed:
                        self._log(f"{reason} and was killed")
                    break
                self._log(f"{reason}; it restarts")
                self._listener.on_engine_lost(reason)
                if time.monotonic() - started > LONGEST_PAUSE_S:
                    pause = FIRST_PAUSE_S
            self._stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            child = self._try_start()

    def _try_start(self) -> _Child | None:
        if self._stopping.is_set():
            return None
        try:
            child = self._start_child()
        except (EngineLoadError, OSError) as error:
            self._log(f"the engine could not be started: {error}")
            return None
        self._log("the engine is ready again")
        return child

    def _read_until_death(self, child: _Child) -> str:
        """Pass on what the engine sends; returns one clause that says how it ended."""
        last_sign = time.monotonic()
        while True:
            try:
                if child.connection.poll(POLL_S):
                    message = child.connection.recv()
                    last_sign = time.monotonic()
                    if isinstance(message, StepDone):
                        self._pass_on(message)
                    continue
            except (EOFError, OSError):
                patience = max(0.0, min(SHUTDOWN_GRACE_S, self._end_by - time.monotonic()))
                return f"the engine process {_death(child.process, patience)}"
            if self._stopping.is_set():
                if time.monotonic() > self._end_by:
                    return f"the engine process did not end within {SHUTDOWN_GRACE_S:g} s"
            elif not self._listener.has_open_requests():
                last_sign = time.monotonic()
            elif time.monotonic() - last_sign > self._hang_timeout_s:
                return f"the engine process made no step in {self._hang_timeout_s:g} s"

    def _pass_on(self, step: StepDone) -> None:
        self.stats = step.stats
        self._listener.on_deltas(step.deltas)


def _interpreter(python: str) -> tuple[str, dict[str, str]]:
    """The engine process's interpreter and environment; raises `EngineLoadError`."""
    environment = dict(os.environ)
    if not python:
        return sys.executable, environment
    if not (os.path.isabs(python) and os.access(python, os.X_OK)):
        raise EngineLoadError(
            f"engine_python is {python!r} and must be the absolute path of a Python interpreter; "
            "correct it in engine.json"
        )
    for name in ("PYTHONHOME", "PYTHONPATH"):  # of another Python's packages
        environment.pop(name, None)
    return python, environment


def _death(process: subprocess.Popen[bytes], patience_s: float = SHUTDOWN_GRACE_S) -> str:
    """How a process whose pipe closed has ended, as a clause."""
    try:
        code = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return "closed its pipe and hangs"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _end(child: _Child) -> bool:
    """Close the pipe and wait for the process; returns whether it had to be killed."""
    child.outbox.put(None)
    with contextlib.suppress(OSError):
        child.connection.close()
    try:
        child.process.wait(0 if child.process.poll() is not None else SHUTDOWN_GRACE_S / 10)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()
        return True
    return False
