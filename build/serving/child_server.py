"""A served model repository as a child process: start it, wait until it is ready, stop it.

Used by the demo, the benchmark and the tests; a person runs `serve.py` itself.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from host.console import BuildError
from llama_fp4 import Client

from serving.processes import end_with_parent

SERVE = Path(__file__).resolve().parents[1] / "serve.py"
PHASE_LINE = re.compile(r"tensorrt_llm: (engine load|warm-up): ([0-9.]+) s")
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 10_000
POLL_S = 0.05
CONNECT_S = 5.0
STOP_S = 60.0


@dataclass(frozen=True)
class Ports:
    """Where the server listens."""

    host: str = "127.0.0.1"
    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002
    gateway: int | None = None  # None: no gateway

    def arguments(self) -> list[str]:
        """The options of serve.py."""
        named = {"http": self.http, "grpc": self.grpc, "metrics": self.metrics}
        ports = [text for name, port in named.items() for text in (f"--{name}-port", str(port))]
        no = ["--no-gateway"]
        gateway = no if self.gateway is None else ["--gateway-port", str(self.gateway)]
        return ["--host", self.host, *ports, *gateway]

    def url(self, name: str) -> str:
        """`host:port` of "http", "grpc", "metrics" or "gateway", as clients here reach it."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"{host}:{getattr(self, name)}"


def free_ports(gateway: bool = False) -> Ports:
    """Ports for a server, and for a gateway before it if asked."""
    return Ports("127.0.0.1", *_free(4 if gateway else 3))


def _free(count: int) -> list[int]:
    """Free ports, from a range that the system does not use for outgoing connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(LOWEST_PORT, _first_ephemeral_port())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def _first_ephemeral_port() -> int:
    """The first port that the system uses for outgoing connections."""
    with contextlib.suppress(OSError, ValueError):
        first = int(EPHEMERAL.read_text(encoding="ascii").split()[0])
        if first > LOWEST_PORT + 1000:
            return first
    return 65536


class ServerProcess:
    """`with ServerProcess(repository, ports, log_file) as server:` runs until the block ends."""

    def __init__(
        self, repository: Path, ports: Ports, log_file: Path, more: Sequence[str] = ()
    ) -> None:
        self.ports = ports
        self._more = more  # arguments of serve.py
        self.log_file = log_file
        self._repository = repository
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 600.0) -> None:
        """Return when the ensemble is ready; raises `BuildError` with the server's own sentence."""
        self.launch()
        self.wait_until_ready(timeout_s)

    def launch(self) -> None:
        """The first half of `start`: run serve.py."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        command: Sequence[str] = [
            sys.executable,
            str(SERVE),
            "--model-repository",
            str(self._repository),
            *self.ports.arguments(),
            *self._more,
        ]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def wait_until_ready(self, timeout_s: float = 600.0) -> None:
        """The second half of `start`."""
        assert self._process is not None, "the server was not started"
        deadline = time.monotonic() + timeout_s
        with Client(self.ports.url("grpc")) as client:
            names = ["http", "metrics", *(["gateway"] if self.ports.gateway else [])]
            while not (client.is_ready() and all(map(self._listens, names))):
                if self._process.poll() is not None:
                    raise BuildError(f"the server did not start: {self.failure()}")
                if time.monotonic() > deadline:
                    self.stop()
                    raise BuildError(
                        f"the server was not ready in {timeout_s:g} s; see {self.log_file}"
                    )
                time.sleep(POLL_S)

    def _listens(self, name: str) -> bool:
        """Whether the port is open: Triton opens gRPC's first, and the others a moment later."""
        host, _, port = self.ports.url(name).rpartition(":")
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except OSError:
            return False
        return True

    @property
    def pid(self) -> int:
        """The pid of serve.py, the parent of tritonserver."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def failure(self) -> str:
        """The last `error:` sentence of the log."""
        errors = [line for line in self.log().splitlines() if line.startswith("error: ")]
        return errors[-1].removeprefix("error: ") if errors else f"see {self.log_file}"

    def log(self) -> str:
        """What the server has printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def phases(self) -> Iterator[tuple[str, float]]:
        """The engine's start phases and their seconds, from the log."""
        for match in PHASE_LINE.finditer(self.log()):
            yield match[1], float(match[2])

    def wait(self) -> int:
        """Wait until the server ends by itself; returns its exit code."""
        assert self._process is not None, "the server was not started"
        return self._process.wait()

    def stop(self) -> int:
        """Drain and end the server; returns its exit code."""
        if self._process is None:  # interrupted before it was started
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGTERM)  # a second one kills it
            return self._process.wait()

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
