"""Sees that a tritonserver that is told to end waits for nothing but clients.

Triton 2.51 unloads no model while an HTTP client is connected, idle or not. Then it waits for
requests that its gRPC frontend has forgotten, whose models it keeps, and at last, for ever, for a
client that keeps a stream open. Nobody is served any more at that time, and the engine has ended by
itself. What else is left is seen from outside; only that it waits for HTTP clients is told by its
log, once a second.
"""

from __future__ import annotations

import time
from pathlib import Path

import host.room_paths  # noqa: F401
from engine_supervisor import LONGEST_STOP_S
from serve_signals import ENDED, KILLED

from serving.processes import Stub
from serving.start_watch import SIGNS

# Triton's own limit, after the drain. Above what the engine may take: what it ends then, it kills.
UNLOAD_S = int(LONGEST_STOP_S) + 5
CLIENTS_S = 3.0  # what an HTTP client gets to take its last answer and go away
ROOMS_S = 5.0  # what the rooms may take to end after the engine; 1.5 s on an idle machine
LONGEST_S = UNLOAD_S + 10.0  # Triton counts its own limit in pauses of a second


class StopWatch:
    """One stop, from Triton's SIGTERM on; asked again and again until Triton ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder  # of serve_signals.py
        self._began: float | None = None
        self._last_change = 0.0
        self._seen: object = None
        self.models: list[str] = []  # that had not ended when it was last looked at
        self.waits_for_clients = False

    def look(self, stubs: set[Stub], found: str) -> str:
        """One clause that says why it is to be killed; empty while it may go on.

        `found` is what Triton's log says that it waits for, as in "1 HTTP service connections".
        """
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self.models = sorted(stub.model for stub in stubs)
        of_http = bool(found) and "model" not in found
        gone = not stubs or any((self._folder / sign).exists() for sign in (ENDED, KILLED))
        state = (stubs, found, gone and not of_http)  # the clients' time runs beside the engine's
        if state != self._seen:
            self._seen, self._last_change = state, now
        # The rooms end at once; a model of somebody else may take its time.
        self.waits_for_clients = gone and (of_http or SIGNS.keys() >= set(self.models))
        waited = now - self._last_change
        if self.waits_for_clients and of_http and waited > CLIENTS_S:
            return f"for {CLIENTS_S:g} s it waited for idle clients alone ({found})"
        if self.waits_for_clients and waited > ROOMS_S:
            return (
                f"for {ROOMS_S:g} s it waited ({found}), as it does for idle gRPC streams and for "
                "requests that it has forgotten"
            )
        return f"it did not end within {LONGEST_S:g} s" if now - self._began > LONGEST_S else ""
