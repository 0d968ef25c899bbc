"""A worker's side of the run: has its sender prepare, load and report when the master says so.

Without workers elsewhere, one process is both; Locust's local runner then delivers every message.
"""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import gevent
from command_line.options import RunOptions
from locust.runners import WorkerRunner
from sending.messages import Report, RoundPlan
from sending.sender_process import SenderError, SenderProcess

from rounds.host_clock import CLOCK, CLOCK_TOLD

PREPARE, PREPARED = "llama_prepare", "llama_prepared"
ROUND, REPORT, DONE = "llama_round", "llama_report", "llama_done"
RATE, STOP = "llama_rate", "llama_stop"
LEAVE_S = 5.0


class Worker:
    """One per Locust process that loads."""

    def __init__(self, environment: Any, sender: SenderProcess) -> None:
        self._environment = environment
        self._runner = environment.runner
        self._sender = sender
        self._alone = not hasattr(self._runner, "master_host")  # no master elsewhere
        self._child = not self._alone and bool(environment.parsed_options.processes)
        self._master = os.getppid()
        self._asked = 0.0  # time stamp of the master's last PREPARE
        self._users = 0
        self._greenlet: Any = None
        listeners = {
            CLOCK: self._tell_time,
            PREPARE: self._prepare,
            ROUND: self._begin,
            RATE: self._change,
            STOP: self._end,
        }
        for name, listener in listeners.items():
            self._runner.register_message(name, listener)

    def users_changed(self, more: int) -> None:
        """A user came (1) or left (-1); only a closed loop uses the number."""
        self._users += more
        self._sender.send("set_users", self._users)

    def wait(self) -> None:
        """Wait until the round ends, as the master orders, but not forever."""
        if self._greenlet is not None:
            self._greenlet.join(timeout=LEAVE_S)

    def leave(self) -> None:
        """The process ends: abandon what is in flight, and report the rest."""
        if self._greenlet is not None:
            self._sender.send("stop", False)
            self.wait()

    def _tell_time(self, environment: Any, msg: Any, **_: Any) -> None:
        answer = {"asked": msg.data["asked"], "told": time.time(), "id": self._runner.client_id}
        self._runner.send_message(CLOCK_TOLD, answer)

    def _prepare(self, environment: Any, msg: Any, **_: Any) -> None:
        if msg.data["asked"] != self._asked:  # the master repeats it until it gets an answer
            self._asked = msg.data["asked"]
            gevent.spawn(self._prepare_now, RunOptions.from_dict(msg.data["options"]))

    def _prepare_now(self, options: RunOptions) -> None:
        problem = ""
        if not self._alone:
            # The master has reached the server, but this worker may be on another host.
            try:
                problem = self._sender.call("make_ready", options)
            except SenderError as error:
                problem = str(error)
            problem = problem and f"on the worker's host {platform.node()}, {problem}"
        told = {"problem": problem, "id": self._runner.client_id}
        # The master watches the process of its own child.
        self._runner.send_message(PREPARED, told | {"process": os.getpid() if self._child else 0})

    def _begin(self, environment: Any, msg: Any, **_: Any) -> None:
        document = dict(msg.data)
        document["options"] = RunOptions.from_dict(document["options"])
        self._greenlet = gevent.spawn(self._load, RoundPlan(**document))

    def _load(self, plan: RoundPlan) -> None:
        done = {"round": plan.number, "id": self._runner.client_id, "problem": ""}
        try:
            self._sender.start()  # again, if it died in the round before
            self._sender.send("set_users", self._users)
            self._sender.call("load", plan, hear=lambda report: self._report(plan.number, report))
        except (SenderError, OSError) as error:
            done["problem"] = str(error)
        finally:
            if isinstance(self._runner, WorkerRunner):
                # Locust waits only 0.5 s for its own figures.
                self._runner._send_stats()
            self._runner.send_message(DONE, done)

    def _report(self, number: int, report: Report) -> None:
        for event in report.events:
            problem = RuntimeError(event["exception"]) if event["exception"] else None
            self._environment.events.request.fire(**event | {"exception": problem}, context={})
        self._runner.send_message(
            REPORT,
            {
                "round": number,
                "id": self._runner.client_id,
                "results": report.results if self._alone else report.results.encode(),
                "records": "\n".join(report.lines),
                "gauges": report.gauges,
            },
        )
        if self._child and os.getppid() != self._master:
            # The master was killed: nobody else would end this load.
            self._sender.send("stop", False)
            gevent.spawn(self._runner.quit)  # which ends this greenlet

    def _change(self, environment: Any, msg: Any, **_: Any) -> None:
        self._sender.send("change_rate", msg.data["at"], msg.data["rate"])

    def _end(self, environment: Any, msg: Any, **_: Any) -> None:
        self._sender.send("stop", msg.data["drain"])
