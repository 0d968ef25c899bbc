"""TensorRT-LLM's asyncio side: a loop on a thread of its own, and the queue of what comes of it.

The library's results belong to the asyncio loop that runs when a request is made. So requests are
made, awaited and aborted here, and their tokens are handed to the engine's thread over a queue.
Requests wait here too, in the order of their priority, until the batch has room for them: the
library knows no priority before 1.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from token_engine.interface import Fault, GenerationRequest, TokenDelta
from token_engine.tensorrt_llm_results import IncompleteResponse, one_line, read_gain
from token_engine.tensorrt_llm_sampling import Part, first_part, next_part

ABORT_PATIENCE_S = 10.0  # for the last response of an aborted request; then its place is free
CLOSE_PATIENCE_S = 2.0
STATS_PAUSE_S = 0.2
WATCH_S = 1.0


class EngineLost(RuntimeError):
    """TensorRT-LLM is dead or hangs; the message says how that was seen."""


@dataclass(frozen=True, slots=True)
class KvBlocks:
    """Of the whole KV cache, as the library reported last."""

    total: int = 0
    used: int = 0


@dataclass(eq=False, slots=True)
class _Job:
    request: GenerationRequest
    task: asyncio.Task[None] | None = None
    result: Any = None  # the library's, once it has the request
    cancelled: bool = False
    made: list[int] = field(default_factory=list)
    first_scheduled_ns: int = 0


class GenerationLoop:
    """Start with the constructor, end with `close`. All methods are for the engine's thread."""

    def __init__(
        self,
        llm: Any,
        make_params: Callable[[Part], Any],
        request_error: type[Exception],
        most_running: int,
        hang_timeout_s: float,
    ) -> None:
        self._llm = llm
        self._make_params = make_params
        self._request_error = request_error
        self._most_running = most_running
        self._hang_timeout_s = hang_timeout_s
        self._waiting: dict[int, _Job] = {}  # in order of arrival
        self._running: dict[int, _Job] = {}  # in the library
        self._outbox: queue.SimpleQueue[TokenDelta | Exception] = queue.SimpleQueue()
        self._last_sign = time.monotonic()
        self._stats_task: asyncio.Task[None] | None = None
        self.kv_blocks = KvBlocks()
        self._loop = asyncio.new_event_loop()
        self._watch_task = self._loop.create_task(self._watch())
        self._thread = threading.Thread(target=self._run, name="tensorrt-llm-loop", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""
        self._loop.call_soon_threadsafe(self._enqueue, _Job(request))

    def cancel(self, key: int) -> None:
        """Abort a request; deltas that are on their way still come."""
        self._loop.call_soon_threadsafe(self._abort, key)

    def take(self, patience_s: float) -> list[TokenDelta]:
        """What has come, waiting so long for the first; raises what is fatal."""
        items: list[TokenDelta | Exception] = []
        with contextlib.suppress(queue.Empty):
            items.append(self._outbox.get(timeout=patience_s))
            while True:
                items.append(self._outbox.get_nowait())
        if not items and not self._thread.is_alive():
            raise EngineLost("the thread that speaks to TensorRT-LLM has ended")
        deltas: list[TokenDelta] = []
        for item in items:
            if isinstance(item, Exception):
                raise item
            deltas.append(item)
        return deltas

    def counts(self) -> tuple[int, int]:
        """Requests in the library, and waiting for it."""
        return len(self._running), len(self._waiting)

    def close(self) -> None:
        """Abort everything and end the thread."""
        if self._thread.is_alive():
            closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
            with contextlib.suppress(Exception):  # then the library hangs: nobody waits for it
                closing.result(CLOSE_PATIENCE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_PATIENCE_S)

    # From here on: on the loop's thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _enqueue(self, job: _Job) -> None:
        self._waiting[job.request.key] = job
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._most_running:
            job = min(self._waiting.values(), key=lambda waiting: waiting.request.priority)
            key = job.request.key
            if not self._running:
                self._last_sign = time.monotonic()  # idle until now, which is no hang
            self._running[key] = self._waiting.pop(key)
            job.task = self._loop.create_task(self._generate(job))

    def _abort(self, key: int) -> None:
        self._waiting.pop(key, None)
        job = self._running.get(key)
        if job is None or job.cancelled:
            return
        job.cancelled = True
        if job.result is not None:
            self._abort_result(job)
            self._loop.call_later(ABORT_PATIENCE_S, self._give_up, job)

    def _abort_result(self, job: _Job) -> None:
        try:
            job.result.abort()
        except Exception as error:  # the executor is gone
            self._lose(error)

    def _give_up(self, job: _Job) -> None:
        if job.task is not None and not job.task.done():
            job.task.cancel()

    async def _generate(self, job: _Job) -> None:
        try:
            part: Part | None = first_part(job.request)
            while part is not None and not job.cancelled:
                part = await self._run_part(job, part)
        except (self._request_error, ValueError, IncompleteResponse) as error:
            self._fail(job, error)
        except Exception as error:
            self._lose(error)
        finally:
            self._running.pop(job.request.key, None)
            self._admit()

    async def _run_part(self, job: _Job, part: Part) -> Part | None:
        """One generation of the library; returns the one that is to follow."""
        prompt = list(part.request.prompt_ids)
        params = self._make_params(part)
        # By keyword: the third positional parameter is another one.
        job.result = self._llm.generate_async(prompt, params, streaming=True)
        self._start_stats()
        async for _ in job.result:
            self._last_sign = time.monotonic()
            if job.cancelled:
                continue  # until the library has freed it
            gain = read_gain(job.result.outputs[0], part.request)
            job.made += gain.token_ids
            job.first_scheduled_ns = job.first_scheduled_ns or gain.first_scheduled_ns
            following = None
            if gain.finish_reason == "length":
                following = next_part(job.request, job.made)
            if following is not None:
                gain = replace(gain, finish_reason=None)
            if gain.token_ids or gain.finish_reason is not None:
                delta = gain.as_delta(job.request.key, job.first_scheduled_ns)
                self._outbox.put(delta)
            if following is not None or gain.finish_reason is not None:
                return following
        if not job.cancelled:
            raise IncompleteResponse("TensorRT-LLM ended the request without a reason")
        return None

    def _fail(self, job: _Job, error: Exception) -> None:
        """End one request. What the library refuses before it made a token is the request's own
        fault; afterwards it had accepted it."""
        refused = not job.made and not isinstance(error, IncompleteResponse)
        fault: Fault = "invalid" if refused else "engine"
        self._outbox.put(TokenDelta(job.request.key, (), "error", one_line(error), fault))
        if job.result is not None and not isinstance(error, self._request_error):
            self._abort_result(job)  # the library goes on with it

    def _lose(self, error: Exception) -> None:
        lost = EngineLost(f"TensorRT-LLM has failed: {one_line(error)}")
        lost.__cause__ = error
        self._outbox.put(lost)

    def _start_stats(self) -> None:
        """Only now: the library complains of whoever asks before the first request."""
        if self._stats_task is None and hasattr(self._llm, "get_stats_async"):
            self._stats_task = self._loop.create_task(self._read_stats())

    async def _read_stats(self) -> None:
        """Unread, they would pile up. They end whenever none comes for a while."""
        with contextlib.suppress(Exception):  # served without figures rather than not at all
            while True:
                async for stats in self._llm.get_stats_async(timeout=WATCH_S):
                    self._last_sign = time.monotonic()
                    kv = stats.get("kvCacheStats") or {}
                    self.kv_blocks = KvBlocks(kv.get("maxNumBlocks", 0), kv.get("usedNumBlocks", 0))
                await asyncio.sleep(STATS_PAUSE_S)

    async def _watch(self) -> None:
        """The engine's loop reports steps even when nothing comes; a hang must be seen here."""
        healthy = getattr(self._llm, "_check_health", None)
        while True:
            await asyncio.sleep(WATCH_S)
            if healthy is not None and not healthy():
                self._outbox.put(EngineLost("TensorRT-LLM's workers are dead"))
                return
            silent = time.monotonic() - self._last_sign
            if self._running and silent > self._hang_timeout_s:
                self._outbox.put(EngineLost(f"TensorRT-LLM made no step in {silent:.0f} s"))
                return

    async def _close(self) -> None:
        self._waiting.clear()
        jobs = list(self._running.values())
        for job in jobs:
            job.cancelled = True
            if job.result is not None:
                with contextlib.suppress(Exception):
                    job.result.abort()
        tasks = {job.task for job in jobs if job.task is not None}
        tasks |= {task for task in (self._stats_task, self._watch_task) if task is not None}
        while tasks:  # asyncio.wait_for, before Python 3.12, can swallow a cancellation
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)
