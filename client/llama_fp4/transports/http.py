"""HTTP by httpx2, for both clients.

Each call has its own connection: no call waits for another, and none reuses a connection that the
server may have closed. A call runs in a thread (for `AsyncClient` in a task), because httpx2 blocks
until the first token, while a read must end on `cancel` and at the deadline. The module uses
httpx2's transports, because its clients also keep cookies and log a line for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from time import perf_counter
from typing import Any, Generic, TypeVar

import httpx2

from llama_fp4.answers import Chunk, Health, ModelMetadata, ModelState, ServerInfo
from llama_fp4.errors import (
    Cancelled,
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    InvalidRequest,
    LlamaError,
    ServerFailed,
    TlsError,
    TotalTimeout,
)
from llama_fp4.model_contract import Request
from llama_fp4.settings import Connection, Tls
from llama_fp4.transports import http_messages as wire

Answer = TypeVar("Answer")
Part = TypeVar("Part")  # of a response: a chunk, or status and body
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
# How the messages of h11 and httpx2 begin when a connection ended early. Any other protocol error
# means that the answer is not HTTP.
ENDED_EARLY = ("Server disconnected", "peer closed connection")


class _Messages:
    """The parts of both transports that need no I/O. Raises `InvalidRequest`."""

    def __init__(self, connection: Connection) -> None:
        self._address, self._connect_s = connection.address, connection.connect_timeout_s
        self._closed = False
        for name, _ in connection.headers:
            if name in ("content-length", "transfer-encoding"):
                raise InvalidRequest(f"the header {name} must be left to the client")
        self._base = f"{'https' if connection.secure else 'http'}://{connection.address}"
        self._headers = {
            "accept-encoding": "identity",  # compressing would hold tokens back
            "connection": "close",
            "content-type": "application/json",
            **{name: value.strip() for name, value in connection.headers},
        }
        name = connection.tls.server_name if connection.tls else ""
        self._extensions = {"sni_hostname": name} if name else {}
        self._arguments: dict[str, Any] = {
            "verify": _tls_context(connection),
            "trust_env": False,
            "limits": LIMITS,
        }
        try:
            httpx2.URL(self._base)
        except httpx2.InvalidURL as error:
            raise InvalidRequest(
                f"the URL must name a host, not {connection.address}: {error}"
            ) from error

    def _question(self, question: wire.Question[Any], timeout_s: float | None) -> httpx2.Request:
        return self._message(question.method, question.path, question.body, timeout_s)

    def _generate(self, request: Request, timeout_s: float | None) -> httpx2.Request:
        path = wire.model_path(request.model) + "/generate_stream"
        return self._message("POST", path, wire.generate(request), timeout_s)

    def _message(
        self, method: str, path: str, body: bytes, timeout_s: float | None
    ) -> httpx2.Request:
        # The call itself ends at `timeout_s`; a thread that still connects ends a second later.
        limits = [self._connect_s or math.inf, math.inf if timeout_s is None else timeout_s + 1]
        connect_s = None if min(limits) == math.inf else min(limits)
        timeout = httpx2.Timeout(None, connect=connect_s)
        extensions = {"timeout": timeout.as_dict(), **self._extensions}
        return httpx2.Request(
            method,
            self._base + path,
            headers=self._headers,
            content=body,
            extensions=extensions,
        )

    def error(self, error: Exception) -> Exception:
        """Turn an exception, perhaps one of httpx2, into the error that the call raises."""
        if self._closed:
            return ClientClosed("the client was closed")
        if isinstance(error, LlamaError):
            return error
        causes = list(_causes(error))
        tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
        if tls is not None:
            return TlsError(f"TLS with {self._address} failed: {tls}")
        if isinstance(error, httpx2.ConnectTimeout):
            return ConnectTimeout(f"no connection to {self._address}")
        if isinstance(error, (httpx2.ConnectError, UnicodeError)):  # UnicodeError: not a DNS name
            why = next((c.strerror for c in causes if isinstance(c, OSError) and c.strerror), error)
            return ConnectError(f"no connection to {self._address}: {why}")
        if isinstance(error, httpx2.LocalProtocolError):
            return InvalidRequest(f"the request cannot be sent over HTTP: {error}")
        early = str(error).startswith(ENDED_EARLY)
        if isinstance(error, (httpx2.RemoteProtocolError, httpx2.DecodingError)) and not early:
            return ServerFailed(f"{self._address} does not answer in HTTP/1.1: {error}")
        if isinstance(error, (httpx2.TransportError, OSError)):
            return ConnectionLost(f"the connection to {self._address} broke: {error}")
        return error


def _late() -> TotalTimeout:
    return TotalTimeout("the answer was not complete in time")


def _tls_context(connection: Connection) -> ssl.SSLContext | bool:
    """False without TLS. Raises `InvalidRequest` for files that are not PEM."""
    if not connection.secure:
        return False
    tls = connection.tls or Tls()
    if isinstance(tls.cert, bytes) or isinstance(tls.key, bytes):
        raise InvalidRequest("cert and key must be paths over HTTP, not bytes")
    authority, name = tls.pem("ca"), "ca"
    try:
        # Comments, which name authorities, may hold any character.
        text = None if authority is None else authority.decode("ascii", errors="ignore")
        if text is not None and not text.strip():
            raise ValueError("it is empty")  # the standard library would trust the system's
        context = ssl.create_default_context(cadata=text)
        if tls.cert is not None and tls.key is not None:
            name = "cert or key"
            # The standard library reads files only, and would ask a terminal for a password.
            context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{name} must be PEM without a password: {error}") from error
    return context


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _has_events(response: httpx2.Response) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.status_code == 200 and kind == "text/event-stream"


def _events(response: httpx2.Response) -> httpx2.EventSource:
    response.encoding = "utf-8-sig"  # whatever a proxy says; drops a byte order mark
    return httpx2.EventSource(response, max_event_size=None)


def _refusal(response: httpx2.Response, request: Request) -> LlamaError:
    text = response.content.decode(errors="replace")
    return wire.refusal(response.status_code, text, request.id)


class HttpTransport(_Messages):
    """Holds no connection while no call runs."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.http = httpx2.HTTPTransport(**self._arguments)
        self._calls: set[HttpCall[Any]] = set()

    def start(self, request: Request, timeout_s: float | None) -> HttpCall[Chunk]:
        chunks = wire.Chunks(request)

        def receive(response: httpx2.Response) -> Iterator[Chunk | None]:
            if not _has_events(response):
                response.read()
                raise _refusal(response, request)
            for event in _events(response):
                yield chunks.add(event.data)

        return self._start(self._generate(request, timeout_s), receive, chunks.end, timeout_s)

    def stop(self, request_id: str, timeout_s: float) -> None:
        with contextlib.suppress(LlamaError):
            self._ask(wire.stop(request_id), timeout_s)

    def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return self._ask(wire.metadata(model), timeout_s)

    def decoupled(self, model: str, timeout_s: float | None) -> bool:
        return self._ask(wire.decoupled(model), timeout_s)

    def health(self, model: str, timeout_s: float | None) -> Health:
        return Health(
            *(self._send(question, timeout_s)[0] == 200 for question in wire.health(model))
        )

    def server(self, timeout_s: float | None) -> ServerInfo:
        return self._ask(wire.SERVER, timeout_s)

    def models(self, timeout_s: float | None) -> list[ModelState]:
        return self._ask(wire.MODELS, timeout_s)

    def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]:
        return self._ask(wire.statistics(model), timeout_s)

    def close(self) -> None:
        self._closed = True
        for call in list(self._calls):
            call.cancel()
        self.http.close()

    def forget(self, call: HttpCall[Any]) -> None:
        """Drop a call that has ended."""
        self._calls.discard(call)

    def _ask(self, question: wire.Question[Answer], timeout_s: float | None) -> Answer:
        return question.answer(*self._send(question, timeout_s))

    def _send(self, question: wire.Question[Any], timeout_s: float | None) -> tuple[int, bytes]:
        def receive(response: httpx2.Response) -> list[tuple[int, bytes]]:
            return [(response.status_code, response.read())]

        message = self._question(question, timeout_s)
        call = self._start(message, receive, lambda: None, timeout_s)
        try:
            answer = call.read()
        finally:
            call.cancel()
        assert answer is not None  # else `receive` has raised
        return answer

    def _start(
        self,
        message: httpx2.Request,
        receive: Callable[[httpx2.Response], Iterable[Part | None]],
        end: Callable[[], Part | None],
        timeout_s: float | None,
    ) -> HttpCall[Part]:
        call = HttpCall(self, message, receive, end, timeout_s)
        self._calls.add(call)
        if self._closed:
            self.forget(call)
            raise ClientClosed("the client was closed")
        call.start()
        return call


class HttpCall(Generic[Part]):
    """One request in a thread of its own, which fills the queue that `read` empties.

    `receive` yields the parts of a response as they come, and `end` returns the last one after the
    connection is closed. None of either means: no part.
    """

    def __init__(
        self,
        owner: HttpTransport,
        message: httpx2.Request,
        receive: Callable[[httpx2.Response], Iterable[Part | None]],
        end: Callable[[], Part | None],
        timeout_s: float | None,
    ) -> None:
        self._owner, self._message, self._receive, self._end = owner, message, receive, end
        self._ends_at = math.inf if timeout_s is None else perf_counter() + timeout_s
        # Looked up in its module, where gevent puts another class.
        self._results: queue.SimpleQueue[Part | Exception | None] = queue.SimpleQueue()
        self._cancelled = False
        self._lock = threading.Lock()  # for the socket, which two threads close
        self._socket: socket.socket | None = None
        message.extensions["trace"] = self._keep_socket

    def start(self) -> None:
        """Send the request; returns at once."""
        threading.Thread(target=self._run, name="llama-fp4-http", daemon=True).start()

    def read(self) -> Part | None:
        """The next part; None after the last. Raises `LlamaError`."""
        left = None if self._ends_at == math.inf else max(self._ends_at - perf_counter(), 0.0)
        try:
            result = self._results.get(timeout=left)
        except queue.Empty:
            self.cancel()
            raise _late() from None
        if self._cancelled:
            raise self._owner.error(Cancelled("the call was cancelled"))
        if isinstance(result, Exception):
            raise result
        return result

    def cancel(self) -> None:
        """End the call, from any thread; a waiting `read` raises `Cancelled`."""
        self._cancelled = True
        self._results.put(None)  # for a `read` that waits
        self._shut_down()
        self._owner.forget(self)

    def _run(self) -> None:
        try:
            response = self._owner.http.handle_request(self._message)
            response.request = self._message
            with contextlib.closing(response):
                for part in self._receive(response):
                    if part is not None:
                        self._results.put(part)
            if (last := self._end()) is not None:
                self._results.put(last)
            self._results.put(None)
        except Exception as error:
            self._results.put(self._owner.error(error))
        finally:
            self._owner.forget(self)
            with self._lock:
                if self._socket is not None:
                    self._socket.close()

    def _keep_socket(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            # A duplicate, because TLS detaches the socket itself.
            self._socket = info["return_value"].get_extra_info("socket").dup()
            if self._cancelled:
                self._shut_down()

    def _shut_down(self) -> None:
        """End the thread's read; it then closes the connection."""
        with self._lock, contextlib.suppress(OSError):  # it may have ended
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


class HttpAioTransport(_Messages):
    """`HttpTransport` in an event loop."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.http = httpx2.AsyncHTTPTransport(**self._arguments)
        self._calls: set[HttpAioCall] = set()

    async def start(self, request: Request, timeout_s: float | None) -> HttpAioCall:
        message = self._generate(request, timeout_s)
        if self._closed:
            raise ClientClosed("the client was closed", request_id=request.id)
        call = HttpAioCall(self, message, request, timeout_s)
        self._calls.add(call)
        call.task.add_done_callback(lambda _: self._calls.discard(call))
        return call

    async def stop(self, request_id: str, timeout_s: float) -> None:
        with contextlib.suppress(LlamaError):
            await self._ask(wire.stop(request_id), timeout_s)

    async def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return await self._ask(wire.metadata(model), timeout_s)

    async def decoupled(self, model: str, timeout_s: float | None) -> bool:
        return await self._ask(wire.decoupled(model), timeout_s)

    async def health(self, model: str, timeout_s: float | None) -> Health:
        asked = [await self._send(question, timeout_s) for question in wire.health(model)]
        return Health(*(status == 200 for status, _ in asked))

    async def server(self, timeout_s: float | None) -> ServerInfo:
        return await self._ask(wire.SERVER, timeout_s)

    async def models(self, timeout_s: float | None) -> list[ModelState]:
        return await self._ask(wire.MODELS, timeout_s)

    async def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]:
        return await self._ask(wire.statistics(model), timeout_s)

    async def close(self) -> None:
        self._closed = True
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
        await self.http.aclose()

    @contextlib.asynccontextmanager
    async def response(self, message: httpx2.Request) -> AsyncIterator[httpx2.Response]:
        """Send a request; the connection is closed at the end."""
        response = await self.http.handle_async_request(message)
        response.request = message
        async with contextlib.aclosing(response):
            yield response

    async def _ask(self, question: wire.Question[Answer], timeout_s: float | None) -> Answer:
        return question.answer(*await self._send(question, timeout_s))

    async def _send(
        self, question: wire.Question[Any], timeout_s: float | None
    ) -> tuple[int, bytes]:
        async def receive() -> tuple[int, bytes]:
            async with self.response(self._question(question, timeout_s)) as response:
                return response.status_code, await response.aread()

        try:
            return await asyncio.wait_for(receive(), timeout_s)
        except asyncio.TimeoutError as error:
            raise _late() from error
        except Exception as error:
            raise self.error(error) from error


class HttpAioCall:
    """One request in a task of its own, which fills the queue that `read` empties."""

    def __init__(
        self,
        owner: HttpAioTransport,
        message: httpx2.Request,
        request: Request,
        timeout_s: float | None,
    ) -> None:
        self._owner, self._message, self._request = owner, message, request
        self._results: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()
        self._cancelled = False
        self.task = asyncio.create_task(self._run(timeout_s))

    async def read(self) -> Chunk | None:
        result = await self._results.get()
        if self._cancelled:
            raise self._owner.error(Cancelled("the call was cancelled"))
        if isinstance(result, Exception):
            raise result
        return result

    def cancel(self) -> None:
        self._cancelled = True
        self._results.put_nowait(None)  # for a `read` that waits
        self.task.cancel()

    async def _run(self, timeout_s: float | None) -> None:
        try:
            await asyncio.wait_for(self._fill(), timeout_s)
        except asyncio.TimeoutError:
            self._results.put_nowait(_late())
        except Exception as error:
            self._results.put_nowait(self._owner.error(error))

    async def _fill(self) -> None:
        chunks = wire.Chunks(self._request)
        async with self._owner.response(self._message) as response:
            if not _has_events(response):
                await response.aread()
                raise _refusal(response, self._request)
            async for event in _events(response):
                if (chunk := chunks.add(event.data)) is not None:
                    self._results.put_nowait(chunk)
        if (chunk := chunks.end()) is not None:
            self._results.put_nowait(chunk)
        self._results.put_nowait(None)
