"""The chunks of one request as an async iterator and an async context manager."""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from time import perf_counter
from types import TracebackType
from typing import Any

from llama_fp4.answers import Chunk, Completion, Timing
from llama_fp4.errors import LlamaError, RequestTimeout
from llama_fp4.model_contract import Request
from llama_fp4.request_state import RequestState
from llama_fp4.transports.base import AsyncCall, AsyncTransport

Prepare = Callable[[], Awaitable[tuple[AsyncTransport, Request]]]


class AsyncStream:
    """`async for chunk in stream`: the request is sent on entering the loop or the block.

    Leaving the loop or the `async with` block, an exception, a cancelled task, `close()` and the
    garbage collector all cancel the request on the server. Reading raises `LlamaError`, also when
    the stream was left before its end; after its end it gives nothing more.
    """

    def __init__(
        self,
        prepare: Prepare,
        state: RequestState,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        refused: Callable[[LlamaError], None] | None = None,
    ) -> None:
        self._prepare, self._state, self._spawn = prepare, state, spawn
        self._transport: AsyncTransport | None = None
        self._request: Request | None = None
        self._call: AsyncCall | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refused = refused
        self._begun = self._closed = self._in_loop = False

    @property
    def request_id(self) -> str:
        """The id of the request on the server."""
        return self._state.request_id

    @property
    def timing(self) -> Timing:
        """What has happened so far."""
        return self._state.timing

    @property
    def completion(self) -> Completion:
        """The whole answer. Raises `IncompleteStream` before the final chunk was read."""
        return self._state.completion

    async def close(self) -> None:
        """Cancel the request on the server if it still runs. Chunks that were not read are lost."""
        self._leave()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        if self._in_loop:  # the last loop was left, and asyncio closes it a little later
            self._leave()
        self._check_not_left()
        self._in_loop = True
        try:
            while (chunk := await self._read()) is not None:
                yield chunk
        finally:
            self._in_loop = False
            self._leave()

    async def __anext__(self) -> Chunk:
        self._check_not_left()
        chunk = await self._read()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def __aenter__(self) -> AsyncStream:
        await self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _check_not_left(self) -> None:
        if self._begun and self._call is None and not self._state.finished:
            raise self._state.left_error()

    async def _read(self) -> Chunk | None:
        if not self._begun:
            await self._begin()
        call, state = self._call, self._state
        while call is not None:
            try:
                chunk = await call.read()
            except LlamaError as error:
                call = await self._failed(error)
                continue
            except BaseException:  # the task was cancelled
                self._leave()
                raise
            if chunk is None:
                if self._ended() is None:  # closed from elsewhere
                    return None
                raise state.incomplete_error()
            state.add(chunk)
            if chunk.final:
                self._ended()
            elif chunk.index == 0 and state.limits_gaps:
                self._arm()
            return chunk
        return None

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._loop = asyncio.get_running_loop()
            self._transport, self._request = await self._prepare()
            await self._start()

    async def _start(self) -> AsyncCall | None:
        """Send the request, and again after a retryable error; None if the stream was closed."""
        assert self._transport is not None
        assert self._request is not None
        while not self._closed:
            left = self._state.begin_attempt()
            try:
                self._call = await self._transport.start(self._request, left)
            except LlamaError as error:
                await self._pause(error)
                continue
            if self._closed:  # by another task, before there was a call to cancel
                self._leave()
            elif self._state.has_token_limits:
                self._arm()
            return self._call
        return None

    async def _failed(self, error: LlamaError) -> AsyncCall | None:
        """The call of the next attempt; None if the stream was closed. May raise the error."""
        if self._ended() is None:
            return None
        await self._pause(error)
        return await self._start()

    async def _pause(self, error: LlamaError) -> None:
        """Wait for the next attempt. Raises the error if there is none."""
        state = self._state
        shown = state.shown_error(error)
        pause = state.pause_before_retry(shown)
        if pause is None:
            state.end()
            if isinstance(shown, RequestTimeout):
                self._stop()
            if self._refused is not None:
                self._refused(shown)
            raise shown from (None if shown is error else error)
        await asyncio.sleep(pause)
        state.timing.ended_at = 0.0

    def _arm(self) -> None:
        """Check the deadline, which every chunk moves; the timer is set again when it fires."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = self._state.deadline - perf_counter()
        if self._call is None or left == math.inf:
            return
        if left > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(left, _look, weakref.ref(self))
            return
        self._state.expire()
        self._call.cancel()

    def __del__(self) -> None:
        # The collector may run in another thread; when the loop has ended there is no call.
        if getattr(self, "_call", None) is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._begun = self._closed = True
        call = self._ended()
        if call is not None:
            call.cancel()
            self._stop()

    def _ended(self) -> AsyncCall | None:
        """Take the call away; None if it has already ended."""
        call, self._call = self._call, None
        if call is not None:
            self._state.end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return call

    def _stop(self) -> None:
        # In a task of its own: the task that leaves may be cancelled.
        if self._request is not None and self._request.stoppable and self._transport is not None:
            limit_s = self._state.stop_limit_s()
            self._spawn(self._transport.stop(self.request_id, limit_s))


def _look(stream: weakref.ref[AsyncStream]) -> None:
    # A timer that held the stream itself would keep a dropped one alive.
    found = stream()
    if found is not None:
        found._arm()
