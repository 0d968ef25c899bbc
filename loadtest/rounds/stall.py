"""Stops the server's processes for a while, then lets them continue."""

from __future__ import annotations

import contextlib
import time

import gevent
import psutil


def processes(pid: int) -> list[psutil.Process]:
    """The process and its descendants; raises ValueError if it does not exist."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        raise ValueError(f"--stall-pid is {pid}, there is no such process") from None


def stall_later(at_unix: float, pid: int, seconds: float) -> gevent.Greenlet:
    """Run `stall` at that time; the greenlet may be killed before or during it."""
    return gevent.spawn_later(max(at_unix - time.time(), 0), stall, pid, seconds)


def stall(pid: int, seconds: float) -> None:
    """Send SIGSTOP, and SIGCONT after `seconds` or when killed."""
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
