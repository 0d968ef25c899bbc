"""HTTP for `Client`: a connection a request, by the standard library's sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from llama_fp4.answers import Chunk, Health, ModelMetadata, ModelState, ServerInfo
from llama_fp4.errors import Cancelled, ClientClosed, ConnectTimeout, LlamaError, TotalTimeout
from llama_fp4.model_contract import Request
from llama_fp4.settings import Connection
from llama_fp4.transports import http_messages as wire
from llama_fp4.transports.http_body import Body

STOP_TIMEOUT_S = 5.0


class HttpTransport:
    """Holds no connection while no request runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._context = wire.tls_context(connection)
        self._calls: set[HttpCall] = set()
        self._closed = False

    def start(self, request: Request, timeout_s: float | None) -> HttpCall:
        message = wire.generate(self._connection, request)
        if self._closed:
            raise ClientClosed("the client was closed", request_id=request.id)
        call = HttpCall(self, self._connect(timeout_s), request, timeout_s)
        self._calls.add(call)
        call.send(message)
        return call

    def stop(self, request_id: str) -> None:
        with contextlib.suppress(LlamaError):
            self._ask(wire.stop(self._connection, request_id), STOP_TIMEOUT_S)

    def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return wire.metadata_of(self._get(wire.model_path(model), timeout_s))

    def decoupled(self, model: str, timeout_s: float | None) -> bool:
        return wire.is_decoupled(self._get(wire.model_path(model) + "/config", timeout_s))

    def health(self, model: str, timeout_s: float | None) -> Health:
        paths = ("/v2/health/live", "/v2/health/ready", wire.model_path(model) + "/ready")
        return Health(*(self._status(path, timeout_s) == 200 for path in paths))

    def server(self, timeout_s: float | None) -> ServerInfo:
        said = self._get("/v2", timeout_s)
        return ServerInfo(said["name"], said["version"])

    def models(self, timeout_s: float | None) -> list[ModelState]:
        index = wire.head(self._connection, "POST", "/v2/repository/index")
        return wire.states_of(wire.answer_of(*self._ask(index, timeout_s)))

    def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]:
        found: dict[str, Any] = self._get(wire.model_path(model) + "/stats", timeout_s)
        return found

    def close(self) -> None:
        self._closed = True
        for call in list(self._calls):
            call.cancel()

    def forget(self, call: HttpCall) -> None:
        """The call has ended."""
        self._calls.discard(call)

    def mapped(self, error: Exception, cancelled: bool = False) -> LlamaError:
        """What an error of a connected socket means."""
        if self._closed:
            return ClientClosed("the client was closed")
        if cancelled:
            return Cancelled("the call was cancelled")
        if isinstance(error, TimeoutError):
            return TotalTimeout("the answer was not whole in time")
        return wire.error_of_socket(error, self._connection.address, connected=True)

    def _connect(self, timeout_s: float | None) -> socket.socket:
        host, _, port = self._connection.address.rpartition(":")
        limits = [s for s in (timeout_s, self._connection.connect_timeout_s) if s is not None]
        sock: socket.socket | None = None
        try:
            sock = socket.create_connection(
                (host.strip("[]"), int(port)), min(limits, default=None)
            )
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                tls = self._connection.tls
                name = tls.server_name if tls and tls.server_name else host.strip("[]")
                sock = self._context.wrap_socket(sock, server_hostname=name)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that is none of DNS
            if sock is not None:
                sock.close()
            if isinstance(error, TimeoutError):
                raise ConnectTimeout(f"no connection to {self._connection.address}") from error
            raise wire.error_of_socket(error, self._connection.address, False) from error
        return sock

    def _get(self, path: str, timeout_s: float | None) -> Any:
        return wire.answer_of(*self._ask(wire.head(self._connection, "GET", path), timeout_s))

    def _status(self, path: str, timeout_s: float | None) -> int:
        return self._ask(wire.head(self._connection, "GET", path), timeout_s)[0]

    def _ask(self, message: bytes, timeout_s: float | None) -> tuple[int, bytes]:
        body = Body()
        with self._connect(timeout_s) as sock, self._mapping():
            sock.settimeout(timeout_s)
            sock.sendall(message)
            parts = []
            while not body.done:
                parts.append(body.feed(sock.recv(wire.READ_BYTES)))
        return body.status, b"".join(parts)

    @contextlib.contextmanager
    def _mapping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.mapped(error) from error


class HttpCall:
    """One connection, and the events that come over it."""

    def __init__(
        self, owner: HttpTransport, sock: socket.socket, request: Request, timeout_s: float | None
    ) -> None:
        self._owner, self._socket = owner, sock
        self._events = wire.Events(request)
        self._ends_at = None if timeout_s is None else perf_counter() + timeout_s
        self._cancelled = self._reading = False

    def send(self, message: bytes) -> None:
        """Raises `LlamaError`."""
        try:
            self._socket.sendall(message)
        except OSError as error:
            self._end()
            raise self._owner.mapped(error) from error

    def read(self) -> Chunk | None:
        self._reading = True
        try:
            while (chunk := self._events.pop()) is None:
                if self._cancelled:
                    raise Cancelled("the call was cancelled")
                if self._events.done:
                    self._end()
                    return None
                self._socket.settimeout(self._left())
                self._events.feed(self._socket.recv(wire.READ_BYTES))
        except (OSError, ValueError, LlamaError) as error:  # ValueError: TLS that was shut down
            self._end()
            if self._cancelled or not isinstance(error, LlamaError):
                raise self._owner.mapped(error, self._cancelled) from error
            raise
        finally:
            self._reading = False
        if chunk.final:
            self._end()
        return chunk

    def cancel(self) -> None:
        self._cancelled = True
        with contextlib.suppress(OSError):  # it may have ended
            self._socket.shutdown(socket.SHUT_RDWR)
        if not self._reading:  # else the reader, which wakes up, closes what it reads
            self._socket.close()
        self._owner.forget(self)

    def _left(self) -> float | None:
        return None if self._ends_at is None else max(self._ends_at - perf_counter(), 1e-6)

    def _end(self) -> None:
        self._socket.close()
        self._owner.forget(self)
