"""Runs the gateway: one worker in this process, or several that share one listening socket.

SIGTERM and SIGINT drain: readiness turns false, new requests are refused, the streams end, then the
process exits with 0. A second signal ends it at once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import ssl
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from types import FrameType

import uvicorn

from llama_fp4.errors import InvalidRequest
from llama_fp4.gateway.settings import GatewaySettings

BACKLOG = 2048
LOOK_S = 0.1
WORKER_FAILED = 3
KEEP_ALIVE_S = 75


def run(settings: GatewaySettings) -> int:
    """Serve until a signal; returns the exit code. Raises `InvalidRequest`."""
    _check(settings)
    with _bound(settings) as listener:
        if settings.workers == 1:
            return work(settings, listener)
        with tempfile.TemporaryDirectory(prefix="llama-fp4-gateway-") as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            return Workers(settings, listener).run()


def _check(settings: GatewaySettings) -> None:
    if settings.api_keys is not None:
        from llama_fp4.gateway.api_keys import ApiKeys

        ApiKeys(settings.api_keys)
    for path in settings.certificate or ():
        if not path.is_file():
            raise InvalidRequest(f"the certificate and its key must be files, not {path}")
    if settings.certificate is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*settings.certificate)
        except OSError as error:  # SSLError is one
            names = " and ".join(map(str, settings.certificate))
            raise InvalidRequest(
                f"{names} must be a certificate in PEM and its key: {error}"
            ) from None


def _bound(settings: GatewaySettings) -> socket.socket:
    """A socket on which uvicorn listens once a worker can answer."""
    kind = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(kind, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(
            f"cannot listen on {settings.host}:{settings.port} ({reason}); choose another with "
            "--host and --port"
        ) from None
    listener.setblocking(False)
    return listener


def work(settings: GatewaySettings, listener: socket.socket) -> int:
    """One worker."""
    from llama_fp4.gateway.app import make_app  # after PROMETHEUS_MULTIPROC_DIR is set
    from llama_fp4.gateway.gate import GatewayState

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    state = GatewayState()
    certificate, key = settings.certificate or (None, None)
    config = uvicorn.Config(
        make_app(settings, state),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,  # after the drain, for what it has cut
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    server = _Server(config, state, settings.exit_timeout_s)
    server.run(sockets=[listener])
    return 0 if server.started else WORKER_FAILED


class _Server(uvicorn.Server):
    """Goes on serving while it drains, so that those who ask are told."""

    def __init__(self, config: uvicorn.Config, state: object, exit_timeout_s: float) -> None:
        super().__init__(config)
        self._state, self._exit_timeout_s = state, exit_timeout_s
        self._deadline = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.draining:  # type: ignore[attr-defined]
            self.should_exit = self.force_exit = True
            return
        self._state.draining = True  # type: ignore[attr-defined]
        self._deadline = time.monotonic() + self._exit_timeout_s

    async def on_tick(self, counter: int) -> bool:
        idle = self._state.active == 0  # type: ignore[attr-defined]
        if self._state.draining and (idle or time.monotonic() > self._deadline):  # type: ignore[attr-defined]
            self.should_exit = True
        return await super().on_tick(counter)


class Workers:
    """Processes that accept from one socket; one that dies is started again."""

    def __init__(self, settings: GatewaySettings, listener: socket.socket) -> None:
        self._settings, self._listener = settings, listener
        self._context = multiprocessing.get_context("spawn")
        self._running: list[BaseProcess] = []
        self._signals = 0

    def run(self) -> int:
        """Returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)
        self._running = [self._start() for _ in range(self._settings.workers)]
        while self._running:
            time.sleep(LOOK_S)
            self._replace_dead()
            if not self._signals and all(p.exitcode == WORKER_FAILED for p in self._running):
                return 1
        return 0

    def _start(self) -> BaseProcess:
        process = self._context.Process(target=_worker, args=(self._settings, self._listener))
        process.start()
        return process

    def _replace_dead(self) -> None:
        for process in [each for each in self._running if not each.is_alive()]:
            process.join()
            self._running.remove(process)
            if not self._signals:
                print(
                    f"warning: worker {process.pid} ended with exit code {process.exitcode}; "
                    "another one starts",
                    file=sys.stderr,
                    flush=True,
                )
                self._running.append(self._start())

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        for process in self._running:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)


def _worker(settings: GatewaySettings, listener: socket.socket) -> None:
    sys.exit(work(settings, listener))
