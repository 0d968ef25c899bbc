"""Detects a tritonserver that hangs: at its start, or at its end.

A start. Triton 2.51 gives up a Python stub that was not scheduled for a second, and then waits for
its end forever, as it does for a stub that hangs before its first message. Its log does not show
that, and the log's format changes between versions. So progress is what can be seen from outside: a
new stub, or a room's file in the folder of serve_signals.py. Only the load of an engine may take as
long as it likes.

A stop. Triton 2.51 unloads no model while an HTTP client is connected, idle or not. Then it waits
for requests that its gRPC frontend has lost, and keeps their models. Finally it waits forever for
clients that keep a stream open, although it serves nobody and the engine has ended. All of this can
be seen from outside, except that Triton waits for HTTP clients: that is in its log, once a second.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import host.room_paths  # noqa: F401
from engine_supervisor import LONGEST_STOP_S
from serve_signals import ENDED, ENGINE_ROOM, KILLED, OPEN, SIGNS

from serving.processes import Stub

CONNECT_S = 1.0
# Triton's own limit after the drain. Then it kills, so the engine must have ended before.
UNLOAD_S = int(LONGEST_STOP_S) + 5
CLIENTS_S = 3.0  # for an HTTP client to read its last answer and leave
ROOMS_S = 5.0  # for the rooms to end after the engine; 1.5 s on an idle machine
LONGEST_S = UNLOAD_S + 10.0  # Triton counts its own limit in pauses of a second


class StartWatch:
    """One start: `check` it again and again until the server listens or is stuck."""

    def __init__(self, folder: Path, limit_s: float, address: tuple[str, int]) -> None:
        self._folder = folder  # of serve_signals.py
        self._limit_s = limit_s
        self._address = address  # of the HTTP frontend, which opens after all is loaded
        self._seen: set[tuple[str, str]] = set()
        self._last_sign: dict[str, float] = {"": time.monotonic()}  # "": of any room
        self.started = False

    def check(self, stubs: set[Stub]) -> str:
        """One clause that says what is stuck; empty while all is well."""
        if self.started:
            return ""
        self._note(stubs)
        if _listens(self._address):
            self.started = True
            return ""
        for room in SIGNS.keys() & self._last_sign.keys():
            if not self._has(SIGNS[room]) and self._is_late(room):
                return f"its model {room} made no progress in {self._limit_s:g} s"
        others = {stub.model for stub in stubs} - SIGNS.keys()  # no limit applies to them
        if not others and not self._loads_engine() and self._is_late(""):
            return f"none of its models made progress in {self._limit_s:g} s"
        return ""

    def _note(self, stubs: set[Stub]) -> None:
        signs = {(stub.model, str(stub.pid)) for stub in stubs}
        signs |= {(room, sign) for room, sign in SIGNS.items() if self._has(sign)}
        signs |= {(ENGINE_ROOM, OPEN)} if self._has(OPEN) else set()
        for room, _ in signs - self._seen:
            self._last_sign[room] = self._last_sign[""] = time.monotonic()
        self._seen |= signs

    def _loads_engine(self) -> bool:
        return self._has(SIGNS[ENGINE_ROOM]) and not self._has(OPEN)

    def _has(self, sign: str) -> bool:
        return (self._folder / sign).exists()

    def _is_late(self, room: str) -> bool:
        return time.monotonic() - self._last_sign[room] > self._limit_s


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, CONNECT_S).close()
    except OSError:
        return False
    return True


class StopWatch:
    """One stop, from Triton's SIGTERM on: `check` it again and again until Triton ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder  # of serve_signals.py
        self._began: float | None = None
        self._last_change = 0.0
        self._seen: object = None
        self.models: list[str] = []  # that had not ended at the last check
        self.waits_for_clients = False

    def check(self, stubs: set[Stub], found: str) -> str:
        """One clause that says why Triton must be killed; empty while it may go on.

        `found` is what Triton waits for, by its log, as in "1 HTTP service connections".
        """
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self.models = sorted(stub.model for stub in stubs)
        of_http = bool(found) and "model" not in found
        engine_is_gone = not stubs or any(
            (self._folder / sign).exists() for sign in (ENDED, KILLED)
        )
        # The clients' time runs at the same time as the engine's.
        state = (stubs, found, engine_is_gone and not of_http)
        if state != self._seen:
            self._seen, self._last_change = state, now
        # Our models end at once; others' may need longer.
        self.waits_for_clients = engine_is_gone and (of_http or SIGNS.keys() >= set(self.models))
        waited = now - self._last_change
        if self.waits_for_clients and of_http and waited > CLIENTS_S:
            return f"it waited {CLIENTS_S:g} s for nothing but idle clients ({found})"
        if self.waits_for_clients and waited > ROOMS_S:
            return (
                f"it waited {ROOMS_S:g} s ({found}), as it does for idle gRPC streams and for "
                "requests that it has lost"
            )
        return f"it did not end within {LONGEST_S:g} s" if now - self._began > LONGEST_S else ""
