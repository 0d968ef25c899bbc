"""Whether a worker of `--processes` still runs: asked of the system, not of its heartbeats.

A worker on another host is known by Locust's heartbeats alone. Three in three seconds, which Locust
wants, a machine with other work does not let every process send.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

HEARTBEATS = 30  # seconds of silence until Locust calls a worker missing


def ended(process: int) -> bool:
    """Whether that child of this process has ended; it stays Locust's to wait for."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True  # waited for already


def dead(workers: Iterable[tuple[str, int]]) -> set[str]:
    """Those of (worker, process) whose process has ended."""
    return {worker for worker, process in workers if ended(process)}
