"""The engine process dies or hangs: every open stream ends with an error, then it serves again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_fp4 import Client, LlamaError
from serving.child_server import ServerProcess, free_ports

from tests.conftest import MakeRepository
from tests.support.processes import engine_of, eventually, is_alive


@pytest.fixture(scope="module")
def server(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    repository = make_repository("--runtime", "replay", "--step-seconds", "0.01")
    shorten_hang_timeout(repository / "tensorrt_llm" / "1" / "engine" / "engine.json")
    server = ServerProcess(
        repository, free_ports(), tmp_path_factory.mktemp("deaths") / "server.log"
    )
    with server:
        yield server


def shorten_hang_timeout(engine_json: Path) -> None:
    document = json.loads(engine_json.read_text())
    document["limits"]["hang_timeout_s"] = 1.0
    engine_json.unlink()  # a hard link
    engine_json.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "the engine process was killed by signal 9"),
        (signal.SIGSEGV, "the engine process was killed by signal 11"),
        (signal.SIGSTOP, "the engine process made no step in 1 s"),
    ],
)
def test_open_streams_end_and_service_returns(
    server: ServerProcess, number: signal.Signals, words: str
) -> None:
    with Client(server.ports.url("grpc")) as client:
        streams = [client.stream(f"Hello {index}", max_tokens=2000) for index in range(4)]
        for chunks in streams:
            next(chunks)
        engine = engine_of(server.pid)
        os.kill(engine, number)
        for chunks in streams:
            with pytest.raises(LlamaError, match=words):
                list(chunks)
        eventually(lambda: answers(client), "the engine restarts and answers")
    assert not is_alive(engine)


def answers(client: Client) -> bool:
    try:
        return client.generate("Hello", max_tokens=3).text.startswith("Hel")
    except LlamaError as error:
        if "restarted" not in str(error):
            raise
        return False
