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
from llama_fp4.request_state import Exchange
from llama_fp4.transports.base import Call, Transport
from llama_fp4.watchdog import Watchdog


class Stream:
    """`for chunk in stream`: the request runs from the moment that this is made.

    Leaving the loop, the `with` block or an exception in it ends the request on the server, as does
    `close()`, and as does dropping a stream that nobody refers to any more. One thread reads; any
    may close. Reading raises `LlamaError`, and so does reading on after the stream was left; one
    that was read to its end gives nothing more.
    """

    def __init__(
        self,
        transport: Transport,
        watchdog: Watchdog,
        request: Request,
        exchange: Exchange,
        refused: Callable[[LlamaError], None] | None = None,
    ) -> None:
        self._transport, self._watchdog = transport, watchdog
        self._request, self._exchange, self._refused = request, exchange, refused
        self._call: Call | None = None
        self._closed = False
        self._process = os.getpid()
        self._call = self._start()

    @property
    def request_id(self) -> str:
        """The request's id on the server."""
        return self._exchange.request_id

    @property
    def timing(self) -> Timing:
        """What has happened so far."""
        return self._exchange.timing

    @property
    def completion(self) -> Completion:
        """The whole answer. Raises `IncompleteStream` before the final chunk was read."""
        return self._exchange.completion

    def close(self) -> None:
        """End the request on the server if it still runs. Chunks that were not read are lost."""
        self._closed = True
        call = self._ended()
        if call is not None:
            call.cancel()
            self._stop()

    def __del__(self) -> None:
        # In a fork the call is the parent's. In a thread, as telling the server takes a while and
        # the collector runs anywhere; at the interpreter's end there are no new threads.
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
        if self._call is None and not self._exchange.finished:
            raise self._exchange.left()

    def _read(self) -> Chunk | None:
        call, exchange = self._call, self._exchange
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
                raise exchange.incomplete()
            exchange.take(chunk)
            if chunk.final:
                self._ended()
            elif chunk.index == 0 and exchange.narrows:
                self._watchdog.wake()
            return chunk
        return None

    def _start(self) -> Call | None:
        """Send the request, again if connecting fails and that is worth it; None once closed."""
        exchange = self._exchange
        while not self._closed:
            left = exchange.begin()
            try:
                call = self._transport.start(self._request, left)
            except LlamaError as error:
                self._pause(error)
                continue
            self._call = call
            if self._closed:  # from elsewhere, before there was a call to cancel
                self.close()
                return None
            if exchange.watched:
                self._watchdog.watch(exchange, weakref.WeakMethod(self._expire))
            return call
        return None

    def _failed(self, error: LlamaError) -> Call | None:
        """The call of the next attempt, None if the stream was closed, or raises the error."""
        if self._ended() is None:
            return None
        self._pause(error)
        return self._start()

    def _pause(self, error: LlamaError) -> None:
        """Wait for the next attempt. Raises the error if there shall be none."""
        exchange = self._exchange
        shown = exchange.error(error)
        pause = exchange.pause(shown)
        if pause is None:
            exchange.end()
            if isinstance(shown, RequestTimeout):
                self._stop()
            if self._refused is not None:
                self._refused(shown)
            raise shown from (None if shown is error else error)
        time.sleep(pause)
        exchange.timing.ended_at = 0.0

    def _expire(self) -> None:
        call = self._call
        if call is not None:
            self._exchange.expire()
            call.cancel()

    def _ended(self) -> Call | None:
        """Take the call away: None if somebody else has."""
        call, self._call = self._call, None
        if call is not None:
            self._exchange.end()
            if self._exchange.watched:
                self._watchdog.forget(self._exchange)
        return call

    def _stop(self) -> None:
        if self._request.stoppable:
            self._transport.stop(self.request_id)
