"""Batches [n, 1] and several sequences a prompt, streamed, whole, and through the unary model."""

from __future__ import annotations

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llama_fp4 import Client
from serving.child_server import ServerProcess

from tests.support.triton_calls import Arrays, failure, infer, post, stream

PROMPTS = ["Grüße", "a much longer prompt than the others", "東京"]


def column(values: list[Any], dtype: npt.DTypeLike = np.int32) -> npt.NDArray[Any]:
    return np.array(values, dtype).reshape(-1, 1)


def batch(prompts: list[str], max_tokens: list[int], **more: npt.NDArray[Any]) -> Arrays:
    return {"text_input": column(prompts, object), "max_tokens": column(max_tokens), **more}


def texts(server: ServerProcess, arrays: Arrays) -> dict[tuple[int, int], str]:
    """The text of each (batch index, sequence index), joined; checks the flags on the way."""
    joined: dict[tuple[int, int], str] = defaultdict(str)
    finished: set[tuple[int, int]] = set()
    finals = []
    for tensors, final in stream(server, "ensemble", arrays):
        place = (index(tensors, "batch_index"), index(tensors, "sequence_index"))
        assert place not in finished
        if tensors["is_finished"][0, 0]:
            finished.add(place)
            assert tensors["finish_reason"][0, 0] == b"length"
        joined[place] += tensors["text_output"][0].decode()
        finals.append(final)
    assert finals == [False] * (len(finals) - 1) + [True]
    assert finished == set(joined)
    return dict(joined)


def index(tensors: Arrays, name: str) -> int:
    return int(tensors[name][0, 0]) if name in tensors else 0


@pytest.mark.parametrize("streaming", [True, False])
def test_each_row_of_a_batch_is_answered_as_if_alone(
    replay_server: ServerProcess, replay_client: Client, streaming: bool
) -> None:
    limits = [9, 4, 7]
    more = {"stream": column([streaming] * 3, np.bool_)}
    alone = {
        (row, 0): replay_client.generate(prompt, max_tokens=limit).text
        for row, (prompt, limit) in enumerate(zip(PROMPTS, limits, strict=True))
    }
    assert texts(replay_server, batch(PROMPTS, limits, **more)) == alone


def test_a_row_has_its_own_options(replay_server: ServerProcess) -> None:
    more = {"stop_words": np.array([["b"], [""]], object)}
    answers = {
        index(tensors, "batch_index"): (tensors["text_output"][0], tensors["finish_reason"][0, 0])
        for tensors, _ in stream(
            replay_server, "ensemble", batch(["a b c", "a b c"], [4, 4], **more)
        )
    }
    assert answers == {0: (b"a ", b"stop"), 1: (b"a b c", b"length")}


def test_one_prompt_alone_has_no_indices(replay_server: ServerProcess) -> None:
    ((tensors, _),) = stream(replay_server, "ensemble", batch(["a"], [3]))
    assert not {"batch_index", "sequence_index"} & set(tensors)


def test_sequences_of_one_prompt_differ_by_their_seeds(demo_server: ServerProcess) -> None:
    more = {
        "num_return_sequences": column([4]),
        "temperature": column([1.5], np.float32),
        "top_k": column([12]),
        "seed": column([5], np.uint64),
        "stream": column([True], np.bool_),
        "ignore_eos": column([True], np.bool_),
    }
    answers = texts(demo_server, batch(["The capital of"], [12], **more))
    assert set(answers) == {(0, sequence) for sequence in range(4)}
    assert len(set(answers.values())) == 4
    for sequence, text in answers.items():
        hot: dict[str, Any] = {"temperature": 1.5, "top_k": 12, "ignore_eos": True}
        with Client(demo_server.ports.url("grpc")) as client:
            alone = client.generate("The capital of", max_tokens=12, seed=5 + sequence[1], **hot)
            assert alone.text == text


def test_unary_answers_come_in_rows(replay_server: ServerProcess, replay_client: Client) -> None:
    arrays = batch(PROMPTS, [5, 5, 5], num_return_sequences=column([1, 2, 1]))
    answer = infer(replay_server, "tensorrt_llm_bls", arrays)
    alone = [replay_client.generate(prompt, max_tokens=5).text.encode() for prompt in PROMPTS]
    assert answer["text_output"].tolist() == [alone[0], alone[1], alone[1], alone[2]]
    assert answer["batch_index"].reshape(-1).tolist() == [0, 1, 1, 2]
    assert answer["sequence_index"].reshape(-1).tolist() == [0, 0, 1, 0]
    assert answer["finish_reason"].reshape(-1).tolist() == [b"length"] * 4


def test_rows_of_different_length_are_filled_up(demo_server: ServerProcess) -> None:
    more = {"return_log_probs": column([True, True], np.bool_)}
    answer = infer(demo_server, "tensorrt_llm_bls", batch(["One two", "Three"], [2, 5], **more))
    lengths = answer["num_output_tokens"].reshape(-1).tolist()
    log_probs = answer["output_log_probs"]
    assert log_probs.shape == (2, 1, max(lengths))
    for row, length in zip(log_probs[:, 0], lengths, strict=True):
        assert (row[:length] < 0).all()
        assert (row[length:] == 0).all()
    assert answer["cum_log_probs"][:, 0] == pytest.approx(log_probs.sum(axis=(1, 2)), rel=1e-5)


def test_unary_over_http(replay_server: ServerProcess, replay_client: Client) -> None:
    path = "/v2/models/tensorrt_llm_bls"
    status, body = post(replay_server, f"{path}/generate", {"text_input": "a b", "max_tokens": 4})
    expected = replay_client.generate("a b", max_tokens=4).text
    assert (status, json.loads(body)["text_output"]) == (200, expected)
    request = {
        "id": "7",
        "inputs": [
            {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a b"]},
            {"name": "max_tokens", "shape": [1, 1], "datatype": "INT32", "data": [4]},
        ],
        "outputs": [{"name": "text_output"}],
    }
    status, body = post(replay_server, f"{path}/infer", request)
    (output,) = json.loads(body)["outputs"]
    assert (status, output["shape"], output["data"]) == (200, [1], [expected])


def test_more_sequences_than_the_server_admits_are_refused(replay_server: ServerProcess) -> None:
    arrays = batch(["a"] * 64, [5] * 64, num_return_sequences=column([16] * 64))
    code, message = failure(lambda: list(stream(replay_server, "ensemble", arrays)))
    assert code == "INVALID_ARG"  # and not UNAVAILABLE: to try again is of no use
    assert "make 1024 sequences and must make at most" in message


def test_unary_batches_at_once_are_all_answered(replay_server: ServerProcess) -> None:
    """Several responses to a call within the server crash or block a stub of Triton 2.51."""
    prompts = [f"prompt number {index}" for index in range(8)]
    arrays = batch(prompts, [6] * 8, num_return_sequences=column([2] * 8))
    expected = infer(replay_server, "tensorrt_llm_bls", arrays)["text_output"].tolist()
    assert len(expected) == 16
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(infer, replay_server, "tensorrt_llm_bls", arrays) for _ in range(200)]
    assert all(call.result()["text_output"].tolist() == expected for call in calls)
