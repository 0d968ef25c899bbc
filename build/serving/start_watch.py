"""Sees that a start of tritonserver does not come to its end.

Triton 2.51 gives up a Python stub that was not scheduled for a second, and then waits for ever for
it to end; it waits for ever also for a stub that hangs before its first message. Its log says
nothing of that, and its format changes with Triton's versions. So progress is what can be seen from
outside: a stub that appears, or a room that tells of itself by a file in the folder of
serve_signals.py. Only the load of an engine may take as long as it likes.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import host.room_paths  # noqa: F401
from serve_signals import OPEN

from serving.processes import Stub

ENGINE_ROOM = "tensorrt_llm"
# The file by which a room says that all of its start is done that is done within seconds.
SIGNS = {
    "preprocessing": "preprocessing.loaded",
    "postprocessing": "postprocessing.loaded",
    "tensorrt_llm_bls": "tensorrt_llm_bls.loaded",
    ENGINE_ROOM: "tensorrt_llm.begun",
}
CONNECT_S = 1.0


def telling_rooms(repository: Path) -> set[str]:
    """Those that give a sign: a repository that was assembled by an older checkout has none."""
    found = set()
    for room, sign in SIGNS.items():
        model = repository / room / "1" / "model.py"
        if model.is_file() and f'"{sign}"' in model.read_text(encoding="utf-8", errors="replace"):
            found.add(room)
    return found


class StartWatch:
    """One start; asked again and again until the server listens or is found to be stuck."""

    def __init__(
        self, folder: Path, rooms: set[str], limit_s: float, address: tuple[str, int]
    ) -> None:
        self._folder = folder
        self._rooms = rooms
        self._limit_s = limit_s
        self._address = address  # of the HTTP frontend, which is opened after all is loaded
        self._seen: set[tuple[str, str]] = set()
        self._last_sign: dict[str, float] = {"": time.monotonic()}  # "": of any room
        self.started = False

    def look(self, stubs: set[Stub]) -> str:
        """One clause that says what is stuck; empty while all is well."""
        if self.started:
            return ""
        self._note(stubs)
        if _listens(self._address):
            self.started = True
            return ""
        for room in self._rooms & self._last_sign.keys():
            if not self._has(SIGNS[room]) and self._is_late(room):
                return f"its model {room} made no progress in {self._limit_s:g} s"
        strangers = {stub.model for stub in stubs} - self._rooms  # they may well take their time
        if not strangers and not self._loads_engine() and self._is_late(""):
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
        begun = ENGINE_ROOM not in self._rooms or self._has(SIGNS[ENGINE_ROOM])
        return begun and not self._has(OPEN)

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
