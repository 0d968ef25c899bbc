"""The whole ensemble through the real server, with a GPU's runtime in its engine process.

Run by `make test-gpu` in the server's environment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from assemble_repository import assemble
from llama_fp4 import Client, LlamaError
from serving.child_server import ServerProcess

from tests.conftest import serving
from tests.support.golden import PROMPTS, without_end
from tests.support.processes import engine_of, eventually, is_alive
from tests.support.triton_calls import generate_tokens
from tests.with_gpu.client_processes import ClientProcesses
from tests.with_gpu.gpu_settings import OUTPUT_TOKENS, STREAMS, Setting


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
        assert same >= (len(PROMPTS) if setting.is_exact("demo") else 45)

    def test_a_dead_engine_process_is_reported_and_replaced(self, server: ServerProcess) -> None:
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
        figures = {}
        with closing(ClientProcesses(server.ports.url("grpc"), max(STREAMS))) as clients:
            for streams in STREAMS:
                chosen = [setting.prompts[n % len(setting.prompts)] for n in range(streams)]
                clients.ask(chosen)  # shapes seen first cost more
                began = time.perf_counter()
                tokens = clients.ask(chosen)
                figures[streams] = tokens / (time.perf_counter() - began)
                assert tokens == streams * OUTPUT_TOKENS
        setting.write_figures("ensemble", figures)
