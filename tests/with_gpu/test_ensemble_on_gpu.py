"""The whole ensemble through the real server, with a GPU's runtime in its engine process.

Run by `make test-gpu` in the server's environment.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from assemble_repository import assemble
from conftest import serving
from golden import PROMPTS, without_end
from llama_fp4 import Client, LlamaError
from processes import engine_of, eventually, is_alive
from server_process import ServerProcess
from triton_calls import generate_tokens
from with_gpu.gpu_settings import OUTPUT_TOKENS, STREAMS, Setting

STREAMS_OF_A_CLIENT = 32  # one process with more would be the bottleneck


def serve(setting: Setting, size: str, folder: Path) -> Iterator[ServerProcess]:
    assemble(setting.engine(size), folder / "model_repository")
    yield from serving(folder / "model_repository", folder)


@pytest.fixture(scope="class")
def demo(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    yield from serve(setting, "demo", tmp_path_factory.mktemp("gpu-demo"))


@pytest.fixture(scope="class")
def large(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    yield from serve(setting, "large", tmp_path_factory.mktemp("gpu-large"))


class TestDemoCheckpoint:
    @pytest.fixture
    def server(self, demo: ServerProcess) -> ServerProcess:
        return demo

    def test_golden_tokens_and_texts(self, server: ServerProcess, setting: Setting) -> None:
        same = 0
        with Client(server.ports.url("grpc")) as client:
            for one in PROMPTS:
                tokens, reason = generate_tokens(server, one["prompt_ids"], one["max_new_tokens"])
                question = one["messages"] if one["messages"] is not None else one["prompt"]
                chunks = list(client.stream(question, max_tokens=one["max_new_tokens"]))
                text = "".join(chunk.text for chunk in chunks)
                expected = (without_end(one["tokens"]), one["finish_reason"], one["text"])
                same += (tokens, reason, text) == expected
        assert same >= (45 if setting.computes_in_fp4 else len(PROMPTS))

    def test_a_dead_engine_process_is_told_and_mended(self, server: ServerProcess) -> None:
        engine = engine_of(server.pid)
        with Client(server.ports.url("grpc")) as client:
            stream = iter(client.stream("Once upon a time", max_tokens=1500, ignore_eos=True))
            next(stream)
            os.kill(engine, signal.SIGKILL)
            with pytest.raises(LlamaError, match="engine process"):
                list(stream)
            eventually(lambda: not is_alive(engine), "it is gone")
            end = time.monotonic() + 170
            while not answers(client):
                assert time.monotonic() < end, server.log()[-3000:]
                time.sleep(1)


def answers(client: Client) -> bool:
    try:
        return bool(list(client.stream("Hello", max_tokens=2)))
    except LlamaError:  # the engine is being started anew
        return False


class TestLargeRandomCheckpoint:
    @pytest.fixture
    def server(self, large: ServerProcess) -> ServerProcess:
        return large

    @pytest.mark.timeout(600)
    def test_tokens_per_second(self, server: ServerProcess, setting: Setting) -> None:
        """Printed beside the library called directly; nothing is asserted of times."""
        url = server.ports.url("grpc")
        figures = {}
        with get_context("spawn").Pool(-(-max(STREAMS) // STREAMS_OF_A_CLIENT)) as pool:
            for streams in STREAMS:
                ask_all(pool, url, setting.prompts, streams)
                began = time.perf_counter()
                tokens = ask_all(pool, url, setting.prompts, streams)
                figures[streams] = tokens / (time.perf_counter() - began)
                assert tokens == streams * OUTPUT_TOKENS
        setting.write_figures("ensemble", figures)


def ask_all(pool: object, url: str, prompts: list[str], streams: int) -> int:
    """Tokens of `streams` answers at once, over a pool's processes."""
    chosen = [prompts[n % len(prompts)] for n in range(streams)]
    parts = [chosen[n : n + STREAMS_OF_A_CLIENT] for n in range(0, streams, STREAMS_OF_A_CLIENT)]
    return sum(pool.starmap(ask_some, [(url, part) for part in parts], chunksize=1))  # type: ignore[attr-defined]


@functools.cache
def client_of(url: str) -> Client:
    """One connection for each process, made before the clock runs."""
    return Client(url)


def ask_some(url: str, prompts: list[str]) -> int:
    """In a process of its own."""

    def ask(prompt: str) -> int:
        chunks = client_of(url).stream(prompt, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
        return sum(chunk.num_output_tokens for chunk in chunks)

    with ThreadPoolExecutor(len(prompts)) as threads:
        return sum(threads.map(ask, prompts))
