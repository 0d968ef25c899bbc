"""The server stalls: its processes are stopped for a while, and go on."""

from __future__ import annotations

import contextlib
import time

import gevent
import psutil


def processes(pid: int) -> list[psutil.Process]:
    """The process and all it started; raises ValueError if there is none."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        raise ValueError(f"--stall-pid is {pid}, there is no such process") from None


def stall_later(at_unix: float, pid: int, seconds: float) -> gevent.Greenlet:
    """`stall` at that time; the greenlet may be killed before or during it."""
    return gevent.spawn_later(max(at_unix - time.time(), 0), stall, pid, seconds)


def stall(pid: int, seconds: float) -> None:
    """SIGSTOP, then SIGCONT, whatever comes between."""
    stopped: list[psutil.Process] = []
    try:
        for process in processes(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                stopped.append(process)
        gevent.sleep(seconds)
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
