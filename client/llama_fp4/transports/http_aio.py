"""HTTP for `AsyncClient`: `http_transport` by asyncio's streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from time import perf_counter
from typing import Any, TypeVar

from llama_fp4.answers import Chunk, Health, ModelMetadata, ModelState, ServerInfo
from llama_fp4.errors import Cancelled, ClientClosed, ConnectTimeout, LlamaError, TotalTimeout
from llama_fp4.model_contract import Request
from llama_fp4.settings import Connection
from llama_fp4.transports import http_messages as wire
from llama_fp4.transports.http_body import Body
from llama_fp4.transports.http_sync import STOP_TIMEOUT_S

Both = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Result = TypeVar("Result")


class HttpAioTransport:
    """Holds no connection while no request runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._context = wire.tls_context(connection)
        self._calls: set[HttpAioCall] = set()
        self._closed = False

    async def start(self, request: Request, timeout_s: float | None) -> HttpAioCall:
        message = wire.generate(self._connection, request)
        if self._closed:
            raise ClientClosed("the client was closed", request_id=request.id)
        reader, writer = await self._connect(timeout_s)
        call = HttpAioCall(self, reader, writer, request, timeout_s)
        self._calls.add(call)
        writer.write(message)
        return call

    async def stop(self, request_id: str) -> None:
        with contextlib.suppress(LlamaError):
            await self._ask(wire.stop(self._connection, request_id), STOP_TIMEOUT_S)

    async def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return wire.metadata_of(await self._get(wire.model_path(model), timeout_s))

    async def decoupled(self, model: str, timeout_s: float | None) -> bool:
        return wire.is_decoupled(await self._get(wire.model_path(model) + "/config", timeout_s))

    async def health(self, model: str, timeout_s: float | None) -> Health:
        paths = ("/v2/health/live", "/v2/health/ready", wire.model_path(model) + "/ready")
        live, ready, model_ready = [await self._status(path, timeout_s) == 200 for path in paths]
        return Health(live, ready, model_ready)

    async def server(self, timeout_s: float | None) -> ServerInfo:
        said = await self._get("/v2", timeout_s)
        return ServerInfo(said["name"], said["version"])

    async def models(self, timeout_s: float | None) -> list[ModelState]:
        index = wire.head(self._connection, "POST", "/v2/repository/index")
        return wire.states_of(wire.answer_of(*await self._ask(index, timeout_s)))

    async def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]:
        found: dict[str, Any] = await self._get(wire.model_path(model) + "/stats", timeout_s)
        return found

    async def close(self) -> None:
        self._closed = True
        for call in list(self._calls):
            call.cancel()

    def forget(self, call: HttpAioCall) -> None:
        """The call has ended."""
        self._calls.discard(call)

    def mapped(self, error: BaseException, cancelled: bool = False) -> LlamaError:
        """What an error of an open connection means."""
        if self._closed:
            return ClientClosed("the client was closed")
        if cancelled:
            return Cancelled("the call was cancelled")
        if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
            return TotalTimeout("the answer was not whole in time")
        return wire.error_of_socket(error, self._connection.address, connected=True)

    async def _connect(self, timeout_s: float | None) -> Both:
        host, _, port = self._connection.address.rpartition(":")
        host = host.strip("[]")
        limits = [s for s in (timeout_s, self._connection.connect_timeout_s) if s is not None]
        tls = self._connection.tls
        name = (tls.server_name if tls and tls.server_name else host) if self._context else None
        try:
            opening = asyncio.open_connection(
                host, int(port), ssl=self._context, server_hostname=name
            )
            return await asyncio.wait_for(opening, min(limits, default=None))
        except asyncio.TimeoutError as error:
            raise ConnectTimeout(f"no connection to {self._connection.address}") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that is none of DNS
            raise wire.error_of_socket(error, self._connection.address, False) from error

    async def _get(self, path: str, timeout_s: float | None) -> Any:
        message = wire.head(self._connection, "GET", path)
        return wire.answer_of(*await self._ask(message, timeout_s))

    async def _status(self, path: str, timeout_s: float | None) -> int:
        return (await self._ask(wire.head(self._connection, "GET", path), timeout_s))[0]

    async def _ask(self, message: bytes, timeout_s: float | None) -> tuple[int, bytes]:
        reader, writer = await self._connect(timeout_s)
        try:
            writer.write(message)
            return await asyncio.wait_for(_whole(reader), timeout_s)
        except (OSError, asyncio.TimeoutError) as error:
            raise self.mapped(error) from error
        finally:
            writer.close()


async def _whole(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    body = Body()
    parts = []
    while not body.done:
        parts.append(body.feed(await reader.read(wire.READ_BYTES)))
    return body.status, b"".join(parts)


class HttpAioCall:
    """One connection, and the events that come over it."""

    def __init__(
        self,
        owner: HttpAioTransport,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: Request,
        timeout_s: float | None,
    ) -> None:
        self._owner, self._reader, self._writer = owner, reader, writer
        self._events = wire.Events(request)
        self._ends_at = None if timeout_s is None else perf_counter() + timeout_s
        self._cancelled = False

    async def read(self) -> Chunk | None:
        try:
            while (chunk := self._events.pop()) is None:
                if self._events.done:
                    self._end()
                    return None
                self._events.feed(await self._within(self._reader.read(wire.READ_BYTES)))
        except (OSError, asyncio.TimeoutError, LlamaError) as error:
            self._end()
            if self._cancelled or not isinstance(error, LlamaError):
                raise self._owner.mapped(error, self._cancelled) from error
            raise
        if chunk.final:
            self._end()
        return chunk

    def cancel(self) -> None:
        self._cancelled = True
        # Not `close`, which over TLS waits for the server's farewell while it generates.
        self._writer.transport.abort()
        self._end()

    async def _within(self, work: Awaitable[Result]) -> Result:
        if self._ends_at is None:
            return await work
        return await asyncio.wait_for(work, max(self._ends_at - perf_counter(), 0.0))

    def _end(self) -> None:
        self._writer.close()
        self._owner.forget(self)
