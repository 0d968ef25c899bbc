"""TensorRT-LLM's results: one object for each request, changed by every response.

Source: tensorrt_llm/executor/result.py of 1.2 (`GenerationResultBase`, `CompletionOutput`,
`IterationResult`) and tensorrt_llm/executor/utils.py.
"""

from __future__ import annotations

import asyncio
import queue
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

NO_LOOP = (
    "The asyncio event loop was not present during initialization, so async operations are not "
    "available."
)


class RequestError(RuntimeError):
    """The error raised when the request is failed."""


@dataclass
class Response:
    """What the worker sends: of one request and one step."""

    tokens: list[int]
    finish: str = ""  # "END_ID", "STOP_WORDS", "LENGTH", "TIMED_OUT", "CANCELLED"
    error: str = ""
    logprobs: list[Any] | None = None  # from the first token on
    metrics: Any = None


@dataclass
class CompletionOutput:
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    request_perf_metrics: Any = None
    _last_token_ids_len: int = 0
    _last_logprobs_len: int = 0

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]

    @property
    def logprobs_diff(self) -> list[Any]:
        return self.logprobs[self._last_logprobs_len :]


class LoopQueue:
    """Belongs to the asyncio loop that runs when it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, item: Any) -> None:
        """From any thread; a loop that has ended gets nothing any more."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self, timeout: float | None = None) -> Any:
        return await asyncio.wait_for(self._queue.get(), timeout)


def make_queues() -> tuple[LoopQueue | None, Any]:
    """The asyncio queue if a loop runs, and what the worker writes to."""
    try:
        loop_queue = LoopQueue()
    except RuntimeError:
        return None, queue.SimpleQueue()
    return loop_queue, loop_queue


class RequestOutput:
    """Made by `LLM.generate_async`."""

    def __init__(self, request_id: int, params: Any, executor: Any) -> None:
        self.request_id = request_id
        self.sampling_params = params
        self.outputs = [CompletionOutput()]
        self.aqueue, self.queue = make_queues()
        self._executor = executor
        self._done = False
        self._aborted = False
        self.error: str | None = None

    @property
    def finished(self) -> bool:
        return self._done

    def abort(self) -> None:
        self._executor.abort_request(self.request_id)
        self._aborted = True

    def aborted(self) -> bool:
        return self._aborted

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Ignores its timeout, as the library does."""
        while not self._done:
            self._handle_response(self.queue.get())
        return self

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self._done:
            raise StopAsyncIteration
        assert self.aqueue is not None, NO_LOOP
        self._handle_response(await self.aqueue.get())
        return self

    def _handle_response(self, response: Response) -> None:
        self._executor.raise_background_error()
        if response.error and self._executor.keeps_errors:
            self.error, self._done = response.error, True
            return
        if response.error:
            raise RequestError(response.error)
        self._done = bool(response.finish)
        output = self.outputs[0]
        output._last_token_ids_len = len(output.token_ids)
        output.token_ids.extend(response.tokens)
        if response.logprobs is not None:
            output._last_logprobs_len = len(output.logprobs)
            output.logprobs += response.logprobs[output._last_logprobs_len :]
            assert len(output.logprobs) == len(output.token_ids)  # as the library asserts
        if response.metrics is not None:
            output.request_perf_metrics = response.metrics
        match response.finish:
            case "END_ID":
                output.finish_reason = "stop"
            case "STOP_WORDS":
                output.finish_reason = "stop"
                self._take_off_stop_word(output)
            case "LENGTH":
                output.finish_reason = "length"
            case "TIMED_OUT":
                output.finish_reason = "timeout"
            case "CANCELLED":
                output.finish_reason = "cancelled"

    def _take_off_stop_word(self, output: CompletionOutput) -> None:
        for token in self.sampling_params.stop_token_ids or []:
            if output.token_ids[-1:] == [token]:
                output.stop_reason = token
                output.token_ids = output.token_ids[:-1]
                break


class IterationResult:
    """Statistics; they end when none comes for a while, and go on with the next request."""

    def __init__(self) -> None:
        self.aqueue, self.queue = make_queues()
        self.timeout = 2.0
        self._done = False

    def mark_undone(self) -> None:
        self._done = False

    def __aiter__(self) -> IterationResult:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._done:
            raise StopAsyncIteration
        assert self.aqueue is not None, NO_LOOP
        try:
            stats: dict[str, Any] = await self.aqueue.get(self.timeout)
        except asyncio.TimeoutError:
            self._done = True
            raise StopAsyncIteration from None
        return stats


def perf_metrics(first_scheduled: Any) -> SimpleNamespace:
    """`RequestPerfMetrics`: times are `timedelta`s of the steady clock."""
    timing = SimpleNamespace(first_scheduled_time=first_scheduled)
    return SimpleNamespace(timing_metrics=timing)
