"""Run Triton on a model repository until Ctrl-C.

The tritonserver on PATH is used (NVIDIA's container), else the one in the package nvidia-pytriton.
It listens on 127.0.0.1 unless told otherwise, its log is passed through, and its exit code is
returned. SIGINT and SIGTERM let it finish the requests in flight; a second signal ends it at once.
However it ends, no Python stub and no shared-memory region stays behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

# The room's own module says what both sides write; nothing of the project is installed there.
sys.path.append(str(Path(__file__).resolve().parent.parent / "model_repository/tensorrt_llm/1"))

from build_console import fail
from drain_request import ANSWER, DIRECTORY_VARIABLE, OPEN, REQUEST
from triton_installation import TritonInstallation, TritonNotFound, find_triton
from triton_processes import Stub, end_with_parent, remove_leftovers, stubs_of

ROOT = Path(__file__).resolve().parent.parent
STAGING = ROOT / "build" / "out" / "triton"
# Triton quotes the message and writes a line break in it as the two characters \\n.
LOAD_FAILURE = re.compile(
    r"failed to load '(\w+)' version \d+: [\w ]+: (?:TritonModelException: )?(.*?)(?:\\n|\"?$)"
)
STUB_GRACE_S = 5.0
UNLOAD_S = 5  # after the drain: what the models may take to end
LOOK_S = 0.5
DRAIN_LOOK_S = 0.05


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns Triton's exit code, or 128 + signal if it was killed."""
    options = _parse(arguments)
    check_repository(options.model_repository)
    check_ports(options)
    try:
        triton = find_triton(STAGING)
    except TritonNotFound as error:
        fail(str(error))
    return run(triton, command_line(triton, options), options.exit_timeout)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model-repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument(
        "--host",
        type=_ipv4_address,
        default="127.0.0.1",
        help="IPv4 address or name to listen on (default %(default)s)",
    )
    parser.add_argument("--http-port", type=_port, default=8000, metavar="N")
    parser.add_argument("--grpc-port", type=_port, default=8001, metavar="N")
    parser.add_argument("--metrics-port", type=_port, default=8002, metavar="N")
    parser.add_argument(
        "--exit-timeout",
        type=int,
        default=30,
        metavar="SECONDS",
        help="how long requests in flight may take to end (default %(default)s)",
    )
    return parser.parse_args(arguments)


def _ipv4_address(text: str) -> str:
    """Triton's HTTP frontend takes numbers alone, and binds 255.255.255.255 for a name."""
    try:
        found = socket.getaddrinfo(text, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no IPv4 address and no name of one, allowed are those"
        ) from None
    return str(found[0][4][0])


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, allowed is 1 to 65535")
    return port


def check_repository(repository: Path) -> None:
    """End with one sentence if `repository` has no models or no engine."""
    if not (repository / "ensemble" / "config.pbtxt").is_file():
        fail(
            f"{repository} is no model repository of this project, it has no "
            "ensemble/config.pbtxt; name one with --model-repository"
        )
    engine = repository / "tensorrt_llm" / "1" / "engine" / "engine.json"
    if not engine.is_file():
        fail(f"there is no engine: {engine} does not exist; build one with 'make engine'")


def check_ports(options: argparse.Namespace) -> None:
    """End with one sentence if a port is taken: Triton's own message hides in its log."""
    for name in ("http", "grpc", "metrics"):
        port = getattr(options, f"{name}_port")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except OSError as error:
                fail(
                    f"cannot listen on {options.host}:{port} ({error.strerror}); "
                    f"choose another port with --{name}-port (make: {name.upper()}_PORT=N)"
                )


def command_line(triton: TritonInstallation, options: argparse.Namespace) -> list[str]:
    """Triton's command line for `options`."""
    command = [
        str(triton.binary),
        f"--model-repository={options.model_repository.resolve()}",
        "--model-control-mode=none",
        f"--exit-timeout-secs={UNLOAD_S}",
    ]
    for name in ("http", "grpc", "metrics"):
        command += [
            f"--{name}-address={options.host}",
            f"--{name}-port={getattr(options, name + '_port')}",
        ]
    if triton.backend_directory is not None:
        command.append(f"--backend-directory={triton.backend_directory}")
    return command


def run(triton: TritonInstallation, command: list[str], drain_s: float) -> int:
    """Run Triton to its end and clean up after it."""
    print(f"tritonserver from {triton.origin}", flush=True)
    with tempfile.TemporaryDirectory(prefix="llama-fp4-") as drain_directory:
        return _run(triton, command, Drain(Path(drain_directory), drain_s))


def _run(triton: TritonInstallation, command: list[str], drain: Drain) -> int:
    process = subprocess.Popen(
        command,
        env={**os.environ, **triton.environment, DIRECTORY_VARIABLE: str(drain.directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Of its own session: a terminal's Ctrl-C comes here only, and is passed on in order.
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    signals = _SignalPassing(process, drain)
    log = _LogPassing(process)
    stubs: set[Stub] = set()
    try:
        while process.poll() is None:
            stubs |= stubs_of(process.pid)
            drain.stop_when_done(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DRAIN_LOOK_S if drain.asked else LOOK_S)
        code = process.returncode
        if code == 1 and drain.was_idle:
            # Triton waits UNLOAD_S for idle keep-alive connections, and for requests that its
            # gRPC frontend has forgotten, and calls that a failure. Nothing was in flight.
            print("tritonserver gave up waiting for connections of idle clients", flush=True)
            code = 0
    finally:
        remove_leftovers(process.pid, stubs, STUB_GRACE_S)
        signals.restore()
    log.finish()
    if code != 0:
        reason = log.load_failure or f"tritonserver ended with {_ending(code)}; see its log above"
        print(f"error: {reason}", file=sys.stderr, flush=True)
    return code if code >= 0 else 128 - code


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class Drain:
    """Lets the requests in flight end before Triton is told to, as drain_request.py explains."""

    def __init__(self, directory: Path, seconds: float) -> None:
        self.directory = directory
        self._seconds = seconds
        self._deadline = float("inf")
        self._stopped = False
        self.asked = False
        self.was_idle = False  # when Triton was told to end

    def ask(self) -> None:
        """Tell the engine's room; safe in a signal handler."""
        self.asked = True
        self._deadline = time.monotonic() + self._seconds + STUB_GRACE_S
        # Written aside and moved: the room must not read it half-written.
        aside = self.directory / f"{REQUEST}.part"
        aside.write_text(str(self._seconds), encoding="utf-8")
        aside.replace(self.directory / REQUEST)

    def stop_when_done(self, process: subprocess.Popen[bytes]) -> None:
        """Tell Triton to end when nothing is in flight, or when the room does not answer."""
        if not self.asked or self._stopped:
            return
        # Before the engine's room is open, nothing is in flight.
        idle = (self.directory / ANSWER).exists() or not (self.directory / OPEN).exists()
        if idle or time.monotonic() > self._deadline:
            process.send_signal(signal.SIGTERM)
            self._stopped, self.was_idle = True, idle


class _SignalPassing:
    """The first SIGINT or SIGTERM starts the drain, the second one kills Triton."""

    def __init__(self, process: subprocess.Popen[bytes], drain: Drain) -> None:
        self._process = process
        self._drain = drain
        self._before = {
            number: signal.signal(number, self._pass_on)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._drain.asked:
            self._process.kill()
        else:
            self._drain.ask()

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _LogPassing:
    """Triton's log to our own output, and of it the sentence that says why a model did not load."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.load_failure = ""
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
            # Nobody reads any more: Triton must not block on a full pipe for that.
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            failure = LOAD_FAILURE.search(line.decode(errors="replace"))
            if failure:
                self.load_failure = f"{failure[1]} cannot be loaded: {failure[2]}"


if __name__ == "__main__":
    sys.exit(main())
