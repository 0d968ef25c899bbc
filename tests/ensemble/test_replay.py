"""The ensemble on the replay engine: everything between the wire and the model.

The replay engine answers with the prompt's own tokens, so the right answer is the prompt's text.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_fp4 import Chunk, Client, LlamaError
from serving.child_server import ServerProcess

from tests.support.triton_calls import post, stream

TEXT = "Grüße aus 東京 😀👩‍👩‍👧! The end."
COUNTS = ("num_input_tokens", "num_output_tokens")


def joined(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def played(text: str, client: Client) -> str:
    """One whole playback: as many tokens as the prompt has."""
    first = next(iter(client.stream(text, max_tokens=1, stream=False)))
    return client.generate(text, max_tokens=first.num_input_tokens).text


def test_streamed_deltas_join_to_the_unstreamed_text(replay_client: Client) -> None:
    whole = list(replay_client.stream(TEXT, max_tokens=100, stream=False))
    assert len(whole) == 1
    chunks = list(replay_client.stream(TEXT, max_tokens=100))
    assert joined(chunks) == whole[0].text
    assert TEXT in whole[0].text


def test_exactly_one_final_chunk_with_reason_and_counts(replay_client: Client) -> None:
    chunks = list(replay_client.stream("Hello", max_tokens=7))
    assert [chunk.final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].finish_reason == "length"
    assert sum(chunk.num_output_tokens for chunk in chunks) == 7
    assert chunks[-1].num_input_tokens > 1


def test_the_final_flag_comes_with_tensors(replay_server: ServerProcess) -> None:
    arrays = {
        "text_input": np.array([["Hello"]], object),
        "max_tokens": np.array([[3]], np.int32),
        "stream": np.array([[True]]),
    }
    responses = list(stream(replay_server, "ensemble", arrays))
    assert all("text_output" in tensors for tensors, _ in responses)
    assert [final for _, final in responses].count(True) == 1
    assert all(tensors["text_output"].shape == (1,) for tensors, _ in responses)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(min_size=1, max_size=60))
def test_any_text_comes_back_unchanged(replay_client: Client, text: str) -> None:
    prompt = next(iter(replay_client.stream(text, max_tokens=1, stream=False)))
    chunks = list(replay_client.stream(text, max_tokens=prompt.num_input_tokens))
    assert joined(chunks) == text


def test_a_stop_word_ends_the_text_before_it(replay_client: Client) -> None:
    chunks = list(replay_client.stream(TEXT, max_tokens=200, stop_words=["zzz", "京 😀"]))
    assert joined(chunks) == "Grüße aus 東"
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == ("stop", "京 😀")


def test_text_held_back_for_a_stop_word_is_sent_if_it_is_none(replay_client: Client) -> None:
    first = next(iter(replay_client.stream("abcabd", max_tokens=1, stream=False)))
    chunks = list(
        replay_client.stream("abcabd", max_tokens=first.num_input_tokens, stop_words=["abdx"])
    )
    assert joined(chunks) == "abcabd"


def test_empty_stop_words_have_no_effect(replay_client: Client) -> None:
    assert "Hello" in replay_client.generate("Hello", max_tokens=20, stop_words=[""]).text


def test_the_prompt_is_echoed_only_when_asked(replay_client: Client) -> None:
    without = replay_client.generate("Hello", max_tokens=2).text
    echoed = replay_client.generate("Hello", max_tokens=2, exclude_input_in_output=False).text
    assert echoed == "Hello" + without
    assert (
        replay_client.generate("Hello", max_tokens=2, exclude_input_in_output=True).text == without
    )


def test_chat_messages(replay_client: Client) -> None:
    messages = [{"role": "user", "content": " Hi <|eot_id|> there "}]
    text = replay_client.generate(messages, max_tokens=200).text
    assert text.startswith("system\n\nCutting Knowledge Date: December 2023")
    assert "user\n\nHi <|eot_id|> thereassistant\n\n" in text


def test_http_generate_and_generate_stream(
    replay_server: ServerProcess, replay_client: Client
) -> None:
    body = {"text_input": TEXT, "max_tokens": 50}
    status, answer = post(replay_server, "/v2/models/ensemble/generate", body)
    assert status == 200
    expected = replay_client.generate(TEXT, max_tokens=50).text
    assert json.loads(answer)["text_output"] == expected
    status, events = post(
        replay_server, "/v2/models/ensemble/generate_stream", {**body, "stream": True}
    )
    parts = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
    assert "".join(part["text_output"] for part in parts) == expected
    assert parts[-1]["finish_reason"] == "length"


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_max_tokens_may_be_left_out(replay_server: ServerProcess, model: str) -> None:
    """The answer then fills the context of 2048 tokens."""
    messages = json.dumps([{"role": "user", "content": TEXT}])
    arrays = {"messages": np.array([[messages]], object)}
    (last,) = (tensors for tensors, final in stream(replay_server, model, arrays) if final)
    counts = [int(last[name].item()) for name in COUNTS]
    assert (sum(counts), last["finish_reason"].item()) == (2048, b"length")
    raw = {"text_input": arrays["messages"]}
    (last,) = (tensors for tensors, final in stream(replay_server, model, raw) if final)
    assert sum(int(last[name].item()) for name in COUNTS) == 2048
    two = np.array([[messages], [messages]], object)
    responses = list(stream(replay_server, model, {"messages": two}))
    made = [int(each) for tensors, _ in responses for each in tensors["num_output_tokens"].flat]
    assert made == 2 * [counts[1]]


def test_messages_that_fill_the_context_are_refused(replay_server: ServerProcess) -> None:
    messages = json.dumps([{"role": "user", "content": "a b c d " * 600}])
    arrays = {"messages": np.array([[messages]], object)}
    with pytest.raises(Exception, match="2048"):
        list(stream(replay_server, "ensemble", arrays))


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"text_input": "", "max_tokens": 1}, "text_input is empty"),
    ({"max_tokens": 1}, "neither text_input nor messages is given; exactly one must be"),
    (
        {"text_input": "a", "messages": "[]", "max_tokens": 1},
        "both text_input and messages are given; exactly one",
    ),
    ({"text_input": "a", "max_tokens": 0}, "max_tokens is 0 and must be at least 1"),
    ({"text_input": "a", "max_tokens": -5}, "max_tokens is -5"),
    ({"text_input": "a", "max_tokens": 9999}, "must make at most 2048"),
    ({"messages": "x", "max_tokens": 1}, "messages must be JSON"),
    ({"messages": '[{"role":"x","content":""}]', "max_tokens": 1}, "must be one of system"),
    ({"text_input": "a", "max_tokens": 1, "temperature": -1.0}, "temperature is -1"),
    ({"text_input": "a", "max_tokens": 1, "temperature": float("nan")}, "temperature is nan"),
    ({"text_input": "a", "max_tokens": 1, "top_p": 1.5}, "top_p is 1.5"),
    ({"text_input": "a", "max_tokens": 1, "top_k": -3}, "top_k is -3"),
    (
        {"text_input": "a", "max_tokens": 1, "stop_words": ["x" * 300]},
        "300 bytes and must hold none",
    ),
    ({"text_input": "a", "max_tokens": 1, "stop_words": [str(i) for i in range(17)]}, "17 strings"),
    ({"text_input": "a " * 200_000, "max_tokens": 1}, "tokens"),
]


@pytest.mark.parametrize(("request_", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
@pytest.mark.parametrize("streaming", [True, False])
def test_a_wrong_request_is_refused_by_name(
    replay_server: ServerProcess, request_: dict[str, Any], words: str, streaming: bool
) -> None:
    arrays = {name: as_array(name, value) for name, value in request_.items()}
    arrays["stream"] = np.array([[streaming]])
    with pytest.raises(Exception, match=words) as caught:
        list(stream(replay_server, "ensemble", arrays))
    assert "Traceback" not in str(caught.value)


def as_array(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return np.array([[value]], object)
    if isinstance(value, list):
        return np.array([value], object)
    return np.array([[value]], np.float32 if isinstance(value, float) else np.int32)


def test_a_refusal_has_status_invalid_argument(
    replay_server: ServerProcess, replay_client: Client
) -> None:
    with pytest.raises(LlamaError) as caught:
        replay_client.generate("a", max_tokens=9999)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert str(caught.value).startswith("the prompt of")
    status, body = post(
        replay_server, "/v2/models/ensemble/generate", {"text_input": "a", "max_tokens": 9999}
    )
    assert status == 400
    assert "make at most 2048" in json.loads(body)["error"]
    assert "make at most 2048" in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused(replay_server: ServerProcess) -> None:
    arrays = {
        "text_input": np.array([[b"ab\xff"]], object),
        "max_tokens": np.array([[1]], np.int32),
    }
    with pytest.raises(Exception, match="text_input has the byte 0xff at 2 and must be UTF-8"):
        list(stream(replay_server, "ensemble", arrays))


ONE = np.ones((1, 1), np.int32)
STEP_REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("preprocessing", {"REQUEST_OUTPUT_LEN": ONE}, "neither text_input nor messages"),
    ("tensorrt_llm", {"input_ids": ONE}, "request_output_len is missing"),
    ("tensorrt_llm", {"request_output_len": ONE}, "input_ids is missing"),
    (
        "tensorrt_llm",
        {"input_ids": ONE, "input_lengths": 5 * ONE, "request_output_len": ONE},
        "input_lengths is 5 and must be 1 to 1",
    ),
    (
        "postprocessing",
        {"TOKENS_BATCH": ONE[None] * 10**6, "SEQUENCE_LENGTH": ONE},
        "TOKENS_BATCH holds 1000000",
    ),
    (
        "postprocessing",
        {"TOKENS_BATCH": ONE[None], "SEQUENCE_LENGTH": -ONE},
        r"SEQUENCE_LENGTH is \[\[-1\]\] and must be one count",
    ),
    *(
        (
            "postprocessing",
            {"TOKENS_BATCH": 40 * ONE[None], "SEQUENCE_LENGTH": ONE, "TEXT_HOLD": hold * ONE},
            f"TEXT_HOLD is {hold} and must be 0 to 1, the bytes there are",
        )
        for hold in (-1, 2)
    ),
]


@pytest.mark.parametrize(("model", "arrays", "words"), STEP_REFUSALS)
def test_a_wrong_request_to_a_step_is_refused_by_name(
    replay_server: ServerProcess, model: str, arrays: dict[str, Any], words: str
) -> None:
    with pytest.raises(Exception, match=words) as caught:
        list(stream(replay_server, model, arrays))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm", "tensorrt_llm_bls"])
def test_a_parameter_of_the_wrong_type_is_refused_by_name(
    replay_server: ServerProcess, model: str
) -> None:
    body = {"text_input": "Hello", "max_tokens": 1, "named_errors": "false"}
    if model == "tensorrt_llm":
        body = {"input_ids": [1], "request_output_len": 1, "named_errors": "false"}
    status, answer = post(replay_server, f"/v2/models/{model}/generate", body)
    assert status == 400
    assert "named_errors is 'false' and must be true or false" in json.loads(answer)["error"]


@pytest.mark.parametrize("model", ["ensemble", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls"])
def test_a_parameter_that_means_nothing_is_refused_by_name(
    replay_server: ServerProcess, model: str
) -> None:
    body = {
        "preprocessing": {"QUERY": "Hello", "REQUEST_OUTPUT_LEN": 1},
        "tensorrt_llm": {"input_ids": [1], "request_output_len": 1},
    }.get(model, {"text_input": "Hello", "max_tokens": 1})
    body["max_completion_tokens"] = 3
    status, answer = post(replay_server, f"/v2/models/{model}/generate", body)
    assert status == 400
    assert "'max_completion_tokens' must be an input that" in json.loads(answer)["error"]


def test_ids_outside_the_vocabulary_are_refused(replay_server: ServerProcess) -> None:
    for bad in (-1, 10**6):
        arrays = {
            "input_ids": np.array([[1, bad]], np.int32),
            "input_lengths": np.array([[2]], np.int32),
            "request_output_len": np.array([[1]], np.int32),
        }
        with pytest.raises(Exception, match=f"input_ids holds {bad} and must hold ids from 0 to"):
            list(stream(replay_server, "tensorrt_llm", arrays))


def test_simultaneous_streams_do_not_mix(replay_client: Client) -> None:
    texts = [f"stream number {index} says {'la ' * index}" for index in range(32)]
    answers: dict[int, str] = {}

    def ask(index: int) -> None:
        answers[index] = joined(list(replay_client.stream(texts[index], max_tokens=300)))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, text in enumerate(texts):
        assert answers[index] == replay_client.generate(text, max_tokens=300).text
        assert answers[index].startswith(text)
