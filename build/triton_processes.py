"""What a tritonserver leaves behind when it is killed: its Python stubs and their shared memory.

A stub is started as `triton_python_backend_stub MODEL REGION SIZE GROWTH SERVER_PID ...`, so its
command line names both the server that it belongs to and its region in /dev/shm.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

STUB = "triton_python_backend_stub"
SHARED_MEMORY = Path("/dev/shm")
POLL_S = 0.05
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a child before its exec: if its parent is killed outright, it gets SIGTERM."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class Stub:
    """One Python backend process."""

    pid: int
    region: str  # the name of its file in /dev/shm


def stubs_of(server_pid: int) -> set[Stub]:
    """The stubs that the server `server_pid` started, be it alive or not."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended while we looked
            continue
        if (
            Path(arguments[0]).name == STUB
            and len(arguments) > 5
            and arguments[5] == str(server_pid)
        ):
            found.add(Stub(int(folder.name), arguments[2]))
    return found


def remove_leftovers(server_pid: int, known: set[Stub], grace_s: float) -> None:
    """After the server is gone: wait for its stubs, kill those that stay, unlink their memory."""
    deadline = time.monotonic() + grace_s
    known = known | stubs_of(server_pid)
    while (alive := stubs_of(server_pid)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for stub in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stub.pid, signal.SIGKILL)
    for stub in known:
        with contextlib.suppress(FileNotFoundError):
            (SHARED_MEMORY / stub.region).unlink()
