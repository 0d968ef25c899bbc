"""The process that sends the requests, in an asyncio loop without gevent.

Under gevent every gRPC response crosses a thread and a greenlet, which costs more CPU than the rest
of the load test. sender_process.py starts this file; commands arrive on standard input and answers
leave on standard output, both pickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from command_line.options import RunOptions

from sending import sdk
from sending.load_round import LoadRound
from sending.messages import FAILED, HEARD, REFUSED, RETURNED, Prepared, Report, RoundPlan
from sending.prepare import first_problem, prepare
from sending.source import LoadSource

REPORT_S = 1.0
CLOSE_S = 2.0
Hear = Callable[[Any], None]


class Sender:
    """Runs the commands of one Locust process: each names a coroutine method, with arguments."""

    def __init__(self, tell: Callable[[tuple[int, str, Any]], None]) -> None:
        self.ended = asyncio.Event()
        self._tell = tell
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._client: sdk.Client | None = None
        self._url = ("", "")
        self._source: LoadSource | None = None
        self._round: LoadRound | None = None
        self._users = 0

    def obey(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        """Start command `number`; its progress and its result are sent back with that number."""
        task = asyncio.create_task(self._answer(number, name, arguments))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            hear: Hear = lambda item: self._tell((number, HEARD, item))  # noqa: E731
            self._tell((number, RETURNED, await getattr(self, name)(hear, *arguments)))
        except ValueError as error:
            self._tell((number, REFUSED, str(error)))
        except Exception as error:
            traceback.print_exc()
            self._tell((number, FAILED, f"{type(error).__name__}: {error}"))

    async def cancel(self, hear: Hear, number: int) -> None:
        """Cancel a command whose result is no longer wanted."""
        if task := self._tasks.get(number):
            task.cancel()

    async def prepare(self, hear: Hear, options: RunOptions) -> Prepared:
        """Prepare the master; `hear` gets each step. Raises ValueError with one sentence."""
        hear("making the prompts")
        self._source = LoadSource(options)
        return await prepare(self._source, await self._connected(options), options, hear)

    async def make_ready(self, hear: Hear, options: RunOptions) -> str:
        """Prepare a worker; returns "" or the sentence that says why it cannot load."""
        try:
            self._source = LoadSource(options)
        except ValueError as error:
            return str(error)
        return await first_problem(await self._connected(options), options)

    async def load(self, hear: Hear, plan: RoundPlan) -> None:
        """Run a round; `hear` gets a `Report` every second and at the end."""
        self._source = self._source or LoadSource(plan.options)  # an earlier sender made it
        client = await self._connected(plan.options)
        current = self._round = LoadRound(plan, self._source, client)
        current.set_users(self._users)
        reporter = asyncio.create_task(_report_on(current, hear))
        try:
            await current.run()
        finally:
            reporter.cancel()
            hear(current.collect())
            self._round = None

    async def set_users(self, hear: Hear, users: int) -> None:
        """Set the number of users of a closed loop."""
        self._users = users
        if self._round is not None:
            self._round.set_users(users)

    async def change_rate(self, hear: Hear, at: float, rate: float) -> None:
        """Change the running round's rate from `at` seconds on."""
        if self._round is not None:
            self._round.curve.change(at, rate)

    async def stop(self, hear: Hear, drain: bool) -> None:
        """As `LoadRound.stop`."""
        if self._round is not None:
            self._round.stop(drain)

    async def close(self) -> None:
        """Cancel everything and tell the server, before the process ends."""
        for task in self._tasks.values():
            task.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._leave(), CLOSE_S)

    async def _leave(self) -> None:
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._client is not None:
            await asyncio.sleep(0)  # cancelled streams must tell the server first
            await self._client.close()

    async def _connected(self, options: RunOptions) -> sdk.Client:
        if self._client is None or self._url != (options.url, options.model):
            if self._client is not None:
                await self._client.close()
            self._url = (options.url, options.model)
            self._client = sdk.open_client(*self._url)
        return self._client


async def _report_on(current: LoadRound, hear: Callable[[Report], None]) -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        hear(current.collect())


async def main() -> None:
    """Run until standard input ends, which it does when the Locust process has ended in any way."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    told: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
    sender, loop = Sender(told.put), asyncio.get_running_loop()

    def listen() -> None:
        with contextlib.suppress(EOFError):
            while True:
                command = pickle.load(sys.stdin.buffer)
                loop.call_soon_threadsafe(sender.obey, *command)
        loop.call_soon_threadsafe(sender.ended.set)

    def answer() -> None:
        # In a thread, so that a Locust process that reads late does not delay the load.
        with contextlib.suppress(BrokenPipeError):
            while True:
                pickle.dump(told.get(), answers, pickle.HIGHEST_PROTOCOL)
                answers.flush()

    for work in (listen, answer):
        threading.Thread(target=work, daemon=True).start()
    await sender.ended.wait()
    await sender.close()


if __name__ == "__main__":
    asyncio.run(main())
