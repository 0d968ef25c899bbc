"""Clients that leave: the engine stops working for them, the others get exactly their tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeRepository
from llama_fp4 import Chunk, Client
from processes import PATIENCE_S, engine_of, eventually, is_alive, triton_of
from server_process import ServerProcess, free_ports
from triton_calls import stream

STEP_S = 0.03
LONG = 2000  # tokens: a minute, twice as long as anything here is waited for


@pytest.fixture(scope="module")
def paced_server(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """An engine for two sequences at a time, at 33 tokens a second each."""
    arguments = ("--runtime", "replay", "--step-seconds", str(STEP_S), "--max-batch-size", "2")
    repository = make_repository(*arguments)
    server = ServerProcess(
        repository, free_ports(), tmp_path_factory.mktemp("paced") / "server.log"
    )
    server.start()
    yield server
    # Triton 2.51 keeps a request whose RPC was cancelled just as it ended, and then exits with 1.
    assert server.stop() in (0, 1)


@pytest.fixture
def paced_client(paced_server: ServerProcess) -> Iterator[Client]:
    with Client(paced_server.ports.url("grpc")) as client:
        yield client


def wait_until_the_engine_rests(server: ServerProcess) -> None:
    engine = engine_of(server.pid)

    def rests() -> bool:
        before = wakeups(engine)
        time.sleep(20 * STEP_S)  # what is observed: the engine waits once a step
        return wakeups(engine) - before < 5

    eventually(rests, "the engine makes no more steps")


def wakeups(pid: int) -> int:
    """How often the process has waited so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def leave(chunks: Iterator[Chunk]) -> None:
    """What leaving the loop over them does."""
    chunks.close()  # type: ignore[attr-defined]


def test_a_client_that_leaves_frees_its_slot(paced_client: Client) -> None:
    """Two long streams fill the batch; a third can only run when one of them is left."""
    long = [paced_client.stream("Hello", max_tokens=LONG) for _ in range(2)]
    for chunks in long:
        next(chunks)
    leave(long[0])
    assert paced_client.generate("Hi", max_tokens=3, timeout_s=PATIENCE_S)
    leave(long[1])


def test_the_engine_rests_when_the_last_client_has_left(
    paced_server: ServerProcess, paced_client: Client
) -> None:
    chunks = paced_client.stream("Hello", max_tokens=LONG)
    next(chunks)
    leave(chunks)
    wait_until_the_engine_rests(paced_server)


def test_the_engine_rests_when_a_stop_word_is_matched(
    paced_server: ServerProcess, paced_client: Client
) -> None:
    answer = paced_client.generate("Hello there", max_tokens=LONG, stop_words=["lo th"])
    assert answer == "Hel"
    wait_until_the_engine_rests(paced_server)


def test_a_stop_request_ends_the_stream_of_that_id(paced_server: ServerProcess) -> None:
    ones = {name: np.ones((1, 1), np.int32) for name in ("input_ids", "input_lengths")}
    long = {
        **ones,
        "request_output_len": np.array([[LONG]], np.int32),
        "streaming": np.array([[True]]),
    }
    responses = stream(paced_server, "tensorrt_llm", long, request_id="mine")
    next(responses)
    stop = {**long, "stop": np.array([[True]])}
    for request_id in ("unknown", "mine"):
        ((tensors, final),) = stream(paced_server, "tensorrt_llm", stop, request_id=request_id)
        assert final
        assert tensors["sequence_length"].item() == 0
    *_, (last, final) = responses
    assert final
    assert last["finish_reason"].item() == b"cancelled"


def test_a_stop_request_needs_an_id(paced_server: ServerProcess) -> None:
    names = ("input_ids", "input_lengths", "request_output_len")
    stop = {**{name: np.ones((1, 1), np.int32) for name in names}, "stop": np.array([[True]])}
    with pytest.raises(Exception, match="stop is true, allowed only with a request id"):
        list(stream(paced_server, "tensorrt_llm", stop))


def test_hundreds_leave_in_every_phase_and_the_others_do_not_notice(
    replay_repository: Path, tmp_path: Path
) -> None:
    server = ServerProcess(replay_repository, free_ports(), tmp_path / "server.log")
    server.start()
    try:
        with Client(server.ports.url("grpc")) as client:
            expected = client.generate("Hello there", max_tokens=300)
            storm(client, expected)
            assert client.generate("Hello there", max_tokens=300) == expected
        assert is_alive(triton_of(server.pid))
    finally:
        assert server.stop() in (0, 1)  # as above


def storm(client: Client, expected: str) -> None:
    wrong: list[str] = []

    def leave(index: int) -> None:
        for received, _ in enumerate(client.stream("Hello there", max_tokens=1 + index % 60)):
            if received >= index % 4:
                break

    def stay() -> None:
        text = "".join(chunk.text for chunk in client.stream("Hello there", max_tokens=300))
        if text != expected:
            wrong.append(text)

    for start in range(0, 600, 20):
        threads = [threading.Thread(target=leave, args=(start + i,)) for i in range(20)]
        threads += [threading.Thread(target=stay) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
