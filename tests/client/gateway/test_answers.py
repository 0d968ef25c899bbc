"""Chats and completions through the gateway, whole and streamed, by OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from llama_fp4 import Client
from serving.child_server import ServerProcess

from tests.support.gateway_calls import MODEL, Gateway, chat, completion, events, get, post

TEXT = 'Grüße aus 東京 😀👩‍👩‍👧! The end.\u2028\u2029\u0085 \\ " \x7f tab\t.'
QUESTION = [{"role": "user", "content": "What is the opposite of hot?"}]


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def demo_sdk(demo_gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(sdk: openai.OpenAI, messages: list[Any], **more: Any) -> Any:
    return sdk.chat.completions.create(model=MODEL, messages=messages, **more)


def test_the_model_is_listed(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).object == "model"


def test_a_chat_is_the_servers_own_answer(demo_sdk: openai.OpenAI, demo_client: Client) -> None:
    direct = demo_client.chat(QUESTION, max_tokens=32, temperature=0)
    answer = ask(demo_sdk, QUESTION, max_completion_tokens=32, temperature=0)
    assert answer.choices[0].message.content == direct.text == "The opposite of hot is cold."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == direct.finish_reason == "stop"
    counts = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert counts == (direct.num_input_tokens, direct.num_output_tokens)
    assert answer.usage.total_tokens == sum(counts)


def test_a_streamed_chat(demo_sdk: openai.OpenAI) -> None:
    whole = ask(demo_sdk, QUESTION, temperature=0)
    stream = ask(
        demo_sdk, QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    first, *rest, last = list(stream)
    assert first.choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in rest]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(map(bool, texts)) > 3
    assert [chunk.choices[0].finish_reason for chunk in rest] == [None] * (len(rest) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage == whole.usage
    assert {chunk.id for chunk in (first, *rest, last)} == {first.id}
    assert all(chunk.usage is None for chunk in (first, *rest))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_is_the_whole_answer_to_the_byte(gateway: Gateway, path: str) -> None:
    """The replay engine gives the prompt back, token by token, in the middle of characters too."""
    body = chat(TEXT) if "chat" in path else completion(TEXT)
    whole = post(gateway, path, body | {"max_tokens": 400}).json()["choices"][0]
    answer = post(gateway, path, body | {"max_tokens": 400, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.content.decode("utf-8", errors="strict"))
    assert found[-1] == "[DONE]"
    choices = [event["choices"][0] for event in found[:-1]]
    if "chat" in path:
        assert choices[0]["delta"]["role"] == "assistant"
        texts = [choice["delta"].get("content", "") for choice in choices]
        assert "".join(texts) == whole["message"]["content"]
    else:
        texts = [choice["text"] for choice in choices]
        assert "".join(texts) == whole["text"]
    assert TEXT in "".join(texts)
    assert all("\ufffd" not in text for text in texts[:-2])  # the limit may cut a character
    assert choices[-1]["finish_reason"] == whole["finish_reason"] == "length"
    assert all(choice["finish_reason"] is None for choice in choices[:-1])


def test_the_default_length_is_what_fits(gateway: Gateway) -> None:
    for path, body in (
        ("/v1/chat/completions", chat()),
        ("/v1/completions", completion()),
    ):
        answer = post(gateway, path, body).json()
        assert answer["usage"]["total_tokens"] == 2048
        assert answer["choices"][0]["finish_reason"] == "length"


def test_several_prompts_and_choices(gateway: Gateway) -> None:
    body = completion(["one two", "three"], n=2, max_tokens=3, echo=True)
    answer = post(gateway, "/v1/completions", body).json()
    texts = [choice["text"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [text.startswith("one two") for text in texts] == [True, True, False, False]
    assert [text.startswith("three") for text in texts] == [False, False, True, True]
    assert answer["usage"]["completion_tokens"] == 12
    streamed = events(post(gateway, "/v1/completions", body | {"stream": True}).text)[:-1]
    joined = ["", "", "", ""]
    for event in streamed:
        joined[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert joined == texts


def test_choices_have_seeds_of_their_own(demo_gateway: Gateway) -> None:
    """The seeds `seed`, `seed` + 1, ..., as the ensemble's several sequences."""
    body = chat("Tell me a story.", seed=7, max_tokens=24, temperature=2.0)
    path = "/v1/chat/completions"
    choices = post(demo_gateway, path, body | {"n": 3}).json()["choices"]
    alone = [post(demo_gateway, path, body | {"seed": 7 + i}).json() for i in range(3)]
    texts = [choice["message"]["content"] for choice in choices]
    assert texts == [each["choices"][0]["message"]["content"] for each in alone]
    assert len(set(texts)) > 1


def test_stop_and_echo(gateway: Gateway) -> None:
    body = completion("one two three four", max_tokens=50, stop=" three")
    choice = post(gateway, "/v1/completions", body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one two", "stop")


def test_logprobs_of_a_chat(demo_sdk: openai.OpenAI) -> None:
    answer = ask(demo_sdk, QUESTION, temperature=0, logprobs=True)
    tokens = answer.choices[0].logprobs.content
    text = answer.choices[0].message.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode().startswith(text)
    assert all(token.logprob <= 0 for token in tokens)
    stream = ask(demo_sdk, QUESTION, temperature=0, logprobs=True, stream=True)
    found = [
        token
        for chunk in stream
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert found == tokens


def test_logprobs_of_a_completion(demo_sdk: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    answer = demo_sdk.completions.create(
        model=MODEL, prompt=prompt, temperature=0, logprobs=0, max_tokens=8
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset is not None
    text = answer.choices[0].text
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert text[offset:].startswith(token) or offset == len(text)


def test_a_json_schema_holds(demo_sdk: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema, "strict": True}}
    answer = ask(demo_sdk, QUESTION, response_format=wanted, max_tokens=64)
    assert answer.choices[0].message.content.replace(" ", "") in (
        '{"city":"Paris"}',
        '{"city":"Rome"}',
    )


@pytest.mark.parametrize(
    "extra",
    [
        {"guided_choice": ["a.b", "c|d"]},
        {"structured_outputs": {"choice": ["a.b", "c|d"]}},
        {"guided_regex": r"(a\.b|c\|d)"},
        {"guided_grammar": 'root ::= "a.b" | "c|d"'},
    ],
    ids=["choice", "structured", "regex", "grammar"],
)
def test_guides_by_their_other_names(demo_sdk: openai.OpenAI, extra: dict[str, Any]) -> None:
    answer = ask(demo_sdk, QUESTION, extra_body=extra, max_tokens=16)
    assert answer.choices[0].message.content in ("a.b", "c|d")


def test_tokens_there_and_back(demo_gateway: Gateway) -> None:
    found = post(demo_gateway, "/tokenize", {"prompt": TEXT}).json()
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] == 2048
    back = {"tokens": found["tokens"], "skip_special_tokens": True}
    assert post(demo_gateway, "/detokenize", back).json()["prompt"] == TEXT
    asked = post(demo_gateway, "/tokenize", {"messages": QUESTION}).json()
    answer = post(demo_gateway, "/v1/chat/completions", chat(QUESTION[0]["content"])).json()
    assert asked["count"] == answer["usage"]["prompt_tokens"]


def test_health_and_docs(gateway: Gateway, replay_server: ServerProcess) -> None:
    for path in ("/health", "/v1/health/live", "/v1/health/ready"):
        assert get(gateway, path).status_code == 200
    page = get(gateway, "/docs")
    assert "max_completion_tokens" in page.text
    assert "http://" not in page.text.replace(gateway.url, "")
    assert get(gateway, "/openapi.json").json()["openapi"].startswith("3.1")
