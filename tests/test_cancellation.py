"""Clients that leave: the engine stops working for them, the others get exactly their tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeRepository
from llama_fp4 import Client
from processes import engine_of, eventually, is_alive, triton_of
from server_process import ServerProcess, free_ports
from triton_calls import stream


@pytest.fixture(scope="module")
def paced_server(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """An engine for two sequences at a time, at 200 tokens a second each."""
    repository = make_repository(
        "--runtime", "replay", "--step-seconds", "0.005", "--max-batch-size", "2"
    )  # fmt: skip
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


def wakeups(pid: int) -> int:
    """How often the engine process has waited so far; it waits once a step."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def test_a_client_that_leaves_frees_its_slot(paced_client: Client) -> None:
    """Two streams of ten seconds fill the batch; a third can only run when one of them is left."""
    long = [paced_client.stream("Hello", max_tokens=2000) for _ in range(2)]
    for chunks in long:
        next(chunks)
    long[0].close()  # type: ignore[attr-defined]
    assert paced_client.generate("Hi", max_tokens=3)
    assert next(long[1]).finish_reason == ""  # still running: it was not the end that freed a slot
    long[1].close()  # type: ignore[attr-defined]


def test_the_engine_rests_when_the_last_client_has_left(
    paced_server: ServerProcess, paced_client: Client
) -> None:
    engine = engine_of(paced_server.pid)
    chunks = paced_client.stream("Hello", max_tokens=2000)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]

    def rests() -> bool:
        before = wakeups(engine)
        paced_client.is_ready()
        threading.Event().wait(0.1)  # twenty steps, were there any
        return wakeups(engine) - before < 10

    eventually(rests, "the engine makes no more steps")


def test_a_stop_request_ends_the_stream_of_that_id(paced_server: ServerProcess) -> None:
    ones = {name: np.ones((1, 1), np.int32) for name in ("input_ids", "input_lengths")}
    long = {
        **ones,
        "request_output_len": np.array([[2000]], np.int32),
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
