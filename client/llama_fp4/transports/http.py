"""HTTP by httpx2, for both clients.

Each call has its own connection: no call waits for another, and none reuses a connection that the
server may have closed. A call runs in a thread (for `AsyncClient` in a task), because httpx2
returns only with the first token, while a read must end on `cancel` and at the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from time import perf_counter
from typing import Any, TypeVar

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
Result = Chunk | Exception | None  # of one read
STOP_TIMEOUT_S = 5.0
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
# How h11 and httpx2 begin when a connection ended early; any other protocol error means that the
# answer is not HTTP.
ENDED_EARLY = ("Server disconnected", "peer closed connection")


class _Settings:
    """What both transports need of a `Connection`. Raises `InvalidRequest`."""

    def __init__(self, connection: Connection) -> None:
        self.address, self._connect_s = connection.address, connection.connect_timeout_s
        self.client: dict[str, Any] = {
            "base_url": f"{'https' if connection.secure else 'http'}://{connection.address}",
            "headers": {
                "accept-encoding": "identity",  # compressing would hold tokens back
                "connection": "close",
                "content-type": "application/json",
                **{name: value.strip() for name, value in connection.headers},
            },
            "verify": _tls_context(connection),
            "trust_env": False,  # no proxies
            "limits": LIMITS,
        }
        name = connection.tls.server_name if connection.tls else ""
        self._extensions = {"sni_hostname": name} if name else {}
        try:
            httpx2.URL(self.client["base_url"])
        except httpx2.InvalidURL as error:
            raise InvalidRequest(
                f"the URL must name a host, not {self.address}: {error}"
            ) from error

    def ask(self, question: wire.Question[Any], timeout_s: float | None) -> dict[str, Any]:
        """The arguments of `request`; connecting and each read may take `timeout_s`."""
        return self._arguments(question.method, question.path, question.body, timeout_s)

    def generate(self, request: Request) -> dict[str, Any]:
        """Those of `build_request`; the call limits its reads itself. Raises `InvalidRequest`."""
        path = wire.model_path(request.model) + "/generate_stream"
        return self._arguments("POST", path, wire.generate(request), None)

    def _arguments(
        self, method: str, path: str, body: bytes, timeout_s: float | None
    ) -> dict[str, Any]:
        limits = [s for s in (timeout_s, self._connect_s) if s is not None]
        return {
            "method": method,
            "url": path,
            "content": body,
            "timeout": httpx2.Timeout(timeout_s, connect=min(limits, default=None)),
            "extensions": dict(self._extensions),
        }

    def error(self, error: Exception) -> Exception:
        """An error of httpx2 as one of ours; any other as it is."""
        if isinstance(error, LlamaError):
            return error
        causes = list(_causes(error))
        tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
        if tls is not None:
            return TlsError(f"TLS with {self.address} failed: {tls}")
        if isinstance(error, httpx2.ConnectTimeout):
            return ConnectTimeout(f"no connection to {self.address}")
        if isinstance(error, httpx2.TimeoutException):
            return TotalTimeout("the answer was not complete in time")
        if isinstance(error, (httpx2.ConnectError, UnicodeError)):  # UnicodeError: not a DNS name
            why = next((c.strerror for c in causes if isinstance(c, OSError) and c.strerror), error)
            return ConnectError(f"no connection to {self.address}: {why}")
        if isinstance(error, httpx2.LocalProtocolError):
            return InvalidRequest(f"the request cannot be sent over HTTP: {error}")
        early = str(error).startswith(ENDED_EARLY)
        if isinstance(error, (httpx2.RemoteProtocolError, httpx2.DecodingError)) and not early:
            return ServerFailed(f"{self.address} does not answer in HTTP/1.1: {error}")
        if isinstance(error, (httpx2.TransportError, OSError)):
            return ConnectionLost(f"the connection to {self.address} broke: {error}")
        return error


def _tls_context(connection: Connection) -> ssl.SSLContext | bool:
    """False without TLS. Raises `InvalidRequest` for files that are not PEM."""
    if not connection.secure:
        return False
    tls = connection.tls or Tls()
    if isinstance(tls.cert, bytes) or isinstance(tls.key, bytes):
        raise InvalidRequest("cert and key must be paths over HTTP, not bytes")
    authority = tls.pem("ca")
    name = "ca"
    try:
        context = ssl.create_default_context(cadata=authority and authority.decode("ascii"))
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


def _text(response: httpx2.Response) -> str:
    return response.content.decode(errors="replace")


class HttpTransport:
    """Holds no connection while no call runs."""

    def __init__(self, connection: Connection) -> None:
        self._settings = _Settings(connection)
        self._http = httpx2.Client(**self._settings.client)
        self._calls: set[HttpCall] = set()
        self._closed = False

    def start(self, request: Request, timeout_s: float | None) -> HttpCall:
        message = self._http.build_request(**self._settings.generate(request))
        if self._closed:
            raise ClientClosed("the client was closed", request_id=request.id)
        call = HttpCall(self, self._http, message, request, timeout_s)
        self._calls.add(call)
        call.start()
        return call

    def stop(self, request_id: str) -> None:
        with contextlib.suppress(LlamaError):
            self._ask(wire.stop(request_id), STOP_TIMEOUT_S)

    def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return self._ask(wire.metadata(model), timeout_s)

    def decoupled(self, model: str, timeout_s: float | None) -> bool:
        return self._ask(wire.decoupled(model), timeout_s)

    def health(self, model: str, timeout_s: float | None) -> Health:
        asked = (self._send(question, timeout_s) for question in wire.health(model))
        return Health(*(response.status_code == 200 for response in asked))

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
        self._http.close()

    def forget(self, call: HttpCall) -> None:
        """Drop a call that has ended."""
        self._calls.discard(call)

    def error(self, error: Exception) -> Exception:
        """The error that a call raises for this one."""
        return (
            ClientClosed("the client was closed") if self._closed else self._settings.error(error)
        )

    def _ask(self, question: wire.Question[Answer], timeout_s: float | None) -> Answer:
        response = self._send(question, timeout_s)
        return question.answer(response.status_code, response.content)

    def _send(self, question: wire.Question[Any], timeout_s: float | None) -> httpx2.Response:
        try:
            return self._http.request(**self._settings.ask(question, timeout_s))
        except Exception as error:
            raise self.error(error) from error


class HttpCall:
    """One request in a thread of its own, which fills the queue that `read` empties."""

    def __init__(
        self,
        owner: HttpTransport,
        http: httpx2.Client,
        message: httpx2.Request,
        request: Request,
        timeout_s: float | None,
    ) -> None:
        self._owner, self._http, self._message, self._request = owner, http, message, request
        self._ends_at = math.inf if timeout_s is None else perf_counter() + timeout_s
        # By its module's name: gevent puts another class there.
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._cancelled = False
        self._socket: socket.socket | None = None
        message.extensions["trace"] = self._keep_socket

    def start(self) -> None:
        """Send the request; returns at once."""
        threading.Thread(target=self._run, name="llama-fp4-http", daemon=True).start()

    def read(self) -> Chunk | None:
        left = None if self._ends_at == math.inf else max(self._ends_at - perf_counter(), 0.0)
        try:
            result = self._results.get(timeout=left)
        except queue.Empty:
            self.cancel()
            raise TotalTimeout("the answer was not complete in time") from None
        if self._cancelled:
            raise self._owner.error(Cancelled("the call was cancelled"))
        if isinstance(result, Exception):
            raise result
        return result

    def cancel(self) -> None:
        self._cancelled = True
        self._results.put(None)  # for a `read` that waits
        self._shut_down()
        self._owner.forget(self)

    def _run(self) -> None:
        try:
            with contextlib.closing(self._http.send(self._message, stream=True)) as response:
                chunks = wire.Chunks(self._request)
                if not _has_events(response):
                    response.read()
                    raise wire.refusal(response.status_code, _text(response), self._request.id)
                for event in httpx2.EventSource(response, max_event_size=None):
                    if (chunk := chunks.add(event.data)) is not None:
                        self._results.put(chunk)
            if (chunk := chunks.end()) is not None:
                self._results.put(chunk)
            self._results.put(None)
        except Exception as error:
            self._results.put(self._owner.error(error))
        finally:
            self._owner.forget(self)

    def _keep_socket(self, event: str, info: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._cancelled:
                self._shut_down()

    def _shut_down(self) -> None:
        """End the thread's read; it then closes the connection."""
        with contextlib.suppress(OSError):  # it may be closed
            if self._socket is not None:
                # Not TLS's own, which takes away what the thread is reading with.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class HttpAioTransport:
    """`HttpTransport` in an event loop."""

    def __init__(self, connection: Connection) -> None:
        self._settings = _Settings(connection)
        self._http = httpx2.AsyncClient(**self._settings.client)
        self._calls: set[HttpAioCall] = set()
        self._closed = False

    async def start(self, request: Request, timeout_s: float | None) -> HttpAioCall:
        message = self._http.build_request(**self._settings.generate(request))
        if self._closed:
            raise ClientClosed("the client was closed", request_id=request.id)
        call = HttpAioCall(self, self._http, message, request, timeout_s)
        self._calls.add(call)
        call.task.add_done_callback(lambda _: self._calls.discard(call))
        return call

    async def stop(self, request_id: str) -> None:
        with contextlib.suppress(LlamaError):
            await self._ask(wire.stop(request_id), STOP_TIMEOUT_S)

    async def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return await self._ask(wire.metadata(model), timeout_s)

    async def decoupled(self, model: str, timeout_s: float | None) -> bool:
        return await self._ask(wire.decoupled(model), timeout_s)

    async def health(self, model: str, timeout_s: float | None) -> Health:
        asked = [await self._send(question, timeout_s) for question in wire.health(model)]
        return Health(*(response.status_code == 200 for response in asked))

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
        await self._http.aclose()

    def error(self, error: Exception) -> Exception:
        """The error that a call raises for this one."""
        return (
            ClientClosed("the client was closed") if self._closed else self._settings.error(error)
        )

    async def _ask(self, question: wire.Question[Answer], timeout_s: float | None) -> Answer:
        response = await self._send(question, timeout_s)
        return question.answer(response.status_code, response.content)

    async def _send(self, question: wire.Question[Any], timeout_s: float | None) -> httpx2.Response:
        asking = self._http.request(**self._settings.ask(question, timeout_s))
        try:
            return await asyncio.wait_for(asking, timeout_s)
        except asyncio.TimeoutError as error:
            raise TotalTimeout("the answer was not complete in time") from error
        except Exception as error:
            raise self.error(error) from error


class HttpAioCall:
    """One request in a task of its own, which fills the queue that `read` empties."""

    def __init__(
        self,
        owner: HttpAioTransport,
        http: httpx2.AsyncClient,
        message: httpx2.Request,
        request: Request,
        timeout_s: float | None,
    ) -> None:
        self._owner, self._http, self._message, self._request = owner, http, message, request
        self._results: asyncio.Queue[Result] = asyncio.Queue()
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
            self._results.put_nowait(TotalTimeout("the answer was not complete in time"))
        except Exception as error:
            self._results.put_nowait(self._owner.error(error))

    async def _fill(self) -> None:
        response = await self._http.send(self._message, stream=True)
        async with contextlib.aclosing(response):
            chunks = wire.Chunks(self._request)
            if not _has_events(response):
                await response.aread()
                raise wire.refusal(response.status_code, _text(response), self._request.id)
            async for event in httpx2.EventSource(response, max_event_size=None):
                if (chunk := chunks.add(event.data)) is not None:
                    self._results.put_nowait(chunk)
        if (chunk := chunks.end()) is not None:
            self._results.put_nowait(chunk)
        self._results.put_nowait(None)
