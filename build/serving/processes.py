"""The processes of a tritonserver, and what they leave behind when it is killed.

A server starts in a session of its own, which identifies all its processes, even after its death.
A stub runs as `triton_python_backend_stub MODEL_PY REGION ...`, so its command line names its model
and its region in /dev/shm.
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
DEFAULT_PREFIX = "triton_python_backend_shm_region_"
SHARED_MEMORY = Path("/dev/shm")
POLL_S = 0.05
DEATH_S = 30.0  # the kernel may need so long to free a killed process's memory, the GPU's included
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """For a child, before its exec: it gets SIGTERM when its parent dies, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class Process:
    """One line of /proc: `started` is in clock ticks since the machine's start."""

    pid: int
    parent: int
    session: int
    started: int


def process_of(pid: int) -> Process | None:
    """The process that runs as `pid` now; None if there is none, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    if state in "ZX":
        return None
    return Process(pid, int(fields[0]), int(fields[2]), int(fields[18]))


def _arguments(pid: int) -> list[str]:
    """The command line; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


@dataclass(frozen=True)
class Stub:
    """One Python backend process."""

    pid: int
    region: str  # the name of its file in /dev/shm
    model: str


def stubs_of(server_pid: int) -> set[Stub]:
    """The stubs that the server `server_pid` started, whether it is alive or not."""
    found = set()
    for process in _members_of(server_pid):
        arguments = _arguments(process.pid)
        if len(arguments) > 2 and Path(arguments[0]).name == STUB:
            found.add(Stub(process.pid, arguments[2], Path(arguments[1]).parent.parent.name))
    return found


def region_prefix(name: str) -> str:
    """The prefix of the regions in /dev/shm of a server started with `region_option(name)`.

    Each server has its own prefix, because a killed one may have made a region that no stub uses
    yet. It begins with Triton's default prefix, because Triton refuses clients such regions.
    """
    return f"{DEFAULT_PREFIX}{name}_"


def region_option(name: str) -> str:
    """The argument of tritonserver that sets `region_prefix(name)`."""
    return f"--backend-config=python,shm-region-prefix-name={region_prefix(name)}"


def regions_of(name: str) -> list[Path]:
    """The regions that a server with `region_option(name)` has."""
    prefix = region_prefix(name)
    return [path for path in SHARED_MEMORY.iterdir() if path.name.startswith(prefix)]


def remove_leftovers(server_pid: int, name: str, grace_s: float) -> None:
    """After a server's end, wait for its processes, kill what stays and free their memory."""
    for process in _remaining(server_pid, grace_s):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    _remaining(server_pid, DEATH_S)
    free_regions(name)


def _remaining(server_pid: int, patience_s: float) -> list[Process]:
    """The server's processes that have not ended within `patience_s`."""
    deadline = time.monotonic() + patience_s
    while (alive := _members_of(server_pid)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return alive


def free_regions(name: str) -> None:
    """Unlink the regions of a server that is gone."""
    for region in regions_of(name):
        region.unlink(missing_ok=True)  # a stub may do so at this moment


def _members_of(server_pid: int) -> list[Process]:
    """The processes that the server and its stubs started: stubs and engine processes."""
    processes = filter(None, map(process_of, _pids()))
    return [one for one in processes if one.session == server_pid != one.pid]
