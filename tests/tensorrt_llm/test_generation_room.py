"""Room 2 without Triton: a real engine process, and replies that are plain objects."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from generation_room import GenerationRoom
from request_inputs.generation import read_inputs
from request_inputs.rows import EngineUnavailable, InvalidRequest
from response_outputs.room_response import RoomResponse
from token_engine.interface import TokenDelta

from tests.support.deployments import compile_engine
from tests.support.processes import PATIENCE_S


class Recorder:
    """A `Reply` that keeps what it gets; with `broken` it raises instead."""

    def __init__(self, broken: bool = False) -> None:
        self.events: queue.SimpleQueue[RoomResponse | str] = queue.SimpleQueue()
        self._broken = broken

    def send(self, responses: list[RoomResponse], final: bool) -> None:
        if self._broken:
            raise RuntimeError("no shared memory left")
        for response in responses:
            self.events.put(response)

    def fail(self, message: str, code: str) -> None:
        self.events.put(message)

    def cancelled(self) -> bool:
        if self._broken:
            raise RuntimeError("no shared memory left")
        return False

    def tokens(self) -> list[int]:
        """All token ids, once the final response is there."""
        ids: list[int] = []
        while True:
            event = self.events.get(timeout=PATIENCE_S)
            assert isinstance(event, RoomResponse), event
            ids += event.token_ids
            if event.finish_reason is not None:
                return ids


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("room") / "engine"
    limits = ("--max-batch-size", "2", "--max-queue-size", "1")
    return compile_engine(folder, "--runtime", "replay", "--step-seconds", "0.01", *limits)


@pytest.fixture
def room(engine: Path) -> Iterator[GenerationRoom]:
    room = GenerationRoom(engine, lambda line: None)
    room.open()
    yield room
    room.close()


def ask(room: GenerationRoom, max_tokens: int, reply: Recorder) -> None:
    arrays = {
        "input_ids": np.array([[301, 302, 303]], np.int32),
        "request_output_len": np.array([[max_tokens]], np.int32),
        "streaming": np.array([[True]]),
    }
    room.submit(read_inputs(arrays, room.config), reply)


def test_a_reply_that_cannot_be_written_harms_no_other(room: GenerationRoom) -> None:
    ask(room, 50, Recorder(broken=True))
    for _ in range(3):
        reply = Recorder()
        ask(room, 7, reply)
        assert reply.tokens() == [301, 302, 303, 301, 302, 303, 301]


def test_a_full_queue_refuses_at_once_with_the_limits(room: GenerationRoom) -> None:
    replies = [Recorder() for _ in range(3)]
    for reply in replies:
        ask(room, 30, reply)
    with pytest.raises(
        EngineUnavailable,
        match="3 sequences are in flight and the request has 1 more, with places for 2 running",
    ):
        ask(room, 1, Recorder())
    assert [len(reply.tokens()) for reply in replies] == [30, 30, 30]
    after = Recorder()
    ask(room, 2, after)
    assert len(after.tokens()) == 2


def test_closing_fails_what_is_open(engine: Path) -> None:
    room = GenerationRoom(engine, lambda line: None)
    room.open()
    reply = Recorder()
    ask(room, 2000, reply)
    room.close()
    events = [reply.events.get_nowait() for _ in range(reply.events.qsize())]
    assert events[-1] == "the server is shutting down"


def test_when_one_sequence_fails_the_request_ends_with_one_error(engine: Path) -> None:
    """Whatever else it has in the engine is freed."""
    room = GenerationRoom(engine, lambda line: None)
    room.open()
    reply = Recorder()
    arrays = {
        "input_ids": np.array([[301, 302, 303]], np.int32),
        "request_output_len": np.array([[2000]], np.int32),
        "num_return_sequences": np.array([[2]], np.int32),
        "streaming": np.array([[True]]),
    }
    room.submit(read_inputs(arrays, room.config), reply)
    first = reply.events.get(timeout=PATIENCE_S)
    assert isinstance(first, RoomResponse)
    room.on_deltas([TokenDelta(first.key, (), "error", "it broke")])
    while isinstance(event := reply.events.get(timeout=PATIENCE_S), RoomResponse):
        pass
    assert event == "it broke"
    assert not room.has_open_requests()
    after = Recorder()
    ask(room, 20, after)
    assert len(after.tokens()) == 20
    room.close()
    assert reply.events.empty()


def test_what_does_not_fit_never_reaches_the_engine(room: GenerationRoom) -> None:
    with pytest.raises(InvalidRequest, match="make 5003 and must make at most 2048"):
        ask(room, 5000, Recorder())
