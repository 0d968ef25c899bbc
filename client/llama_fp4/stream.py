"""The chunks of one request as an iterator and a context manager."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType

from llama_fp4.answers import Chunk, Completion, Timing
from llama_fp4.errors import LlamaError, RequestTimeout
from llama_fp4.model_contract import Request
from llama_fp4.request_state import RequestState
from llama_fp4.transports.base import Call, Transport
from llama_fp4.watchdog import Watchdog


class Stream:
    """`for chunk in stream`: the request is sent when the stream is made.

    Leaving the loop or the `with` block, an exception, `close()` and the garbage collector all
    cancel the request on the server. One thread reads; any thread may close. Reading raises
    `LlamaError`, also when the stream was left before its end; after its end it gives nothing more.
    """

    def __init__(
        self,
        transport: Transport,
        watchdog: Watchdog,
        request: Request,
        state: RequestState,
        refused: Callable[[LlamaError], None] | None = None,
    ) -> None:
        self._transport, self._watchdog = transport, watchdog
        self._request, self._state, self._refused = request, state, refused
        self._call: Call | None = None
        self._closed = False
        self._process = os.getpid()
        self._call = self._start()

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

    def close(self) -> None:
        """Cancel the request on the server if it still runs. Chunks that were not read are lost."""
        self._closed = True
        call = self._ended()
        if call is not None:
            call.cancel()
            self._stop()

    def __del__(self) -> None:
        # Not in a fork, where the call is the parent's. In a thread, as cancelling takes time and
        # the collector runs anywhere; when the interpreter ends there are no new threads.
        if getattr(self, "_call", None) is not None and self._process == os.getpid():
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=self.close, name="llama-fp4-close", daemon=True).start()

    def __iter__(self) -> Iterator[Chunk]:
        self._check_not_left()
        try:
            while (chunk := self._read()) is not None:
                yield chunk
        finally:
            self.close()

    def __next__(self) -> Chunk:
        self._check_not_left()
        chunk = self._read()
        if chunk is None:
            raise StopIteration
        return chunk

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_not_left(self) -> None:
        if self._call is None and not self._state.finished:
            raise self._state.left_error()

    def _read(self) -> Chunk | None:
        call, state = self._call, self._state
        while call is not None:
            try:
                chunk = call.read()
            except LlamaError as error:
                call = self._failed(error)
                continue
            except BaseException:
                self.close()
                raise
            if chunk is None:
                if self._ended() is None:  # closed from elsewhere
                    return None
                raise state.incomplete_error()
            state.add(chunk)
            if chunk.final:
                self._ended()
            elif chunk.index == 0 and state.limits_gaps:
                self._watchdog.wake()
            return chunk
        return None

    def _start(self) -> Call | None:
        """Send the request, and again after a retryable error; None if the stream was closed."""
        state = self._state
        while not self._closed:
            left = state.begin_attempt()
            try:
                call = self._transport.start(self._request, left)
            except LlamaError as error:
                self._pause(error)
                continue
            self._call = call
            if self._closed:  # from elsewhere, before there was a call to cancel
                self.close()
                return None
            if state.has_token_limits:
                self._watchdog.watch(state, weakref.WeakMethod(self._expire))
            return call
        return None

    def _failed(self, error: LlamaError) -> Call | None:
        """The call of the next attempt; None if the stream was closed. May raise the error."""
        if self._ended() is None:
            return None
        self._pause(error)
        return self._start()

    def _pause(self, error: LlamaError) -> None:
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
        time.sleep(pause)
        state.timing.ended_at = 0.0

    def _expire(self) -> None:
        call = self._call
        if call is not None:
            self._state.expire()
            call.cancel()

    def _ended(self) -> Call | None:
        """Take the call away; None if another thread has done so."""
        call, self._call = self._call, None
        if call is not None:
            self._state.end()
            if self._state.has_token_limits:
                self._watchdog.forget(self._state)
        return call

    def _stop(self) -> None:
        if self._request.stoppable:
            self._transport.stop(self.request_id, self._state.stop_limit_s())
