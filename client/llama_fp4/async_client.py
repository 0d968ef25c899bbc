"""The client for asyncio: as `Client`, in one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Literal, overload

from llama_fp4.answers import Completion, Health, ModelMetadata, ModelState, ServerInfo
from llama_fp4.async_stream import AsyncStream
from llama_fp4.client import ASK_S, Messages, checked_id
from llama_fp4.errors import (
    ClientClosed,
    InvalidRequest,
    LlamaError,
    TotalTimeout,
    UnknownModel,
    UnknownOption,
)
from llama_fp4.model_contract import Model, Prompt, Request
from llama_fp4.request_state import RequestState
from llama_fp4.sampling import SamplingParams, merged_params
from llama_fp4.settings import Keepalive, Retries, Timeouts, Tls, limit_of
from llama_fp4.transports.base import AsyncTransport
from llama_fp4.transports.choose import open_transport


class AsyncClient:
    """As `Client`, with the same arguments, methods and errors, awaited.

    It belongs to the event loop of its first call; in another one it raises `InvalidRequest`.
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        model: str = "ensemble",
        *,
        transport: AsyncTransport | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 -- frozen
        retries: Retries = Retries(),  # noqa: B008
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        keepalive: Keepalive = Keepalive(),  # noqa: B008
        token_ids: bool = True,
    ) -> None:
        self._given = transport
        self._arguments = (url, True, tls, headers, keepalive, timeouts.connect)
        self._name, self._timeouts, self._retries = model, timeouts, retries
        self._token_ids = token_ids
        self._model: Model | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        timeouts: Timeouts | None = None,
        stream: bool | None = None,
        **options: Any,
    ) -> AsyncStream:
        """As `Client.stream`; sent on entering the loop or the `async with` block."""
        merged = merged_params(params, options)
        limits, identity = timeouts or self._timeouts, checked_id(request_id)
        state = RequestState(identity, limits, self._retries, time.perf_counter())

        async def prepare() -> tuple[AsyncTransport, Request]:
            transport = self._transport()
            return transport, await self._request(prompt, merged, state, stream)

        return AsyncStream(prepare, state, self._spawn, self._refused)

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        timeouts: Timeouts | None = None,
        **options: Any,
    ) -> Completion:
        """As `Client.generate`."""
        limits = timeouts or self._timeouts
        limited = limits.first_token is not None or limits.between_tokens is not None
        streamed = None if limited else False
        async with self.stream(
            prompt, params, request_id=request_id, timeouts=limits, stream=streamed, **options
        ) as stream:
            async for _ in stream:
                pass
        return stream.completion

    @overload
    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        **more: Any,
    ) -> Coroutine[Any, Any, Completion]: ...

    @overload
    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        **more: Any,
    ) -> AsyncStream: ...

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        **more: Any,
    ) -> Coroutine[Any, Any, Completion] | AsyncStream:
        """As `Client.chat`: a coroutine, or with `stream=True` at once an `AsyncStream`."""
        if stream:
            return self.stream(messages, params, stream=True, **more)
        return self.generate(messages, params, **more)

    async def is_ready(self, timeout_s: float = 1.0) -> bool:
        """Whether the server answers and the model can be called."""
        limit_of(timeout_s)
        try:
            return (await self.health(timeout_s)).model_ready
        except LlamaError:
            return False

    async def health(self, timeout_s: float | None = ASK_S) -> Health:
        """As `Client.health`."""
        return await self._transport().health(self._name, limit_of(timeout_s))

    async def metadata(self, timeout_s: float | None = ASK_S) -> ModelMetadata:
        """The model's inputs and outputs."""
        return await self._transport().metadata(self._name, limit_of(timeout_s))

    async def server(self, timeout_s: float | None = ASK_S) -> ServerInfo:
        """The server's name and version."""
        return await self._transport().server(limit_of(timeout_s))

    async def models(self, timeout_s: float | None = ASK_S) -> list[ModelState]:
        """As `Client.models`."""
        return await self._transport().models(limit_of(timeout_s))

    async def statistics(self, timeout_s: float | None = ASK_S) -> dict[str, Any]:
        """As `Client.statistics`."""
        return await self._transport().statistics(self._name, limit_of(timeout_s))

    async def close(self) -> None:
        """As `Client.close`."""
        self._closed = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._given is not None:
            await self._given.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _transport(self) -> AsyncTransport:
        # Made within the event loop, to which it then belongs.
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClientClosed("the client was closed")
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise InvalidRequest(
                "the client belongs to another event loop: make an AsyncClient for each"
            )
        if self._given is None:
            transport: AsyncTransport = open_transport(*self._arguments)
            self._given = transport
        return self._given

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(
        self, prompt: Prompt, params: SamplingParams, state: RequestState, stream: bool | None
    ) -> Request:
        known = self._model
        model = known or await self._fetch(state, known)
        try:
            streamed = await self._streamed(model, state, stream)
            return model.request(prompt, params, state.request_id, streamed, self._token_ids)
        except UnknownOption:
            if known is None:
                raise
        model = await self._fetch(state, known)  # the server may have loaded another since
        streamed = await self._streamed(model, state, stream)
        return model.request(prompt, params, state.request_id, streamed, self._token_ids)

    async def _streamed(self, model: Model, state: RequestState, stream: bool | None) -> bool:
        """As `Client._streamed`."""
        if stream is None and model.decoupled is None:
            try:
                model.decoupled = await self._transport().decoupled(self._name, state.ask_limit_s())
            except LlamaError:
                return True
        return bool(model.decoupled if stream is None else stream)

    def _refused(self, error: LlamaError) -> None:
        if isinstance(error, (UnknownOption, UnknownModel)):
            self._model = None

    async def _fetch(self, state: RequestState, known: Model | None) -> Model:
        attempt = 1
        while True:
            seconds = state.ask_limit_s()
            try:
                return await self._ask(seconds, known)
            except LlamaError as error:
                shown = state.ask_error(error, seconds)
                if not shown.retryable or attempt == self._retries.attempts:
                    raise shown from (None if shown is error else error)
            attempt += 1
            await asyncio.sleep(self._retries.seconds_before(attempt))

    async def _ask(self, seconds: float | None, known: Model | None) -> Model:
        try:
            await asyncio.wait_for(self._lock.acquire(), seconds)
        except asyncio.TimeoutError as error:
            raise TotalTimeout("the server did not answer in time") from error
        try:
            if self._model is None or self._model is known:
                self._model = Model(await self._transport().metadata(self._name, seconds))
            return self._model
        finally:
            self._lock.release()
