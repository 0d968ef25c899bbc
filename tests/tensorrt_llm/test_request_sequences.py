"""A request's sequences alone: what they ask of an engine, and when and why they end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_config import EngineConfig, Limits, ModelFacts
from request_inputs.generation import read_inputs
from request_sequences import Sequence, make_request
from response_outputs.room_response import RoomResponse
from response_outputs.text import TokenBytes
from token_engine.interface import TokenDelta

WORDS = [b"a", b"b", b"ab", b"<|end|>", b"<|", b"end", b"|>"]
A, B, AB, END, OPEN, NAME, CLOSE = range(len(WORDS))


class NoReply:
    """A `Reply` that nobody reads."""

    def send(self, responses: list[RoomResponse]) -> None: ...

    def fail(self, message: str, code: str) -> None: ...

    def cancelled(self) -> bool:
        return False


@pytest.fixture
def table(tmp_path: Path) -> TokenBytes:
    path = tmp_path / "token_bytes.npz"
    offsets = np.cumsum([0, *map(len, WORDS)]).astype(np.uint32)
    special = np.array([word == b"<|end|>" for word in WORDS])
    data = np.frombuffer(b"".join(WORDS), np.uint8)
    np.savez(path, offsets=offsets, data=data, special=special)
    return TokenBytes(path)


def sequence(table: TokenBytes, **given: object) -> Sequence:
    """A streaming sequence of a request with `given` inputs."""
    arrays = {
        "input_ids": np.array([[A]], np.int32),
        "request_output_len": np.array([[20]], np.int32),
        **{name: np.array([value]) for name, value in given.items()},
    }
    config = EngineConfig(
        1, "replay", ModelFacts("m", len(WORDS), A, [B], ""), Limits(64, 4, 64, 4)
    )
    return make_request(1, set(), NoReply(), read_inputs(arrays, config), table).sequences[0]


def text(one: Sequence) -> bytes:
    """What the response due now adds to the text."""
    response = one.response(final=False)
    made = b"".join(WORDS[i] for i in response.token_ids if i != END)
    return response.span.carry + made[: len(made) - response.span.hold]


def test_a_stop_word_that_names_a_special_token_stops_at_the_token_and_at_its_name(
    table: TokenBytes,
) -> None:
    one = sequence(table, stop_words=[b"<|end|>"])
    assert one.engine_request([]).end_ids == (END,)
    one.add_delta(TokenDelta(1, (A,), "stop", end_id=END))
    last = one.response(final=True)
    assert (last.finish_reason, last.stop_reason) == ("stop", "<|end|>")

    one = sequence(table, stop_words=[b"<|end|>"])
    assert not one.add_delta(TokenDelta(1, (A, OPEN, NAME)))
    assert text(one) == b"a"
    assert one.add_delta(TokenDelta(1, (CLOSE,)))
    assert text(one) == b""
    assert one.finish_reason == "stop"


def test_another_end_id_is_no_stop_word(table: TokenBytes) -> None:
    one = sequence(table, stop_words=[b"<|end|>"])
    one.add_delta(TokenDelta(1, (A,), "stop", end_id=B))
    assert one.response(final=True).stop_reason == ""


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_first_min_tokens_hold_no_stop_word(table: TokenBytes, size: int) -> None:
    """With min_tokens 3 the word "ab" at the tokens 1-2 is text, and across 3-4 too: it begins
    too early. The one at 4-5 ends the text."""
    one = sequence(table, stop_words=[b"ab"], min_tokens=[3])
    ids, joined = [A, B, A, B, AB], b""
    for start in range(0, len(ids), size):
        stopped = one.add_delta(TokenDelta(1, tuple(ids[start : start + size])))
        assert stopped == (start + size >= len(ids))
        joined += text(one)
    assert (joined, one.finish_reason) == (b"abab", "stop")
