"""A worker's side of the run: prepares, loads and reports when the master says so.

Without workers the same process is both; Locust's local runner then hands every message over.
"""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import gevent
from figures.record import NORMAL, RequestRecord
from locust.runners import WorkerRunner

from rounds import sdk
from rounds.host_clock import CLOCK, CLOCK_TOLD
from rounds.options import RunOptions
from rounds.prepare import first_problem
from rounds.source import LoadSource
from rounds.worker_round import LoadRound, RoundPlan

PREPARE, PREPARED = "llama_prepare", "llama_prepared"
ROUND, REPORT, DONE = "llama_round", "llama_report", "llama_done"
RATE, STOP = "llama_rate", "llama_stop"
REPORT_S = 1.0
LEAVE_S = 5.0


class Agent:
    """One per process that sends requests."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._runner = environment.runner
        self._alone = not hasattr(self._runner, "master_host")  # no master elsewhere
        self._child = not self._alone and bool(environment.parsed_options.processes)
        self._client: sdk.Client | None = None
        self._url = ("", "")
        self._source: LoadSource | None = None
        self._round: LoadRound | None = None
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

    def user_turn(self) -> None:
        """What a Locust user does: a closed loop's request; in an open loop it only counts."""
        current = self._round
        closed = current is not None and current.plan.options.closed_loop
        if current is None or not closed or not current.closed_request():
            gevent.sleep(0.05)

    def wait(self) -> None:
        """For the end of what runs, which the master tells, but not for ever."""
        if self._greenlet is not None:
            self._greenlet.join(timeout=LEAVE_S)

    def leave(self) -> None:
        """The process ends: leave what runs, and report the rest."""
        if self._round is not None and self._greenlet is not None:
            self._round.stop(drain=False)
            self._greenlet.join(timeout=LEAVE_S)

    def _tell_time(self, environment: Any, msg: Any, **_: Any) -> None:
        answer = {"asked": msg.data["asked"], "told": time.time(), "id": self._runner.client_id}
        self._runner.send_message(CLOCK_TOLD, answer)

    def _prepare(self, environment: Any, msg: Any, **_: Any) -> None:
        gevent.spawn(self._prepare_now, RunOptions.from_dict(msg.data["options"]))

    def _prepare_now(self, options: RunOptions) -> None:
        problem = ""
        try:
            self._source = LoadSource(options)
        except ValueError as error:
            problem = str(error)
        if self._url != (options.url, options.model):
            if self._client is not None:
                self._client.close()
            self._client = sdk.open_client(options.url, options.model)
            self._url = (options.url, options.model)
        if not self._alone and self._client is not None:
            # The master has reached the server; from another host that says nothing.
            problem = problem or first_problem(self._client, options)
            problem = problem and f"on the worker's host {platform.node()}, {problem}"
        told = {"problem": problem, "id": self._runner.client_id}
        # Of a child of the master's the process, whose end the master sees.
        self._runner.send_message(PREPARED, told | {"process": os.getpid() if self._child else 0})

    def _begin(self, environment: Any, msg: Any, **_: Any) -> None:
        document = dict(msg.data)
        document["options"] = RunOptions.from_dict(document["options"])
        self._greenlet = gevent.spawn(self._load, RoundPlan(**document))

    def _load(self, plan: RoundPlan) -> None:
        assert self._source is not None, "prepare comes before a round"
        assert self._client is not None, "prepare comes before a round"
        current = self._round = LoadRound(plan, self._source, self._client, self._fire)
        reporter = gevent.spawn(self._report_on, current)
        try:
            current.run()
        finally:
            reporter.kill()
            self._report(current)
            self._round = None  # first: who hears that it is done may begin the next one
            if isinstance(self._runner, WorkerRunner):
                # Else Locust's own figures may come too late: it waits for them for 0.5 s.
                self._runner._send_stats()
            self._runner.send_message(DONE, {"round": plan.number, "id": self._runner.client_id})

    def _report_on(self, current: LoadRound) -> None:
        parent = os.getppid()
        while True:
            gevent.sleep(REPORT_S)
            self._report(current)
            if self._child and os.getppid() != parent:
                # The master was killed: nobody would end this load, and nobody hears of it.
                current.stop(drain=False)
                gevent.spawn(self._runner.quit)  # which ends this greenlet
                return

    def _report(self, current: LoadRound) -> None:
        delta, lines = current.take()
        self._runner.send_message(
            REPORT,
            {
                "round": current.plan.number,
                "id": self._runner.client_id,
                # Encoding and decoding in the one process would stop its event loop for 10 ms.
                "results": delta if self._alone else delta.encode(),
                "records": "\n".join(lines),
                "gauges": current.gauges(),
            },
        )

    def _change(self, environment: Any, msg: Any, **_: Any) -> None:
        if self._round is not None:
            self._round.curve.change(msg.data["at"], msg.data["rate"])

    def _end(self, environment: Any, msg: Any, **_: Any) -> None:
        if self._round is not None:
            self._round.stop(drain=msg.data["drain"])

    def _fire(self, record: RequestRecord) -> None:
        """One event a request, so that Locust's own statistics count requests and nothing else."""
        problem = record.error_class or ("Incorrect" if record.correct is False else "")
        self._environment.events.request.fire(
            request_type="gRPC",
            name=record.workload if record.journey == NORMAL else record.journey,
            response_time=(record.elapsed or 0.0) * 1e3,
            response_length=record.num_output_tokens,
            exception=RuntimeError(f"{problem}: {record.error}") if problem else None,
            context={},
        )
