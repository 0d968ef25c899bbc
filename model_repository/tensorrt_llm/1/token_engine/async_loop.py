"""What runtimes share whose library answers on an asyncio loop.

Such a library's results belong to the loop that runs when a request is made. So `AsyncLoop` runs a
loop on a thread of its own: there requests are made, awaited and aborted, and a queue hands their
tokens to the engine's thread. Requests wait here, in the order of their priority, until the
library's batch has room for them. `AsyncEngine` is the engine's side.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from token_engine.interface import Fault, GenerationRequest, TokenDelta, TokenEngine
from token_engine.library_results import (
    ODDITIES,
    IncompleteResponse,
    RefusedRequest,
    kind_and_message,
    one_line,
)

CLOSE_PATIENCE_S = 2.0
WATCH_S = 1.0
ABORT_PAUSE_S = 0.1
# Before a request is accepted, other oddities look the same as a broken library.
ODD_REQUEST = (AssertionError, NotImplementedError)
GUIDE_INPUT = "guided_decoding_guide"
GUIDE_WORDS = ("grammar", "schema", "regex", "guided", "structured")  # in the libraries' refusals


class EngineLost(RuntimeError):
    """The library is dead or hangs; the message says what showed it."""


@dataclass(eq=False, slots=True)
class Job:
    """One request on its way through the library."""

    request: GenerationRequest
    params: Any = None  # the library's, where they are made before it is the request's turn
    task: asyncio.Task[None] | None = None
    result: Any = None  # the library's, once it has the request
    accepted: bool = False  # whether the library has taken the request
    cancelled: bool = False
    ended: bool = False  # whether its last delta is on its way
    made: list[int] = field(default_factory=list)
    first_scheduled_ns: int = 0


class AsyncLoop(ABC):
    """Start with the constructor, end with `close`. Its methods are for the engine's thread."""

    library: str  # its name, in sentences
    # How it refuses a request. After it has accepted one, the same exceptions are failures.
    refusals: tuple[type[Exception], ...]

    def __init__(self, most_running: int, hang_timeout_s: float) -> None:
        self._most_running = most_running
        self._hang_timeout_s = hang_timeout_s
        self._waiting: dict[int, Job] = {}  # in order of arrival
        self._running: dict[int, Job] = {}  # in the library
        self._outbox: queue.SimpleQueue[TokenDelta | Exception] = queue.SimpleQueue()
        self._last_sign = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._helpers = {self._loop.create_task(self._watch())}
        name = f"{self.library.lower()}-loop"
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, params: Any = None) -> None:
        """Queue a request."""
        self._loop.call_soon_threadsafe(self._enqueue, Job(request, params))

    def cancel(self, key: int) -> None:
        """Abort a request; deltas that are on their way still come."""
        self._loop.call_soon_threadsafe(self._abort, key)

    def next_deltas(self, patience_s: float) -> list[TokenDelta]:
        """The deltas that have come, after waiting so long for the first; raises what is fatal."""
        items: list[TokenDelta | Exception] = []
        with contextlib.suppress(queue.Empty):
            items.append(self._outbox.get(timeout=patience_s))
            while True:
                items.append(self._outbox.get_nowait())
        if not items and not self._thread.is_alive():
            raise EngineLost(f"the thread that speaks to {self.library} has ended")
        deltas: list[TokenDelta] = []
        for item in items:
            if isinstance(item, Exception):
                raise item
            deltas.append(item)
        return deltas

    def counts(self) -> tuple[int, int]:
        """(requests in the library, requests that wait for it)."""
        return len(self._running), len(self._waiting)

    def close(self) -> None:
        """Abort everything and end the thread."""
        if self._thread.is_alive():
            closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
            with contextlib.suppress(Exception):  # then the library hangs, and nobody waits for it
                closing.result(CLOSE_PATIENCE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_PATIENCE_S)

    # From here on everything runs on the loop's thread.

    @abstractmethod
    async def _generate(self, job: Job) -> None:
        """Run a request to its last delta; or, once it is cancelled, until the library frees it."""

    @abstractmethod
    def _abort_job(self, job: Job) -> None:
        """Tell the library that a running request was cancelled."""

    def _is_healthy(self) -> bool:
        """Whether the library's workers live, as far as it shows."""
        return True

    async def _abort_until_gone(self, job: Job, abort: Callable[[Job], Awaitable[None]]) -> None:
        """Repeat `abort`, because one that comes before the library has the request is lost."""
        while job.task is not None and not job.task.done():
            try:
                await abort(job)
            except ODDITIES:  # it is this request's, which nobody waits for; asked again below
                pass
            except Exception as error:
                self._lose(error)
                return
            await asyncio.wait({job.task}, timeout=ABORT_PAUSE_S)

    def _help(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the requests, until the end of all."""
        task = self._loop.create_task(work)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _enqueue(self, job: Job) -> None:
        self._waiting[job.request.key] = job
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._most_running:
            job = min(self._waiting.values(), key=lambda waiting: waiting.request.priority)
            key = job.request.key
            if not self._running:
                self._last_sign = time.monotonic()  # idle until now, which is no hang
            self._running[key] = self._waiting.pop(key)
            job.task = self._loop.create_task(self._serve(job))

    def _abort(self, key: int) -> None:
        self._waiting.pop(key, None)
        job = self._running.get(key)
        if job is not None and not job.cancelled:
            job.cancelled = True
            self._abort_job(job)

    async def _serve(self, job: Job) -> None:
        try:
            await self._generate(job)
        except asyncio.CancelledError:
            if not job.cancelled:  # nobody here did it, and the client must learn it
                said = f"{self.library} has cancelled the request by itself"
                self._fail(job, IncompleteResponse(said))
            raise
        except (RefusedRequest, IncompleteResponse) as error:
            self._fail(job, error)
        except Exception as error:
            if isinstance(error, (*self.refusals, *(ODDITIES if job.accepted else ODD_REQUEST))):
                self._fail(job, self._of_one_request(job, error))
            else:
                self._lose(error)
        except BaseException as error:  # as a panic of a library in Rust
            self._lose(error)
            raise
        finally:
            self._running.pop(job.request.key, None)
            self._admit()

    def _of_one_request(self, job: Job, error: Exception) -> RefusedRequest | IncompleteResponse:
        """An exception turned into whose fault it is."""
        if isinstance(error, self.refusals):
            kind = IncompleteResponse if job.accepted else RefusedRequest
            return kind(one_line(error))
        said = f"{self.library} failed at the request ({kind_and_message(error)})"
        return IncompleteResponse(said)

    def _put(self, job: Job, delta: TokenDelta) -> None:
        """Hand it over; nothing comes after a last one, whatever the library still does."""
        if not job.ended:
            job.ended = delta.finish_reason is not None
            self._outbox.put(delta)

    def _fail(self, job: Job, error: Exception) -> None:
        """End one request, and no other."""
        fault: Fault = "invalid" if isinstance(error, RefusedRequest) else "engine"
        said = one_line(error)
        if fault == "invalid" and job.request.guide is not None and is_about_guide(said):
            said = f"{GUIDE_INPUT} is refused by {self.library}: {said}"
        self._put(job, TokenDelta(job.request.key, (), "error", said, fault))

    def _lose(self, error: BaseException) -> None:
        lost = EngineLost(f"{self.library} has failed: {one_line(error)}")
        lost.__cause__ = error
        self._outbox.put(lost)

    async def _watch(self) -> None:
        """The engine's loop reports steps even when nothing comes; a hang must be seen here."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                healthy = self._is_healthy()
            except Exception as error:  # else nothing would watch any more
                self._lose(error)
                return
            if not healthy:
                self._outbox.put(EngineLost(f"{self.library}'s workers are dead"))
                return
            silent = time.monotonic() - self._last_sign
            if self._running and silent > self._hang_timeout_s:
                self._outbox.put(EngineLost(f"{self.library} made no step in {silent:.0f} s"))
                return

    async def _close(self) -> None:
        self._waiting.clear()
        jobs = list(self._running.values())
        for job in jobs:
            if not job.cancelled:
                job.cancelled = True
                with contextlib.suppress(Exception):
                    self._abort_job(job)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}  # the library's among them
        while tasks:  # asyncio.wait_for, before Python 3.12, can swallow a cancellation
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)


def is_about_guide(said: str) -> bool:
    """Whether a library's refusal is about the guide, and does not name the input yet.

    It may be about something else, such as a prompt that does not fit into the KV cache.
    """
    words = said.lower()
    return GUIDE_INPUT not in words and any(word in words for word in GUIDE_WORDS)


STEP_PATIENCE_S = 0.005  # of a step for its first token; a message waits no longer either
SHUTDOWN_PATIENCE_S = 7.0  # less than the supervisor's


class AsyncEngine(TokenEngine):
    """A runtime adds `submit`, `stats` and `_shutdown_library`."""

    def __init__(self, loop: AsyncLoop) -> None:
        self._loop = loop
        self._open: set[int] = set()  # without their last delta, and not cancelled
        self._refused: list[TokenDelta] = []

    @property
    def has_work(self) -> bool:
        return bool(self._open)

    def cancel(self, key: int) -> None:
        if key in self._open:
            self._open.remove(key)
            self._refused = [delta for delta in self._refused if delta.key != key]
            self._loop.cancel(key)

    def step(self) -> list[TokenDelta]:
        """What has come since the last step; a pass of the GPU may have added nothing yet."""
        come, self._refused = self._refused, []
        come += self._loop.next_deltas(0 if come else STEP_PATIENCE_S)
        deltas = [delta for delta in come if delta.key in self._open]  # else it was cancelled
        self._open -= {delta.key for delta in deltas if delta.finish_reason}
        return deltas

    def shutdown(self) -> None:
        self._loop.close()
        # Dead workers can block it forever, and no engine restarts before this ends.
        thread = threading.Thread(target=self._shutdown_library, daemon=True)
        thread.start()
        thread.join(SHUTDOWN_PATIENCE_S)
        if thread.is_alive():
            message = f"{self._loop.library} did not shut down in {SHUTDOWN_PATIENCE_S:g} s"
            print(message, file=sys.stderr, flush=True)

    def _shutdown_library(self) -> None:
        """Free what the library holds; may hang."""
