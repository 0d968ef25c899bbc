"""Clients that leave: the engine stops working for them, the others get exactly their tokens."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from llama_fp4 import Client, LlamaError, Stream, Timeouts
from serving.child_server import ServerProcess, free_ports

from tests.conftest import MakeRepository, serving
from tests.support.processes import (
    PATIENCE_S,
    STEP_S,
    eventually,
    figure,
    is_alive,
    triton_of,
    wait_until_the_engine_rests,
    wait_until_the_engine_works,
)
from tests.support.triton_calls import infer_inputs, post, stream
from tests.support.upstream_calls import UpstreamStream

LONG = 2000  # tokens: a minute, twice as long as anything here is waited for


@pytest.fixture(scope="module")
def paced_server(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """An engine for two sequences at a time, at 33 tokens a second each."""
    arguments = ("--runtime", "replay", "--step-seconds", str(STEP_S), "--max-batch-size", "2")
    repository = make_repository(*arguments)
    yield from serving(repository, tmp_path_factory.mktemp("paced"))


@pytest.fixture
def paced_client(paced_server: ServerProcess) -> Iterator[Client]:
    with Client(paced_server.ports.url("grpc")) as client:
        yield client


def leave(chunks: Stream) -> None:
    """Leave a stream as a broken loop does."""
    chunks.close()


def test_a_client_that_leaves_frees_its_slot(paced_client: Client) -> None:
    """Two long streams fill the batch; a third can only run when one of them is left."""
    long = [paced_client.stream("Hello", max_tokens=LONG) for _ in range(2)]
    for chunks in long:
        next(chunks)
    leave(long[0])
    assert paced_client.generate("Hi", max_tokens=3, timeouts=Timeouts(total=PATIENCE_S)).text
    leave(long[1])


def test_the_engine_rests_when_the_last_client_has_left(
    paced_server: ServerProcess, paced_client: Client
) -> None:
    chunks = paced_client.stream("Hello", max_tokens=LONG)
    next(chunks)
    active = "llama_fp4_active_requests"
    eventually(lambda: figure(paced_server, active) == 1, "the metrics show it")
    leave(chunks)
    wait_until_the_engine_rests(paced_server)
    eventually(lambda: figure(paced_server, active) == 0, "the metrics show that it has left")


def test_the_engine_rests_when_a_stop_word_is_matched(
    paced_server: ServerProcess, paced_client: Client
) -> None:
    answer = paced_client.generate("Hello there", max_tokens=LONG, stop_words=["lo th"]).text
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


def test_a_clients_id_is_only_a_name(paced_server: ServerProcess) -> None:
    """Ids of any form; no client can hit the server's keys by accident."""
    ones = {name: np.ones((1, 1), np.int32) for name in ("input_ids", "input_lengths")}
    long = {
        **ones,
        "request_output_len": np.array([[LONG]], np.int32),
        "streaming": np.array([[True]]),
    }
    responses = stream(paced_server, "tensorrt_llm", long, request_id="mine")
    first, _ = next(responses)
    key = first["stream_key"].item()
    stop = {**long, "stop": np.array([[True]])}
    for request_id in (f"stream-key:{key}", str(key), "9" * 5000):
        ((_, final),) = stream(paced_server, "tensorrt_llm", stop, request_id=request_id)
        assert final
    assert next(responses)[0]["is_finished"].item() is False
    assert len(list(stream(paced_server, "tensorrt_llm", stop, request_id="mine"))) == 1
    *_, (last, _) = responses
    assert last["finish_reason"].item() == b"cancelled"


def test_a_unary_call_that_is_cancelled_frees_its_slot(
    paced_server: ServerProcess, paced_client: Client
) -> None:
    inputs = infer_inputs(
        {"text_input": np.array([["Hello"]], object), "max_tokens": np.array([[LONG]], np.int32)}
    )
    with triton.InferenceServerClient(paced_server.ports.url("grpc")) as client:
        ended: SimpleQueue[Any] = SimpleQueue()
        calls = [
            client.async_infer("tensorrt_llm_bls", inputs, lambda result, error: ended.put(error))
            for _ in range(2)
        ]
        wait_until_the_engine_works(paced_server)
        calls[0].cancel()
        assert "CANCELLED" in str(ended.get(timeout=PATIENCE_S))
        assert paced_client.generate("Hi", max_tokens=3, timeouts=Timeouts(total=PATIENCE_S)).text
        calls[1].cancel()
    wait_until_the_engine_rests(paced_server)


def test_http_stops_by_id(paced_server: ServerProcess) -> None:
    """`generate` has no request id in Triton 2.51; the JSON key `id` is one."""
    answers: SimpleQueue[tuple[int, str]] = SimpleQueue()
    body = {"text_input": "Hello", "max_tokens": LONG, "id": "mine"}
    thread = threading.Thread(
        target=lambda: answers.put(post(paced_server, "/v2/models/ensemble/generate", body))
    )
    thread.start()
    wait_until_the_engine_works(paced_server)
    stop = {"stop": True, "id": "mine"}
    status, _ = post(paced_server, "/v2/models/tensorrt_llm/generate", stop)
    assert status == 200
    status, answer = answers.get(timeout=PATIENCE_S)
    assert (status, json.loads(answer)["finish_reason"]) == (200, "cancelled")
    thread.join()


def test_an_http_client_that_goes_away_is_noticed_at_the_next_write(
    paced_server: ServerProcess,
) -> None:
    host, port = paced_server.ports.url("http").split(":")
    body = json.dumps({"text_input": "Hello", "max_tokens": LONG, "stream": True})
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
    connection.request("POST", "/v2/models/ensemble/generate_stream", body)
    assert connection.getresponse().readline().startswith(b"data: ")
    connection.close()
    wait_until_the_engine_rests(paced_server)


def test_a_timeout_keeps_the_text_so_far(paced_server: ServerProcess, paced_client: Client) -> None:
    chunks = list(paced_client.stream("Hello there", max_tokens=LONG, timeout_ms=500))
    assert chunks[-1].finish_reason == "timeout"
    made = sum(chunk.num_output_tokens for chunk in chunks)
    assert 1 <= made < LONG
    wait_until_the_engine_rests(paced_server)


def test_a_client_of_room_2_that_leaves_before_any_response(paced_server: ServerProcess) -> None:
    ones = {name: np.ones((1, 1), np.int32) for name in ("input_ids", "input_lengths")}
    with UpstreamStream(paced_server) as upstream:
        upstream.send("tensorrt_llm", {**ones, "request_output_len": np.array([[LONG]], np.int32)})
        wait_until_the_engine_works(paced_server)
        with pytest.raises(triton.InferenceServerException, match="cancelled"):
            upstream.close(cancel=True)
    wait_until_the_engine_rests(paced_server)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_of_our_client_that_is_too_late_frees_its_slot(
    paced_server: ServerProcess, paced_client: Client, streamed: bool
) -> None:
    """Also where no response informs Triton's next step: unstreamed, or in the queue."""

    def late(_: int) -> str:
        with pytest.raises(LlamaError) as caught:
            list(
                paced_client.stream(
                    "Hello", max_tokens=LONG, stream=streamed, timeouts=Timeouts(total=1.0)
                )
            )
        return caught.value.code

    with ThreadPoolExecutor(4) as pool:  # two of them wait for the others
        assert set(pool.map(late, range(4))) == {"DEADLINE_EXCEEDED"}
    assert paced_client.generate("Hi", max_tokens=3, timeouts=Timeouts(total=PATIENCE_S)).text
    wait_until_the_engine_rests(paced_server)


def test_a_stop_request_needs_an_id(paced_server: ServerProcess) -> None:
    names = ("input_ids", "input_lengths", "request_output_len")
    stop = {**{name: np.ones((1, 1), np.int32) for name in names}, "stop": np.array([[True]])}
    with pytest.raises(Exception, match="stop is true and must come with a request id"):
        list(stream(paced_server, "tensorrt_llm", stop))


def test_hundreds_leave_in_every_phase_and_the_others_do_not_notice(
    replay_repository: Path, tmp_path: Path
) -> None:
    server = ServerProcess(replay_repository, free_ports(), tmp_path / "server.log")
    server.start()
    try:
        with Client(server.ports.url("grpc")) as client:
            expected = client.generate("Hello there", max_tokens=300).text
            storm(client, expected)
            assert client.generate("Hello there", max_tokens=300).text == expected
        assert is_alive(triton_of(server.pid))
    finally:
        # Triton 2.51 keeps a request cancelled just as it ended, and is ended then.
        assert server.stop() == 0


def storm(client: Client, expected: str) -> None:
    def leave(index: int) -> None:
        for received, _ in enumerate(client.stream("Hello there", max_tokens=1 + index % 60)):
            if received >= index % 4:
                break

    def stay(_: int) -> str:
        return "".join(chunk.text for chunk in client.stream("Hello there", max_tokens=300))

    with ThreadPoolExecutor(24) as pool:
        leaving = pool.map(leave, range(600))
        staying = pool.map(stay, range(120))
        assert len(list(leaving)) == 600
        assert set(staying) == {expected}
