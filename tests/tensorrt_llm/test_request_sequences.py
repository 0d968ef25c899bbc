"""A request's sequences alone: what they ask of an engine, and when and why they end."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from engine_config import EngineConfig, Limits, ModelFacts
from request_inputs.generation import read_inputs
from request_sequences import Sequence, make_request
from response_outputs.room_response import RoomResponse
from response_outputs.text import TokenBytes
from token_engine.interface import TokenDelta, TokenLogprob

WORDS = [b"a", b"b", b"ab", b"<|end|>", b"<|", b"end", b"|>"]
A, B, AB, END, OPEN, NAME, CLOSE = range(len(WORDS))


class NoReply:
    """A `Reply` that nobody reads."""

    def send(self, responses: list[RoomResponse], final: bool) -> None: ...

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
        1, "tensorrt_llm", ModelFacts("m", len(WORDS), A, [B], ""), Limits(64, 4, 64, 4)
    )
    return make_request(1, set(), NoReply(), read_inputs(arrays, config), table).sequences[0]


def taken(one: Sequence) -> RoomResponse:
    """The response due now, as the sender takes it."""
    response, one.unsent = one.unsent, None
    assert response is not None
    return response


def text_of(response: RoomResponse) -> bytes:
    """What a response adds to the text."""
    made = b"".join(WORDS[i] for i in response.token_ids if i != END)
    return response.span.carry + made[: len(made) - response.span.hold]


def test_a_stop_word_that_names_a_special_token_stops_at_the_token_and_at_its_name(
    table: TokenBytes,
) -> None:
    one = sequence(table, stop_words=[b"<|end|>"])
    assert one.engine_request([]).end_ids == (END,)
    one.add_delta(TokenDelta(1, (A,), "stop", end_id=END))
    last = taken(one)
    assert (last.finish_reason, last.stop_reason) == ("stop", "<|end|>")

    one = sequence(table, stop_words=[b"<|end|>"])
    assert not one.add_delta(TokenDelta(1, (A, OPEN, NAME)))
    assert text_of(taken(one)) == b"a"
    assert one.add_delta(TokenDelta(1, (CLOSE,)))
    assert text_of(taken(one)) == b""
    assert one.finish_reason == "stop"


def test_another_end_id_is_no_stop_word(table: TokenBytes) -> None:
    one = sequence(table, stop_words=[b"<|end|>"])
    one.add_delta(TokenDelta(1, (A,), "stop", end_id=B))
    assert taken(one).stop_reason == ""


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_first_min_tokens_hold_no_stop_word(table: TokenBytes, size: int) -> None:
    """With min_tokens 3 the word "ab" at the tokens 1-2 is text, and across 3-4 too: it begins
    too early. The one at 4-5 ends the text."""
    one = sequence(table, stop_words=[b"ab"], min_tokens=[3])
    ids, joined = [A, B, A, B, AB], b""
    for start in range(0, len(ids), size):
        stopped = one.add_delta(TokenDelta(1, tuple(ids[start : start + size])))
        assert stopped == (start + size >= len(ids))
        joined += text_of(taken(one))
    assert (joined, one.finish_reason) == (b"abab", "stop")


LOGPROBS = TokenLogprob(-0.5, ((A, -0.5), (B, -1.25)))
# Stop words that cut tokens, that fail late, that min_tokens puts off; an end without any.
MERGED: dict[str, tuple[list[int], dict[str, object]]] = {
    "a stop word across tokens": (
        [A, OPEN, A, B, NAME, OPEN, NAME, CLOSE],
        {"stop_words": [b"d<"]},
    ),
    "a beginning that goes on otherwise": ([A, A, B, A, A, A, AB, A], {"stop_words": [b"aaab"]}),
    "min_tokens": ([A, B, A, B, A, AB, B], {"stop_words": [b"ba"], "min_tokens": [4]}),
    "no stop word": ([A, END, B, END, AB, OPEN], {}),
}


@pytest.mark.parametrize("name", MERGED)
def test_it_does_not_matter_which_tokens_a_late_sender_sends_together(
    table: TokenBytes, name: str
) -> None:
    """In each of the ways to part the tokens into responses, they make up the same answer."""
    ids, given = MERGED[name]
    answers = set()
    for taken_after in itertools.product([True, False], repeat=len(ids)):
        one = sequence(table, **given, logprobs=[1], streaming=[True])
        responses = []
        for token_id, take in zip(ids, taken_after, strict=True):
            if one.finish_reason is None:
                one.add_delta(TokenDelta(1, (token_id,), logprobs=(LOGPROBS,)))
                responses += [taken(one)] if take and one.finish_reason is None else []
        if one.finish_reason is None:
            one.end("length")
        responses.append(taken(one))
        answers.add(whole_answer(responses))
    assert len(answers) == 1
    assert len(next(iter(answers))[1]) > 4


def whole_answer(
    responses: list[RoomResponse],
) -> tuple[bytes, tuple[int, ...], tuple[float, ...], str, float, str | None, str]:
    """What the responses of a sequence make up."""
    ends = [response.finish_reason for response in responses]
    assert ends[:-1] == [None] * (len(ends) - 1)
    return (
        b"".join(map(text_of, responses)),
        tuple(token_id for response in responses for token_id in response.token_ids),
        tuple(value for response in responses for value in response.log_probs),
        str([entry for response in responses for entry in response.top_logprobs]),
        responses[-1].cum_log_prob,
        ends[-1],
        responses[-1].stop_reason,
    )
