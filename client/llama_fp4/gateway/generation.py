"""The answers to one request as one flow of chunks: several prompts, several choices each."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from llama_fp4.answers import Chunk
from llama_fp4.errors import Cancelled
from llama_fp4.gateway.backend import Backend
from llama_fp4.model_contract import Prompt
from llama_fp4.sampling import UINT64_MAX, SamplingParams

Arrived = list[tuple[int, Chunk]]  # the choice's index, and its chunk


@dataclass(frozen=True)
class Work:
    """What the server is asked for."""

    prompts: Sequence[Prompt]
    params: SamplingParams
    choices: int  # for each prompt
    request_id: str
    stream: bool

    @property
    def answers(self) -> int:
        """To all prompts together."""
        return len(self.prompts) * self.choices


@dataclass
class Usage:
    """Tokens as the server has counted them."""

    prompt: int = 0
    completion: int = 0


class Generation:
    """`async with Generation(backend, work) as generation:`, then `await generation.arrived()`.

    Leaving the block cancels on the server whatever still runs.
    """

    def __init__(self, backend: Backend, work: Work) -> None:
        self._backend, self._work = backend, work
        self._arrived: deque[tuple[int, Chunk]] = deque()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._error: BaseException | None = None
        self._running = work.answers
        self.usage = Usage()

    async def __aenter__(self) -> Generation:
        work, loop = self._work, asyncio.get_running_loop()
        for index in range(self._running):
            prompt = work.prompts[index // work.choices]
            read = self._read(index, prompt, _seeded(work.params, index % work.choices))
            self._tasks.append(loop.create_task(read))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        running = [task for task in self._tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.gather(*running, return_exceptions=True)

    async def arrived(self) -> Arrived:
        """All chunks that have come since the last call, at least one; [] when all have ended.

        Raises the `LlamaError` of the first answer that failed, after the chunks before it.
        """
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if not self._running:
                return []
            self._wake.clear()
            await self._wake.wait()
            await asyncio.sleep(0)  # what comes in the same turn of the loop leaves with it
        found = list(self._arrived)
        self._arrived.clear()
        return found

    async def _read(self, index: int, prompt: Prompt, params: SamplingParams) -> None:
        work, usage = self._work, self.usage
        stream = self._backend.stream(prompt, params, work.request_id, work.stream)
        try:
            async with stream:
                async for chunk in stream:
                    usage.completion += chunk.num_output_tokens
                    if chunk.final and index % work.choices == 0:
                        usage.prompt += chunk.num_input_tokens
                    if chunk.final and chunk.finish_reason == "cancelled":
                        raise Cancelled("the request was cancelled on the server")
                    self._arrived.append((index, chunk))
                    self._wake.set()
            self._running -= 1
        except Exception as error:  # of our own too: the reader must not wait forever
            self._error = self._error or error
        self._wake.set()


def _seeded(params: SamplingParams, choice: int) -> SamplingParams:
    """As the ensemble does for `num_return_sequences`: the seeds `seed`, `seed` + 1, ..."""
    if params.seed is None or not choice:
        return params
    return dataclasses.replace(params, seed=(params.seed + choice) & UINT64_MAX)
