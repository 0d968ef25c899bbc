"""The seam between the client and a protocol: what a transport does, and one that is a function.

A transport turns a `Request` into responses, each a `Chunk`, and maps every failure of its protocol
to a subclass of `LlamaError`. It knows nothing of retries, and of limits only the total.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Protocol

from llama_fp4.answers import Chunk, Health, ModelMetadata, ModelState, ServerInfo, TensorInfo
from llama_fp4.errors import Cancelled
from llama_fp4.model_contract import Request


class Call(Protocol):
    """One running request."""

    def read(self) -> Chunk | None:
        """The next chunk; None when the server has ended the call. Raises `LlamaError`.

        The final chunk comes only when the call has ended.
        """

    def cancel(self) -> None:
        """End the call, from any thread; a waiting `read` raises `Cancelled`."""


class Transport(Protocol):
    """A connection to one server. Calls may run at once, from several threads."""

    def start(self, request: Request, timeout_s: float | None) -> Call: ...
    def stop(self, request_id: str, timeout_s: float) -> None: ...
    def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata: ...
    def decoupled(self, model: str, timeout_s: float | None) -> bool: ...  # as Triton calls it
    def health(self, model: str, timeout_s: float | None) -> Health: ...
    def server(self, timeout_s: float | None) -> ServerInfo: ...
    def models(self, timeout_s: float | None) -> list[ModelState]: ...
    def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]: ...
    def close(self) -> None: ...


class AsyncCall(Protocol):
    """As `Call`."""

    async def read(self) -> Chunk | None: ...
    def cancel(self) -> None: ...


class AsyncTransport(Protocol):
    """As `Transport`, in one event loop."""

    async def start(self, request: Request, timeout_s: float | None) -> AsyncCall: ...
    async def stop(self, request_id: str, timeout_s: float) -> None: ...
    async def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata: ...
    async def decoupled(self, model: str, timeout_s: float | None) -> bool: ...
    async def health(self, model: str, timeout_s: float | None) -> Health: ...
    async def server(self, timeout_s: float | None) -> ServerInfo: ...
    async def models(self, timeout_s: float | None) -> list[ModelState]: ...
    async def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]: ...
    async def close(self) -> None: ...


Handler = Callable[[Request], Iterable[Chunk]]
AsyncHandler = Callable[[Request], AsyncIterator[Chunk]]
METADATA = ModelMetadata(
    "ensemble",
    ("1",),
    "ensemble",
    tuple(
        TensorInfo(name, datatype, (-1, 1))
        for datatype, names in {
            "BYTES": "text_input messages tools stop_words bad_words",
            "INT32": "max_tokens min_tokens top_k priority timeout_ms",
            "FP32": "temperature top_p min_p repetition_penalty",
            "UINT64": "seed",
            "BOOL": "stream ignore_eos return_token_ids",
        }.items()
        for name in names.split()
    ),
    (TensorInfo("text_output", "BYTES", (-1,)), TensorInfo("token_ids", "INT32", (-1, -1))),
)


class FunctionTransport:
    """For tests: `handler(request)` yields the chunks, or raises what a server would cause.

    `requests` and `stopped` list what it was asked to do.
    """

    def __init__(self, handler: Handler, metadata: ModelMetadata = METADATA) -> None:
        self._handler, self._metadata = handler, metadata
        self.requests: list[Request] = []
        self.stopped: list[str] = []
        self.closed = False

    def start(self, request: Request, timeout_s: float | None) -> _FunctionCall:
        self.requests.append(request)
        return _FunctionCall(iter(self._handler(request)))

    def stop(self, request_id: str, timeout_s: float) -> None:
        self.stopped.append(request_id)

    def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return self._metadata

    def decoupled(self, model: str, timeout_s: float | None) -> bool:
        return True

    def health(self, model: str, timeout_s: float | None) -> Health:
        return Health(True, True, True)

    def server(self, timeout_s: float | None) -> ServerInfo:
        return ServerInfo("function", "1")

    def models(self, timeout_s: float | None) -> list[ModelState]:
        return [ModelState(self._metadata.name, "1", "READY", "")]

    def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.closed = True


class _FunctionCall:
    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks, self._cancelled = chunks, False

    def read(self) -> Chunk | None:
        if self._cancelled:
            raise Cancelled("the call was cancelled")
        return next(self._chunks, None)

    def cancel(self) -> None:
        self._cancelled = True


class AsyncFunctionTransport:
    """`FunctionTransport` for `AsyncClient`; the handler is an async generator."""

    def __init__(self, handler: AsyncHandler, metadata: ModelMetadata = METADATA) -> None:
        self._handler = handler
        self._same = FunctionTransport(lambda _: (), metadata)
        self.requests, self.stopped = self._same.requests, self._same.stopped

    @property
    def closed(self) -> bool:
        return self._same.closed

    async def start(self, request: Request, timeout_s: float | None) -> _AsyncFunctionCall:
        self.requests.append(request)
        return _AsyncFunctionCall(self._handler(request))

    async def stop(self, request_id: str, timeout_s: float) -> None:
        self._same.stop(request_id, timeout_s)

    async def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return self._same.metadata(model, timeout_s)

    async def decoupled(self, model: str, timeout_s: float | None) -> bool:
        return self._same.decoupled(model, timeout_s)

    async def health(self, model: str, timeout_s: float | None) -> Health:
        return self._same.health(model, timeout_s)

    async def server(self, timeout_s: float | None) -> ServerInfo:
        return self._same.server(timeout_s)

    async def models(self, timeout_s: float | None) -> list[ModelState]:
        return self._same.models(timeout_s)

    async def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]:
        return self._same.statistics(model, timeout_s)

    async def close(self) -> None:
        self._same.close()


class _AsyncFunctionCall:
    def __init__(self, chunks: AsyncIterator[Chunk]) -> None:
        self._chunks, self._cancelled = chunks, False

    async def read(self) -> Chunk | None:
        if self._cancelled:
            raise Cancelled("the call was cancelled")
        try:
            return await self._chunks.__anext__()
        except StopAsyncIteration:
            return None

    def cancel(self) -> None:
        self._cancelled = True
