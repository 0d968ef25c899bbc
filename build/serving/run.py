"""Runs tritonserver: starts it, again if the start hangs, drains it, stops it, cleans up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import host.room_paths  # noqa: F401
from host.output_folder import write_whole_file
from serve_signals import ANSWER, DIRECTORY_VARIABLE, KILLED, OPEN, REQUEST

from serving.cleanup import STUB_GRACE_S, remove_dead_servers, watched_folder, write_note
from serving.find_triton import TritonInstallation
from serving.gateway_process import GatewayProcess
from serving.processes import end_with_parent, region_option, remove_leftovers, stubs_of
from serving.start_stop import StartWatch, StopWatch

# Triton quotes the message and writes a line break in it as the two characters \\n.
LOAD_FAILURE = re.compile(
    r"failed to load '(\w+)' version \d+: [\w ]+: (?:TritonModelException: )?(.*?)(?:\\n|\"?$)"
)
# What Triton waits for while it stops, once a second; some versions write no quotation marks.
FOUND = re.compile(r"Timeout \d+: Found ([^\"\n]+)")
ATTEMPTS = 3
LOOK_S = 0.5
DRAIN_LOOK_S = 0.05


@dataclass(frozen=True)
class Settings:
    """How to run the server."""

    command: list[str]
    drain_s: float
    start_limit_s: float
    address: tuple[str, int]  # of the HTTP frontend
    gateway: tuple[str, ...] = ()  # its command line, if there is one


@dataclass(frozen=True)
class End:
    """How a tritonserver ended."""

    code: int  # as of subprocess: below 0, a signal
    error: str  # a sentence, or empty
    failed_start: str  # a clause: why another start may succeed; empty if it would not


def run(triton: TritonInstallation, settings: Settings) -> int:
    """Run Triton to its end and clean up; returns its exit code, or 128 + the signal's number."""
    print(f"tritonserver from {triton.origin}", flush=True)
    signals = SignalPassing()
    gateway = GatewayProcess(settings.gateway)
    try:
        remove_dead_servers()
        with watched_folder() as folder:
            end = _start_until_it_runs(triton, settings, folder, signals, gateway)
    finally:
        gateway.end()
        signals.restore()
    if end.error:
        print(f"error: {end.error}", file=sys.stderr, flush=True)
    return end.code if end.code >= 0 else 128 - end.code


def _start_until_it_runs(
    triton: TritonInstallation,
    settings: Settings,
    folder: Path,
    signals: SignalPassing,
    gateway: GatewayProcess,
) -> End:
    end = End(0, "", "")
    for attempt in range(1, ATTEMPTS + 1):
        if signals.number is not None:
            return End(-signals.number, f"stopped by signal {signals.number} while it started", "")
        server = Server(triton, settings, folder, f"start-{attempt}", gateway)
        signals.pass_to(server.process, server.drain)
        server.attend()
        end = server.end()
        if not end.failed_start or signals.number is not None:
            return end
        if attempt < ATTEMPTS:
            print(
                f"tritonserver did not start: {end.failed_start}; "
                f"trying again, attempt {attempt + 1} of {ATTEMPTS}",
                flush=True,
            )
    return End(
        1,
        f"tritonserver did not start in {ATTEMPTS} attempts: {end.failed_start}; see its log "
        "above, and give a slow machine more time with --start-timeout",
        "",
    )


class Server:
    """One tritonserver, from its start until all its processes have ended."""

    def __init__(
        self,
        triton: TritonInstallation,
        settings: Settings,
        folder: Path,
        name: str,
        gateway: GatewayProcess,
    ) -> None:
        self._folder, self._gateway = folder, gateway
        self._rooms_folder = folder / name  # a start must not see the previous one's signs
        self._rooms_folder.mkdir()
        self._start = StartWatch(self._rooms_folder, settings.start_limit_s, settings.address)
        self._stop = StopWatch(self._rooms_folder)
        self._stuck = ""  # one clause: why its start was given up
        self._overdue = ""  # one clause: why its stop was cut short
        self.drain = Drain(self._rooms_folder, settings.drain_s, gateway)
        self.process = subprocess.Popen(
            [*settings.command, region_option(folder.name)],
            env={**os.environ, **triton.environment, DIRECTORY_VARIABLE: str(self._rooms_folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A session of its own: a terminal's Ctrl-C reaches serve.py alone, which drains first.
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        self._log = LogPassing(self.process)

    def attend(self) -> None:
        """Return when the server and all its processes have ended."""
        try:
            write_note(self._folder, self.process.pid)
            while self.process.poll() is None:
                self.drain.stop_when_done(self.process)
                if self.drain.stopped:
                    self._check_stop()
                elif not (self._start.started or self.drain.asked or self._stuck):
                    self._check_start()
                elif self._start.started:
                    self._gateway.attend()
                self._rest()
        finally:
            grace_s = 0 if self._stuck or self._overdue else STUB_GRACE_S
            remove_leftovers(self.process.pid, self._folder.name, grace_s)
        self._log.finish()

    def _check_start(self) -> None:
        self._stuck = self._start.check(stubs_of(self.process.pid))
        if self._stuck:
            self.process.kill()
        elif self._start.started:
            print("tritonserver is ready", flush=True)

    def _check_stop(self) -> None:
        overdue = self._stop.check(stubs_of(self.process.pid), self._log.found)
        if overdue and not self._overdue:
            self._overdue = overdue
            os.killpg(self.process.pid, signal.SIGKILL)  # with its stubs, which would complain

    def _rest(self) -> None:
        """Wait until the server has ended or the next check is due."""
        until = time.monotonic() + LOOK_S
        while self.process.poll() is None and time.monotonic() < until:
            time.sleep(DRAIN_LOOK_S)
            if self.drain.asked and not self.drain.stopped:
                return

    def end(self) -> End:
        """How the server ended."""
        code = self.process.returncode
        if (self._rooms_folder / KILLED).exists():
            warning = "warning: the engine did not end in time and was killed"
            print(warning, file=sys.stderr, flush=True)
        if code == -signal.SIGKILL and self._overdue:
            error = f"tritonserver was ended: {self._overdue}"
            if self.drain.was_idle and self._stop.waits_for_clients:
                print(error, flush=True)
                return End(0, "", "")
            return End(code, error, "")
        if code == 0:
            return End(0, "", "")
        if not (self._stuck or self._start.started) and code == -signal.SIGABRT:
            # Triton 2.51 does so if a stub is not scheduled for a second while it holds a lock.
            self._stuck = "it ended with signal 6"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self.drain.stopped and self._stop.models:
            how += f" before its models {', '.join(self._stop.models)}, which were killed"
        error = self._log.load_failure or f"tritonserver ended with {how}; see its log above"
        return End(code, error, self._stuck)


class Drain:
    """Finishes the requests in flight before Triton is stopped, as serve_signals.py explains."""

    def __init__(
        self, directory: Path, seconds: float, gateway: GatewayProcess | None = None
    ) -> None:
        self.directory = directory
        self._seconds = seconds
        self._gateway = gateway or GatewayProcess()
        self._asked_at, self._deadline = 0.0, float("inf")
        self._requested = False
        self.asked = False
        self.stopped = False  # Triton got SIGTERM
        self.was_idle = False  # nothing was in flight at that moment

    def ask(self) -> None:
        """Ask the gateway, then the engine's room to drain; safe in a signal handler."""
        self.asked = True
        self._asked_at = time.monotonic()
        self._gateway.ask_to_end()
        self._ask_room()

    def _ask_room(self) -> None:
        left = max(self._asked_at + self._seconds - time.monotonic(), 0.0)
        if self._gateway.runs and left:
            return
        self._requested = True
        self._deadline = time.monotonic() + left + STUB_GRACE_S
        write_whole_file(self.directory / REQUEST, str(left))

    def stop_when_done(self, process: subprocess.Popen[bytes]) -> None:
        """Stop Triton when nothing is in flight, or when the room does not answer in time."""
        if not self.asked or self.stopped:
            return
        if not self._requested:
            self._ask_room()
            if not self._requested:
                return
        # Before the engine's room is open, nothing is in flight.
        idle = (self.directory / ANSWER).exists() or not (self.directory / OPEN).exists()
        if idle or time.monotonic() > self._deadline:
            process.send_signal(signal.SIGTERM)
            self.stopped, self.was_idle = True, idle


class SignalPassing:
    """The first SIGINT or SIGTERM starts the drain, the second one kills Triton."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the first one
        self._process: subprocess.Popen[bytes] | None = None
        self._drain: Drain | None = None
        self._before = {
            number: signal.signal(number, self._pass_on)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def pass_to(self, process: subprocess.Popen[bytes], drain: Drain) -> None:
        """Pass signals on to this server from now on."""
        self._process, self._drain = process, drain
        if self.number is not None and not drain.asked:  # the signal came between two servers
            drain.ask()

    def restore(self) -> None:
        """Restore the earlier handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            if self._drain is not None:
                self._drain.ask()
        elif self._process is not None:
            self._process.kill()


class LogPassing:
    """Copies Triton's log to our output and keeps what serve.py must know."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.load_failure = ""  # the sentence that says why a model did not load
        self.found = ""  # what Triton waits for in its stop: "1 HTTP service connections"
        self._process = process
        # A daemon: a stub that outlives the server holds the pipe open.
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last lines."""
        self._thread.join(STUB_GRACE_S)

    def _pass_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # If nobody reads our output any more, Triton must still not block on a full pipe.
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            text = line.decode(errors="replace")
            if found := FOUND.search(text):
                self.found = found[1]
            if failure := LOAD_FAILURE.search(text):
                self.load_failure = f"{failure[1]} cannot be loaded: {failure[2]}"
