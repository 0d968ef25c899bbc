"""One HTTP request and its answer: the body's limits, a client that leaves, errors, streams."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llama_fp4.errors import LlamaError
from llama_fp4.gateway.errors import INTERNAL, ApiError, of_server
from llama_fp4.gateway.settings import GatewaySettings

LOG = logging.getLogger("llama_fp4.gateway")
DONE = b"data: [DONE]\n\n"


@dataclass
class Call:
    """What an endpoint is given: the body, and a fresh id for everything that it starts."""

    request: Request
    body: bytes
    request_id: str  # the client's x-request-id, or a random one
    own_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def server_id(self) -> str:
        """The request's id on the server. Two clients may send the same id, and a stop by id must
        end only one of them."""
        return f"{self.request_id}.{self.own_id[:8]}"


Answer = Callable[[Call], Awaitable[Response]]


class EventStream(Response):
    """Server-sent events, whose first one has come: an error before it gets a status of its own.

    An error after it becomes the last event.
    """

    media_type = "text/event-stream"

    def __init__(
        self, first: bytes, rest: AsyncGenerator[bytes, None], of_error: Callable[[ApiError], bytes]
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first, self._rest, self._of_error = first, rest, of_error

    @classmethod
    async def begun(
        cls, events: AsyncGenerator[bytes, None], of_error: Callable[[ApiError], bytes]
    ) -> EventStream:
        """The answer, once there is a first event."""
        return cls(await anext(events), events, of_error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(head)
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for data in self._rest:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception as error:
            shown = shown_error(error)
            scope["state"]["failed"] = shown.message
            data = self._of_error(shown)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            await self._rest.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_event(error: ApiError) -> bytes:
    """The last event of a chat or completion that broke."""
    return b"data: " + error.body + b"\n\n"


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Endpoint:
    """The ASGI application of one POST: reads the body, answers, stops when the client leaves."""

    def __init__(self, answer: Answer, settings: GatewaySettings) -> None:
        self._answer, self._settings = answer, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        check_type(headers.get("content-type"))
        body = await read_body(headers, receive, self._settings)
        call = Call(Request(scope), body, scope["state"]["request_id"])
        task = asyncio.current_task()
        assert task is not None
        left = False

        async def watch() -> None:
            nonlocal left
            while (await receive())["type"] != "http.disconnect":
                pass
            left = True
            task.cancel()

        watcher = asyncio.get_running_loop().create_task(watch())
        try:
            response = await self._answer(call)
            await response(scope, receive, send)
        except asyncio.CancelledError:
            if not left:
                raise
            raise ClientLeft from None
        finally:
            watcher.cancel()


def shown_error(error: BaseException) -> ApiError:
    """What the client is told of any exception; the log gets the trace of our own."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, LlamaError):
        return of_server(error)
    LOG.error("the gateway failed", exc_info=error)
    return INTERNAL


def check_type(kind: str | None) -> None:
    """Raises 415 for anything but JSON: a page of another site may post forms and plain text."""
    named = (kind or "application/json").partition(";")[0].strip().lower()
    if named != "application/json" and not named.endswith("+json"):
        raise ApiError(415, f"the content-type must be application/json, not {named[:60]!r}")


async def read_body(headers: Headers, receive: Receive, settings: GatewaySettings) -> bytes:
    """Raises 413 for a body above the limit, 408 for one that does not come, 400 for none."""
    most = settings.max_body_bytes
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    parts: list[bytes] = []
    size, deadline = 0, time.monotonic() + settings.body_timeout_s
    while True:
        try:
            left = deadline - time.monotonic()
            message = await asyncio.wait_for(receive(), max(left, 0.001))
        except asyncio.TimeoutError:
            seconds = settings.body_timeout_s
            raise ApiError(408, f"the body did not come in {seconds:g} s", code="timeout") from None
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body must have at most {most} bytes", code="request_too_large")
