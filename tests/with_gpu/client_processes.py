"""Processes with the project's client in them, so that no client is what a figure measures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection

from llama_fp4 import Client

from tests.with_gpu.gpu_settings import OUTPUT_TOKENS

STREAMS_OF_ONE = 32  # one process with more would be the bottleneck


class ClientProcesses:
    """As many processes as `streams` need; each is connected when the constructor returns."""

    def __init__(self, url: str, streams: int) -> None:
        context = get_context("spawn")
        self._ends: list[Connection] = []
        for _ in range(-(-streams // STREAMS_OF_ONE)):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, url), daemon=True).start()
            theirs.close()  # else a process that died would be waited for
            self._ends.append(ours)
        for end in self._ends:
            end.recv()

    def close(self) -> None:
        """End them."""
        for end in self._ends:
            end.close()

    def ask(self, prompts: list[str]) -> int:
        """All at once; returns how many tokens their answers of OUTPUT_TOKENS had."""
        starts = range(0, len(prompts), STREAMS_OF_ONE)
        asked = list(zip(self._ends, starts, strict=False))
        for end, start in asked:
            end.send(prompts[start : start + STREAMS_OF_ONE])
        return sum(end.recv() for end, _ in asked)


def _serve(end: Connection, url: str) -> None:
    """In a process of its own, until the other end is closed."""
    with Client(url) as client, ThreadPoolExecutor(STREAMS_OF_ONE) as threads:

        def ask(prompt: str) -> int:
            chunks = client.stream(prompt, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
            return sum(chunk.num_output_tokens for chunk in chunks)

        prompts = ["Once upon a time"]  # the connection is made before any clock runs
        try:
            while True:
                end.send(sum(threads.map(ask, prompts)))
                prompts = end.recv()
        except EOFError:
            return
