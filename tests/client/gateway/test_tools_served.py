"""Tools through the gateway and a real server, by OpenAI's own client.

The replay engine gives the prompt back up to a stop word, so a user's message is an answer with
any calls. The demo checkpoint knows no tools: what it writes is a call because of the guide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict

from tests.support.gateway_calls import MODEL, Gateway, chat, error_of, events, post

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TIME = {
    "type": "object",
    "properties": {"zone": {"$ref": "#/$defs/Zone"}},
    "required": ["zone"],
    "additionalProperties": False,
    "$defs": {"Zone": {"type": "string", "enum": ["UTC", "CET"]}},
}
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "time": TIME}
CALL = '{"name": "weather", "parameters": {"city": "Paris", "unit": "celsius"}}'
ARGUMENTS = '{"city": "Paris", "unit": "celsius"}'
OTHER = '{"name": "time", "parameters": {"zone": "UTC"}}'
END = "<END>"
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
NAMED = {"type": "function", "function": {"name": "time"}}


def tool(name: str, schema: Any, **more: Any) -> dict[str, Any]:
    function = {"name": name, "description": f"tells the {name}", "parameters": schema, **more}
    return {"type": "function", "function": function}


TOOLS = [tool(name, schema) for name, schema in SCHEMAS.items()]
SMALL = [tool(name, {"type": "object"}) for name in SCHEMAS]  # the playback must fit too
STRICT = [tool(name, schema, strict=True) for name, schema in SCHEMAS.items()]


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def demo_sdk(demo_gateway: Gateway) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{demo_gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def whole(sdk: Any, messages: Any, **more: Any) -> tuple[str, list[Any], str]:
    """Content, calls and finish reason of one answer."""
    answer = sdk.chat.completions.create(model=MODEL, messages=messages, **more)
    choice = answer.choices[0]
    calls = [(c.function.name, c.function.arguments) for c in choice.message.tool_calls or ()]
    assert len({c.id for c in choice.message.tool_calls or ()}) == len(calls)
    return choice.message.content or "", calls, choice.finish_reason


def streamed(sdk: Any, messages: Any, **more: Any) -> tuple[str, list[Any], str]:
    """The same of a stream, as a client joins its deltas."""
    content, calls, finish = "", dict[int, list[str]](), ""
    for chunk in sdk.chat.completions.create(model=MODEL, messages=messages, stream=True, **more):
        choice = chunk.choices[0]
        assert not finish
        finish = choice.finish_reason or ""
        content += choice.delta.content or ""
        for piece in choice.delta.tool_calls or ():
            if piece.index not in calls:
                assert piece.type == "function"
                assert piece.id.startswith("call_")
                calls[piece.index] = [piece.function.name, ""]
            calls[piece.index][1] += piece.function.arguments
    return content, [tuple(call) for call in calls.values()], finish


def replayed(sdk: Any, answer: str, **more: Any) -> tuple[str, list[Any], str]:
    """What becomes of an answer that a model could have given, whole and streamed alike."""
    messages = [{"role": "user", "content": f"|{answer}{END}"}]
    options = {"tools": SMALL, "stop": [END], **more}
    found = whole(sdk, messages, **options)
    assert streamed(sdk, messages, **options) == found
    content, calls, finish = found
    return content.rpartition("|")[2], calls, finish


@pytest.mark.parametrize(
    ("answer", "content", "calls"),
    [
        (CALL, "", [("weather", ARGUMENTS)]),
        (f"Let me see. {CALL}", "Let me see. ", [("weather", ARGUMENTS)]),
        (f"{CALL}; {OTHER}", "", [("weather", ARGUMENTS), ("time", '{"zone": "UTC"}')]),
        (f"[{CALL}, {OTHER}]", "", [("weather", ARGUMENTS), ("time", '{"zone": "UTC"}')]),
        (f"<function=weather>{ARGUMENTS}</function>!", "!", [("weather", ARGUMENTS)]),
        ('{"city": "Zürich 🙂"}', '{"city": "Zürich 🙂"}', []),
        ('{"name": "zip", "parameters": {}}', '{"name": "zip", "parameters": {}}', []),
    ],
)
def test_calls_of_an_answer(sdk: Any, answer: str, content: str, calls: Any) -> None:
    """They end with the finish reason `tool_calls`; what is no call stays text."""
    finish = "tool_calls" if calls else "stop"
    assert replayed(sdk, answer) == (content, calls, finish)


def test_choices_about_calls(sdk: Any) -> None:
    """None, one at a time, and only some of the tools."""
    assert replayed(sdk, CALL, tool_choice="none") == (CALL, [], "stop")
    single = replayed(sdk, f"{CALL}; {OTHER}", parallel_tool_calls=False)
    assert single == (f"; {OTHER}", [("weather", ARGUMENTS)], "tool_calls")
    allowed = {"mode": "auto", "tools": [NAMED]}
    some = replayed(
        sdk, f"{CALL}; {OTHER}", tool_choice={"type": "allowed_tools", "allowed_tools": allowed}
    )
    assert some == (f"{CALL}; ", [("time", '{"zone": "UTC"}')], "tool_calls")


def test_a_call_that_is_cut_off_is_in_the_content(sdk: Any) -> None:
    """Whole and streamed; the stream's first arguments have gone out as well."""
    cut = CALL[: CALL.index("celsius")]
    messages = [{"role": "user", "content": f"|{cut}{END}"}]
    options: Any = {"tools": SMALL, "stop": [END]}
    content, calls, finish = whole(sdk, messages, **options)
    assert content.endswith(f"|{cut}")
    assert (calls, finish) == ([], "stop")
    again, begun, ended = streamed(sdk, messages, **options)
    assert (again, ended) == (content, "stop")
    assert begun == [("weather", '{"city": "Paris", "unit": "')]


def test_several_choices_have_calls_of_their_own(sdk: Any) -> None:
    messages: Any = [{"role": "user", "content": CALL + END}]
    answer = sdk.chat.completions.create(
        model=MODEL, messages=messages, tools=SMALL, stop=[END], n=2
    )
    ids = {choice.message.tool_calls[0].id for choice in answer.choices}
    assert len(ids) == 2


@pytest.mark.parametrize("tools", [TOOLS, STRICT], ids=["tools", "strict"])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_that_must_come_is_valid(demo_sdk: Any, tools: Any, choice: Any) -> None:
    """From a model that knows no tools, by the guide alone."""
    for seed in range(2):
        options = {
            "tools": tools,
            "tool_choice": choice,
            "parallel_tool_calls": False,
            "temperature": 1.0,
            "seed": seed,
        }
        content, calls, finish = whole(demo_sdk, QUESTION, **options)
        assert (content, finish) == ("", "tool_calls")
        [(name, arguments)] = calls
        assert name == "time" or choice == "required"
        Draft202012Validator(SCHEMAS[name]).validate(json.loads(arguments))
        assert streamed(demo_sdk, QUESTION, **options) == (content, calls, finish)


def test_several_calls_that_must_come(demo_sdk: Any) -> None:
    """Each is valid; the last one may be cut off by `max_tokens`, and is text then."""
    for seed in range(2):
        content, calls, finish = whole(
            demo_sdk, QUESTION, tools=TOOLS, tool_choice="required", max_tokens=120, seed=seed
        )
        assert finish == ("length" if content else "tool_calls")
        assert calls
        for name, arguments in calls:
            Draft202012Validator(SCHEMAS[name]).validate(json.loads(arguments))


def test_free_answers_of_strict_tools(demo_sdk: Any) -> None:
    """The guide lets words through; with `response_format` it holds JSON or a call."""
    for seed in range(2):
        options = {"tools": STRICT, "max_tokens": 40, "seed": seed}
        content, calls, _ = whole(demo_sdk, QUESTION, **options)
        assert content or calls
    answer = whole(demo_sdk, QUESTION, tools=STRICT, max_tokens=5, extra_body={"min_tokens": 5})
    assert answer[2] == "length"  # the runtime takes min_tokens without a guide alone
    formatted = {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER}}
    for seed in range(2):
        content, calls, finish = whole(
            demo_sdk,
            QUESTION,
            tools=TOOLS,
            response_format=formatted,
            parallel_tool_calls=False,
            seed=seed,
        )
        assert bool(content) != bool(calls)
        assert finish == ("tool_calls" if calls else "stop")
        if content:
            Draft202012Validator(WEATHER).validate(json.loads(content))


class Weather(BaseModel):
    """Tells the weather."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    unit: Literal["celsius", "fahrenheit"]


def test_pydantic_tools_of_the_sdk(demo_sdk: Any) -> None:
    """Its parsed arguments, whole and streamed."""
    options: Any = {
        "model": MODEL,
        "messages": QUESTION,
        "tools": [openai.pydantic_function_tool(Weather)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    answer = demo_sdk.chat.completions.parse(**options)
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    with demo_sdk.chat.completions.stream(**options) as stream:
        kinds = {event.type for event in stream}
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    assert "tool_calls.function.arguments.delta" in kinds


def test_an_agents_round_trip(demo_sdk: Any) -> None:
    """The message with its calls goes back as the client has it, with a result for each."""
    messages: list[Any] = list(QUESTION)
    answer = demo_sdk.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=TOOLS,
        tool_choice="required",
        max_tokens=100,
    )
    message = answer.choices[0].message
    assert message.tool_calls
    messages.append(message)
    for call in reversed(message.tool_calls):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21}'})
    last = demo_sdk.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=TOOLS,
        tool_choice="none",
        max_tokens=8,
    )
    assert last.choices[0].message.tool_calls is None
    assert last.choices[0].finish_reason in ("stop", "length")


def test_results_of_parallel_calls(gateway: Gateway) -> None:
    """Llama's template takes one call in a message; each is shown with its result."""
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in (("weather", ARGUMENTS), ("time", {"zone": "UTC"}))
    ]
    results = [
        {"role": "tool", "tool_call_id": name, "content": f"the {name}'s result"}
        for name in ("time", "weather")
    ]
    body = chat("Hi", tools=SMALL)
    body["messages"] += [{"role": "assistant", "content": None, "tool_calls": calls}, *results]
    text = post(gateway, "/v1/chat/completions", body).json()["choices"][0]["message"]
    shown = json.dumps(text)
    parts = ("weather's result", "time's result")
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)


def test_log_probabilities_beside_calls(demo_gateway: Gateway) -> None:
    """One for each token, streamed and not."""
    body = chat("Hi", tools=TOOLS, tool_choice=NAMED, logprobs=True, max_tokens=60, temperature=0)
    path = "/v1/chat/completions"
    answer = post(demo_gateway, path, body).json()
    found = answer["choices"][0]["logprobs"]["content"]
    assert len(found) == answer["usage"]["completion_tokens"]
    choices = [
        event["choices"][0]
        for event in events(post(demo_gateway, path, body | {"stream": True}).text)[:-1]
    ]
    streamed = [
        each for choice in choices for each in (choice["logprobs"] or {}).get("content", ())
    ]
    assert [each["token"] for each in streamed] == [each["token"] for each in found]


def test_schemas_that_the_server_refuses(demo_gateway: Gateway) -> None:
    """With strict it is 400 for the tool and the keyword; without, any object may be arguments."""
    bad = {
        "type": "object",
        "properties": {"x": {"$ref": "https://example.org/x"}},
        "required": ["x"],
    }
    path = "/v1/chat/completions"
    body = chat("Hi", tools=[*TOOLS, tool("bad", bad, strict=True)], tool_choice="required")
    for stream in (False, True):
        answer = post(demo_gateway, path, body | {"stream": stream})
        assert answer.status_code == 400
        error = error_of(answer)
        assert error["param"] == "tools[2].function.parameters"
        for words in ("'bad'", "$ref", "at #/properties/x"):
            assert words in error["message"]
    named = {"type": "function", "function": {"name": "bad"}}
    body = chat("Hi", tools=[tool("bad", bad)], tool_choice=named, max_tokens=20)
    for stream in (False, True):
        assert post(demo_gateway, path, body | {"stream": stream}).status_code == 200


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [tool("a b", {})]}, "tools[0].function.name"),
        ({"tools": [tool("a", {}), tool("a", {})]}, "tools[1].function.name"),
        ({"tools": [tool("a", [])]}, "tools[0].function.parameters"),
        ({"tools": [tool("a", {})] * 10_000}, "tools"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": 5}, "tool_choice"),
        ({"tools": TOOLS, "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_wrong_tools_name_the_field(gateway: Gateway, more: Any, param: str) -> None:
    """In OpenAI's form, before anything is sent to the server."""
    answer = post(gateway, "/v1/chat/completions", chat(**more))
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


FLAT = [{"type": "function", **each["function"]} for each in SMALL]


def response_to(gateway: Gateway, answer: str, **more: Any) -> list[tuple[str, str]]:
    """What becomes of an answer in the Responses API, whole and as the stream's events tell."""
    body = {"model": MODEL, "input": f"|{answer}{END}", "tools": FLAT, "stop": [END], **more}
    whole = post(gateway, "/v1/responses", body).json()["output"]
    told: dict[int, list[str]] = {}
    for event in response_events(post(gateway, "/v1/responses", body | {"stream": True}).text):
        if event["type"] == "response.output_item.added":
            told[event["output_index"]] = [event["item"].get("name", "text"), ""]
        elif event["type"].endswith(".delta"):
            told[event["output_index"]][1] += event["delta"]
        elif (
            event["type"] == "response.output_item.done" and event["item"]["status"] != "completed"
        ):
            del told[event["output_index"]]
    items = [
        (item.get("name", "text"), item.get("arguments") or item["content"][0]["text"])
        for item in whole
    ]
    assert [tuple(item) for item in told.values()] == items
    first, text = items[0]
    assert first == "text"
    return [(first, text.rpartition("|")[2]), *items[1:]]


def response_events(text: str) -> list[Any]:
    """The data of each event of a response."""
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]


def test_a_response_has_an_item_for_each_text_and_call(gateway: Gateway) -> None:
    """In the order of the answer; a call that broke is text alone."""
    zone = ("time", '{"zone": "UTC"}')
    found = response_to(gateway, f"I see. {CALL}; {OTHER} Done.")
    assert found == [("text", "I see. "), ("weather", ARGUMENTS), zone, ("text", " Done.")]
    cut = CALL[: CALL.index("celsius")]
    assert response_to(gateway, f"{OTHER} {cut}") == [("text", ""), zone, ("text", f" {cut}")]
    assert response_to(gateway, CALL, tool_choice="none") == [("text", CALL)]


def test_a_schema_that_is_no_json_is_the_servers_to_refuse(demo_gateway: Gateway) -> None:
    """Beside tools or not."""
    for more in ({}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = post(demo_gateway, "/v1/chat/completions", chat(guided_json="{", **more))
        assert answer.status_code == 400
        assert "is not JSON" in error_of(answer)["message"]
