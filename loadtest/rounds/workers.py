"""The workers as the master sees them: which are alive, what they answer, how to reach each.

Without workers elsewhere, the one process is its own worker.
"""

from __future__ import annotations

import os
import time
from typing import Any

import gevent
from command_line.options import OptionError, RunOptions

from rounds.host_clock import HostClocks, Offset
from rounds.worker import PREPARE, PREPARED

# Seconds of silence until Locust calls a worker missing. It sends a heartbeat a second and allows
# three; a busy machine does not let every process send in time.
HEARTBEATS = 30
PREPARE_S = 120.0
ASK_AGAIN_S = 2.0  # a worker does not hear what comes before Locust's init event
POLL_S = 0.05


class Workers:
    """The workers of one master."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._problems: dict[str, str] = {}  # worker id -> why it cannot load, or ""
        self._processes: dict[str, int] = {}  # worker id -> its process, of --processes
        self._clocks = HostClocks(runner)
        runner.register_message(PREPARED, self._on_prepared)

    @property
    def elsewhere(self) -> bool:
        """Whether the workers are processes other than this one."""
        return hasattr(self._runner, "clients")

    def alive(self) -> list[str]:
        """Their ids, in the order of Locust's worker index.

        A child of `--processes` is alive as long as its process runs; another worker as long as
        Locust gets its heartbeats.
        """
        if not self.elsewhere:
            return [self._runner.client_id]
        ended = {worker for worker, process in self._processes.items() if _has_ended(process)}
        alive = [
            each.id
            for each in self._runner.clients.all
            if each.state != "missing" and each.id not in ended
        ]
        return sorted(alive, key=self.index)

    def index(self, worker: str) -> int:
        """Locust's number of the worker, from 0."""
        return int(self._runner.get_worker_index(worker)) if self.elsewhere else 0

    def send(self, name: str, data: dict[str, Any], worker: str) -> None:
        """A message to one of them."""
        if self.elsewhere:
            self._runner.send_message(name, data, worker)
        else:
            self._runner.send_message(name, data)

    def prepare(self, options: RunOptions) -> None:
        """Have each get ready to load; raises `OptionError` if one cannot."""
        self._problems = {}
        asked = {"options": options.to_dict(), "asked": time.time()}
        workers = set(self.alive())
        ask_at = time.monotonic()
        deadline = ask_at + PREPARE_S
        while missing := workers & set(self.alive()) - set(self._problems):
            now = time.monotonic()
            if now > deadline:
                raise OptionError(f"a worker was not ready within {PREPARE_S:.0f} s")
            if now >= ask_at:
                ask_at += ASK_AGAIN_S
                for worker in missing:
                    self.send(PREPARE, asked, worker)
            gevent.sleep(POLL_S)
        for problem in filter(None, self._problems.values()):
            raise OptionError(problem)

    def clock_offsets(self) -> dict[str, Offset]:
        """By worker id, measured now; a worker that does not answer is left out."""
        return self._clocks.offsets(self.alive, self.send)

    def _on_prepared(self, environment: Any, msg: Any, **_: Any) -> None:
        self._problems[msg.data["id"]] = msg.data["problem"]
        if process := msg.data["process"]:
            self._processes[msg.data["id"]] = process


def _has_ended(process: int) -> bool:
    """Whether that child of this process has ended; Locust still has to wait for it."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True  # waited for already
