"""`/v1/responses`, and tools on both APIs, by OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.support.gateway_calls import MODEL, Gateway, error_of, post

QUESTION = "What is the opposite of hot?"
ANSWER = "The opposite of hot is cold."
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FLAT = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
NESTED = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]


class City(BaseModel):
    """What an answer must be."""

    city: Literal["Paris", "Rome"]


@pytest.fixture(scope="module")
def sdk(demo_gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_response(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert (answer.output_text, answer.status) == (ANSWER, "completed")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_streamed_response(sdk: openai.OpenAI) -> None:
    parts = [{"type": "input_text", "text": QUESTION}]
    asked: list[Any] = [{"role": "user", "content": parts}]
    with sdk.responses.stream(model=MODEL, input=asked, temperature=0) as stream:
        events: list[Any] = list(stream)
        whole = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == ANSWER
    assert len(deltas) > 3


def test_a_response_that_is_cut(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=MODEL, input=QUESTION, max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_a_response_calls_a_tool(sdk: openai.OpenAI) -> None:
    tools: list[Any] = [FLAT]
    asked: dict[str, Any] = {"model": MODEL, "tools": tools, "tool_choice": "required"}
    asked |= {"parallel_tool_calls": False, "temperature": 0}
    with sdk.responses.stream(input=QUESTION, **asked, max_output_tokens=100) as stream:
        events: list[Any] = list(stream)
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.name == "weather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    kind = "response.function_call_arguments.delta"
    assert "".join(event.delta for event in events if event.type == kind) == call.arguments
    said = {"type": "function_call_output", "call_id": call.call_id, "output": "warm"}
    made = {"type": "function_call", "call_id": call.call_id, "name": call.name}
    back: list[Any] = [*MESSAGES, {**made, "arguments": call.arguments}, said]
    answer = sdk.responses.create(model=MODEL, input=back, tools=tools, max_output_tokens=4)
    assert answer.output_text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("named", [False, True], ids=["required", "named"])
def test_a_chat_calls_a_tool(sdk: openai.OpenAI, stream: bool, named: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}} if named else "required"
    asked: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "tools": [NESTED]}
    asked |= {"tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 100}
    if not stream:
        (made,) = sdk.chat.completions.create(**asked).choices
        (call,) = made.message.tool_calls or []
        assert made.message.content is None
        name, arguments, reason = call.function.name, call.function.arguments, made.finish_reason
    else:
        chunks = list(sdk.chat.completions.create(**asked, stream=True))
        deltas = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
        name = deltas[0].function.name
        arguments = "".join(delta.function.arguments or "" for delta in deltas)
        reason = chunks[-1].choices[0].finish_reason
        assert len(deltas) > 2
        assert all(not chunk.choices[0].delta.content for chunk in chunks)
    assert (name, reason) == ("weather", "tool_calls")
    assert json.loads(arguments)["city"] in ("Paris", "Rome")


def test_an_answer_that_is_parsed(sdk: openai.OpenAI) -> None:
    chat: Any = sdk.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=City, max_tokens=64
    )
    assert isinstance(chat.choices[0].message.parsed, City)
    response = sdk.responses.parse(
        model=MODEL, input=QUESTION, text_format=City, max_output_tokens=64
    )
    assert isinstance(response.output_parsed, City)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "x"}, "previous_response_id"),
    ({"input": []}, "input"),
    ({"input": [3]}, "input[0]"),
    ({"input": [{"type": "file"}]}, "input[0].type"),
    ({"input": [{"type": "function_call", "x": 1}]}, "input[0].x"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"background": True}, "background"),
    ({"nope": 1}, "nope"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
]


@pytest.mark.parametrize(("change", "param"), REFUSED, ids=[param for _, param in REFUSED])
def test_a_wrong_response(demo_gateway: Gateway, change: dict[str, Any], param: str) -> None:
    answer = post(demo_gateway, "/v1/responses", {"model": MODEL, "input": "x"} | change)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param
