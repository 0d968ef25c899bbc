"""The master's side of a run: prepare, start the workers' rounds, collect, judge, print.

Locust starts and stops the run, but the master decides when a round is over, so that requests in
flight are drained and counted before Locust ends anything. Without workers elsewhere, one process
is both master and worker.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import gevent
from command_line.arguments import command_line
from command_line.interrupts import EXIT_LEFT, NOTHING, StoppedEarly
from command_line.options import OptionError, RunOptions
from figures.results import RunResults
from figures.server_samples import ServerSampler, metrics_url
from figures.slo import EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INVALID, EXIT_OK, exit_code
from output.csv_files import SUMMARY_CSV
from output.page import report_page
from output.read_run import HEADER, SUMMARY, RunFiles
from output.terminal import complain, say
from output.terminal_table import run_table
from output.write_run import RunOutput
from report import PAGE, write_report
from searches.find_max_rate import Found, curve, find_max_rate
from searches.rate_trial import Trial, lengthened
from sending.messages import Prepared
from sending.sender_process import SenderProcess
from traffic.mix import REPLAY
from traffic.replay import left_out

from rounds.host_clock import Offset, clock_note
from rounds.master_round import RoundWatch
from rounds.stall import processes, stall_later
from rounds.worker import DONE, RATE, REPORT, ROUND
from rounds.workers import Workers

START_AFTER_S = 0.5  # all workers have their plans by then
ALONE_AFTER_S = 0.2  # without workers elsewhere
RATE_CHANGE_AFTER_S = 0.5
JOIN_S = 15.0
USERS_S = 60.0
PROGRESS_S = 5.0


class Master:
    """Runs the load test. `results` are those of the current round so far."""

    def __init__(self, environment: Any, sender: SenderProcess) -> None:
        self.environment = environment
        self._sender = sender
        self.runner = environment.runner
        self.results = RunResults()
        self.output: RunOutput | None = None
        self.sampler: ServerSampler | None = None
        self._watch: RoundWatch | None = None
        self._greenlet: Any = None
        self._preparing = False  # until the first round is watched
        self._stopping = False
        self._users = 0
        self._round_number = 0
        self._phase, self._shown_at = "not started", 0.0
        self._trials: list[Trial] = []  # of a search
        self._workers = Workers(self.runner)
        self.runner.register_message(REPORT, self._on_report)
        self.runner.register_message(DONE, self._on_done)

    def start(self) -> None:
        """Locust's test begins."""
        if self._greenlet is not None:
            self._greenlet.join(timeout=JOIN_S)
        self._stopping, self._users, self._preparing = False, 0, True
        self._phase, self._shown_at = "asking the server", time.monotonic()
        # The web UI's timer starts now; the load starts later, and ends by itself.
        if cancel := getattr(self.environment.web_ui, "_cancel_run_time_timer", None):
            cancel()
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Locust stops the test: send nothing more, drain what is in flight."""
        self._stop(drain=True)

    def leave(self) -> None:
        """The process ends: abandon what is in flight, keep the results so far."""
        self._stop(drain=False)
        if self._greenlet is not None and self._greenlet is not gevent.getcurrent():
            self._greenlet.join(timeout=JOIN_S)

    def users_changed(self, users: int) -> None:
        """An open loop's rate follows the number of users, live."""
        watch, before = self._watch, self._users
        if not before or watch is None or watch.options.closed_loop:
            self._users = users
            if watch is not None and before and before != users:
                self._changed(f"the users were changed to {users} at {watch.now():.0f} s")
            return
        rate = watch.options.rate * users / self._users
        if users and rate != watch.rate:
            at = time.time() - watch.started_unix + RATE_CHANGE_AFTER_S
            watch.rate = rate
            self.runner.send_message(RATE, {"at": at, "rate": rate})
            self._changed(f"the rate was changed to {rate:g} requests/s at {at:.0f} s")

    @property
    def begun(self) -> bool:
        """Whether Locust has started a test, which it does once the workers are connected."""
        return self._greenlet is not None

    @property
    def phase(self) -> str:
        """What the run is doing now, for people."""
        return self._watch.phase() if self._watch else self._phase

    def _show(self, phase: str) -> None:
        """Show a step before the load, and print it if the steps take long."""
        self._phase = phase
        if time.monotonic() - self._shown_at > PROGRESS_S:
            self._shown_at = time.monotonic()
            say(phase)

    def summary(self) -> dict[str, Any]:
        """The round's summary so far, with the server's part."""
        summary = self.results.summary(self._watch.measured_s() if self._watch else None)
        if self.sampler is not None:
            metrics = summary["metrics"]
            summary["server"] = self.sampler.summary(
                metrics["ttft"]["mean"], metrics["send_lag"]["mean"]
            )
        return summary

    def live(self) -> dict[str, Any]:
        """The summary so far, with the phase."""
        return {**self.summary(), "phase": self.phase}

    def _changed(self, sentence: str) -> None:
        """Record in the header that the load has changed."""
        self.results.note(sentence)
        self.results.header["changes"].append(sentence)

    def _stop(self, drain: bool) -> None:
        self._stopping = True
        if self._watch is not None:
            self._watch.stop(drain)
        elif self._preparing and self._greenlet is not None:
            self._preparing = False
            self._greenlet.kill(StoppedEarly, block=False)

    def _run(self) -> None:
        try:
            self._run_whole()
        except StoppedEarly:
            self._end(EXIT_LEFT, NOTHING)
        except Exception as error:
            # Otherwise Locust would wait forever.
            self._end(EXIT_INVALID, f"the run broke off: {type(error).__name__}: {error}")
            raise
        finally:
            self._preparing = False

    def _run_whole(self) -> None:
        try:
            given = command_line(self.environment.parsed_options)
            options, self._unused = given.options, given.unused
            if options.stall:
                processes(options.stall_pid)
            prepared = self._sender.call("prepare", options, hear=self._show)
            self._show("the workers are making their prompts")
            self._workers.prepare(options)
            for sentence in self._unused:
                say(sentence)
            self._await_users(options)
            self.output = open_output(options.output, options.records)
        except ValueError as error:
            self._end(EXIT_BAD_INPUT, f"error: {error}")
            return
        try:
            self._load(options, prepared)
        finally:
            self.output.close()

    def _load(self, options: RunOptions, prepared: Prepared) -> None:
        assert self.output is not None
        if options.find_max_rate:
            self._trials = []
            found = find_max_rate(
                lambda rate, whole: self._trial(options, prepared, rate, whole), options.rate
            )
            self._end(*self._tell_found(found))
            return
        self._round(options, prepared, options.rate)
        summary = self.summary()
        self.output.write_summary(summary)
        # From memory: a full disk may hold less.
        page = report_page(RunFiles(str(self.output), summary, self.results))
        self.output.write_text(PAGE, page)
        code = exit_code(summary, whole=not self.output.not_whole)
        self._end(code, f"{run_table(summary)}\n{self.output.told(PAGE, SUMMARY, SUMMARY_CSV)}")

    def _trial(
        self, options: RunOptions, prepared: Prepared, rate: float, whole: bool
    ) -> Trial | None:
        if self._stopping:
            return None
        asked_s = options.load_s
        if whole:
            options, needed_s = lengthened(options, rate, self._e2e_s(rate))
            if needed_s > options.load_s:
                return Trial.too_long(rate, needed_s)
        longer = options.load_s > asked_s
        told = f", for {options.load_s:.0f} s, which its percentiles need"
        say(f"\nrate {rate:.3g} requests/s{told if longer else ''}")
        suffix = f"-{rate:.3g}"
        watch = self._round(options, prepared, rate, suffix, until_broken=True)
        if self._stopping:
            return None
        summary = self.summary()
        trial = Trial.of(rate, self.results, watch.planned, stopped_early=bool(watch.broken))
        self._trials.append(trial)
        summary |= {"held": trial.held, "decided": trial.decided}
        assert self.output is not None
        self.output.write_summary(summary, suffix)
        return trial

    def _e2e_s(self, rate: float) -> float:
        """Seconds a request takes: by the trial at this rate, or else by the fastest trial."""
        there = [each for each in self._trials if each.e2e_s]
        return max(
            (each.e2e_s for each in there if each.rate == rate),
            default=min((each.e2e_s for each in there), default=0.0),
        )

    def _tell_found(self, found: Found) -> tuple[int, str]:
        lines = ["", curve(found.trials)]
        if found.rate is None:
            unknown = "it is not known which rate holds the SLOs"
            lines.append(f"{'no rate held the SLOs' if found.told else unknown}: {found.why}")
        else:
            lines.append(f"highest rate that held the SLOs: {found.rate:.3g}/s ({found.why})")
        assert self.output is not None
        try:
            write_report(self.output.folder)
            lines.append(self.output.told(PAGE, *(["summary-RATE.json"] if found.trials else [])))
        except OSError as error:
            self.output.lost(PAGE, error)
            lines.append(self.output.told("summary-RATE.json"))
        except ValueError as error:
            lines.append(f"{self.output.told()} (no report: {error})")
        code = EXIT_OK if found.rate is not None else EXIT_BROKEN if found.told else EXIT_INVALID
        whole = not self.output.not_whole
        return (code if whole or code else EXIT_BROKEN), "\n".join(lines)

    def _round(
        self,
        options: RunOptions,
        prepared: Prepared,
        rate: float,
        suffix: str = "",
        until_broken: bool = False,
    ) -> RoundWatch:
        """Run one round on all workers; its results are then in `results`."""
        self._round_number += 1
        workers = self._workers.alive()
        # For every round: a search takes hours, and clocks are set meanwhile.
        offsets = self._workers.clock_offsets()
        header = self._begin_output(options, prepared, rate, len(workers), suffix)
        sampler = self._start_sampler(options, header["started_unix"])
        until_broken = until_broken or options.stop_when_saturated
        self._watch = watch = self._new_watch(options, workers, header, until_broken)
        self._preparing = False
        self._send_plans(options, header, workers, offsets, prepared.unloaded.references)
        self._note_circumstances(options, prepared)
        if self._stopping:  # since the round before, when there was none to stop
            watch.stop(drain=False)
        stall = self._stall_later(options, header["started_unix"])
        try:
            watch.wait()
            self._note_left_out(prepared)
        finally:
            if stall is not None:
                stall.kill()
            sampler.stop()
            self._watch = None
        return watch

    def _new_watch(
        self,
        options: RunOptions,
        workers: Sequence[str],
        header: Mapping[str, Any],
        until_broken: bool,
    ) -> RoundWatch:
        return RoundWatch(
            self.runner,
            self.results,
            options,
            self._round_number,
            workers,
            header["started_unix"],
            header["rate"],
            until_broken,
            self._workers,
        )

    def _begin_output(
        self, options: RunOptions, prepared: Prepared, rate: float, workers: int, suffix: str
    ) -> dict[str, Any]:
        """Begin the round's files and results; returns its header."""
        assert self.output is not None
        wait_s = START_AFTER_S if self._workers.elsewhere else ALONE_AFTER_S
        header = prepared.header(options, rate, time.time() + wait_s, workers)
        self.results = RunResults(header)
        self.output.begin(suffix)
        self.output.write_json(HEADER, header)
        # A slow disk, which a header waits for, must not make requests late.
        header["started_unix"] = max(header["started_unix"], time.time() + wait_s / 2)
        return header

    def _start_sampler(self, options: RunOptions, started_unix: float) -> ServerSampler:
        assert self.output is not None
        self.sampler = ServerSampler(
            metrics_url(options.metrics_url, options.url),
            started_unix,
            options.warmup_s,
            keep=self.output.write_sample,
        )
        self.sampler.start()
        return self.sampler

    def _send_plans(
        self,
        options: RunOptions,
        header: dict[str, Any],
        workers: Sequence[str],
        offsets: Mapping[str, Offset],
        references: dict[str, str],
    ) -> None:
        for index, worker in enumerate(workers):
            offset = offsets.get(worker, Offset(0.0, 0.0))
            if note := clock_note(str(index), offset):
                self.results.note(note)
            plan = {
                "number": self._round_number,
                "options": options.to_dict(),
                "header": header,
                "started_unix": header["started_unix"] + offset.seconds,  # by its own clock
                "index": index,
                "count": len(workers),
                "name": str(index),
                "rate": header["rate"],
                "references": references,
            }
            self._workers.send(ROUND, plan, worker)
        if not workers:
            self.results.note("no worker was left: nothing was sent", voids=True)

    def _note_circumstances(self, options: RunOptions, prepared: Prepared) -> None:
        for sentence in [*self._unused, prepared.unloaded.note]:
            if sentence:
                self.results.note(sentence)
        users = self.runner.user_count
        if options.closed_loop and users < options.users:
            self.results.note(
                f"{users} of {options.users} users were there when the load began; the others "
                f"came {options.spawn_rate:g} a second (--spawn-rate)"
            )

    def _stall_later(self, options: RunOptions, started_unix: float) -> Any:
        """The greenlet that will stop the server, or None."""
        times = options.stall_times()
        if times is None:
            return None
        at, seconds = times
        self.results.note(f"the server was stopped at {at:g} s for {seconds:g} s")
        return stall_later(started_unix + at, options.stall_pid, seconds)

    def _note_left_out(self, prepared: Prepared) -> None:
        traffic = self.results.normal(REPLAY).counts
        sent = traffic["scheduled"] + traffic["warmup"]
        if prepared.recorded and (told := left_out(prepared.recorded, sent, traffic["warmup"])):
            self.results.note(told)

    def _await_users(self, options: RunOptions) -> None:
        """All of a closed loop's users, unless they are asked to come one after the other."""
        if not options.closed_loop or options.spawn_rate:
            return
        self._show("the users are starting")
        deadline = time.monotonic() + USERS_S
        while self._users < options.users:
            if time.monotonic() > deadline:
                raise OptionError(
                    f"{self._users} of {options.users} users started within {USERS_S:.0f} s"
                )
            gevent.sleep(0.05)

    def _end(self, code: int, text: str) -> None:
        self._phase = text if code in (EXIT_BAD_INPUT, EXIT_LEFT) else "ended"
        (complain if code == EXIT_BAD_INPUT else say)(text)
        self.environment.process_exit_code = code
        web = getattr(self.environment, "web_ui", None)
        gevent.spawn(self.runner.stop if web else self.runner.quit)

    def _on_report(self, environment: Any, msg: Any, **_: Any) -> None:
        watch = self._watch
        if watch is None or msg.data["round"] != watch.number:
            return
        if self.output is not None:
            self.output.write_records(msg.data["records"])
        watch.report(msg.data)

    def _on_done(self, environment: Any, msg: Any, **_: Any) -> None:
        if self._watch is not None and msg.data["round"] == self._watch.number:
            self._watch.done(msg.data["id"], msg.data["problem"])


def open_output(folder: str, records: bool) -> RunOutput:
    """As `RunOutput`; raises `OptionError` where the folder cannot be written."""
    try:
        return RunOutput(folder, records)
    except OSError as error:
        raise OptionError(
            f"--output {error.filename} cannot be written: {error.strerror}"
        ) from error
