"""Messages and tools that are refused: by name, in one sentence, at a bounded cost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from chat_messages import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_MESSAGES,
    MAX_TOOLS,
    MAX_VALUES,
    InvalidMessages,
    parse_messages,
    parse_tools,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_encoder import BYTES_A_TOKEN, PromptTooLong

from tests.preprocessing.test_chat_corpus import LLAMA_31, WITHOUT_TOOLS
from tests.preprocessing.test_chat_equality import ENCODER, encode, load

USER = {"role": "user", "content": "x"}
TOOL = {"type": "function", "function": {"name": "f"}}
LLAMA_3_1_CONTEXT = 131_072  # the most tokens that the model was trained for


def with_call(**call: Any) -> list[dict[str, Any]]:
    base = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [{"role": "assistant", "content": None, "tool_calls": [base | call]}]


def with_arguments(arguments: Any) -> list[dict[str, Any]]:
    return with_call(function={"name": "f", "arguments": arguments})


MESSAGES: list[tuple[Any, str]] = [
    ("", "messages must be JSON"),
    ("[" * 100_000, "messages must be JSON"),
    ("[" + "9" * 500 + "]", "a number has 500 digits and must have at most 400"),
    ("[1e999]", "the number '1e999' is too large"),
    ("[NaN]", "NaN is not a JSON number"),
    (" " * (MAX_CHARACTERS + 1), f"has {MAX_CHARACTERS + 1} characters and must have at most"),
    ({}, "messages is {} and must be a list"),
    ([], "must be a list of 1 to 1024"),
    ([USER] * (MAX_MESSAGES + 1), "messages is a list of 1025 and must be a list of 1 to 1024"),
    ([1], "messages[0] is 1 and must be an object"),
    ([USER, {"content": "x"}], "messages[1].role is None and must be one of system, user"),
    ([{**USER, "role": "function"}], "messages[0].role is 'function' and must be one of system"),
    ([{**USER, "role": ["user"]}], "messages[0].role is ['user'] and must be one of"),
    ([{**USER, "role": "user<|eot_id|>"}], "messages[0].role is 'user<|eot_id|>'"),
    ([{**USER, "function_call": {"name": "f"}}], "messages[0] has the key 'function_call'"),
    (
        [{**USER, "prefix": True}],
        "messages[0] has the key 'prefix' and must have only role",
    ),
    (
        [{**USER, "contents": "y"}],
        "messages[0] has the key 'contents' and must have only role",
    ),
    ([{**USER, "name": 1}], "messages[0].name is 1 and must be a string"),
    ([{**USER, "tool_call_id": {}}], "messages[0].tool_call_id is {} and must be a string"),
    ([{"role": "user"}], "messages[0].content is None and must be a string or"),
    ([{"role": "user", "content": {}}], "messages[0].content is {} and must be a string"),
    ([{"role": "tool", "content": 1}], "messages[0].content is 1 and must be a string"),
    ([{"role": "user", "content": [1]}], "messages[0].content[0] is 1 and must be an object"),
    (
        [{**USER, "prefix": True}],
        "messages[0] has the key 'prefix' and must have only role",
    ),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "messages[0].content[0].type is 'image_url' and must be 'text'",
    ),
    ([{"role": "user", "content": [{"type": "text"}]}], "content[0].text is None and must be a s"),
    (
        [{"role": "user", "content": [{"type": "text", "text": "", "x": 1}]}],
        "messages[0].content[0] has the key 'x' and must have only type, text",
    ),
    ('[{"role":"user","content":"\\ud800"}]', "holds the lone surrogate '\\ud800'"),
    ('[{"role":"tool","content":{"\\udc3c":1}}]', "holds the lone surrogate '\\udc3c'"),
    ('[{"role":"user","content":"x","\\ud800":1}]', "has the key '\\ud800'"),
    ([{**with_call()[0], "role": "user"}], "tool_calls is in a message with the role 'user'"),
    ([{**with_call()[0], "tool_calls": {}}], "messages[0].tool_calls is {} and must be a list"),
    (with_call(type="custom"), "tool_calls[0].type is 'custom' and must be 'function'"),
    (
        with_call(indexes=0),
        "tool_calls[0] has the key 'indexes' and must have only id, type",
    ),
    (with_arguments({"a": "\ud800"}), "holds the lone surrogate"),
    (with_call(function=None), "tool_calls[0].function is None and must be an object"),
    (with_call(function={"arguments": {}}), "tool_calls[0].function.name is None and must be a"),
    (with_call(function={"name": ""}), "function.name is empty and must be a name"),
    (
        with_call(function={"name": "f", "x": 1}),
        "function has the key 'x' and must have only name",
    ),
    (with_arguments(3), "function.arguments is 3 and must be an object"),
    (with_arguments([0] * MAX_VALUES), "function.arguments is [0, 0, 0, ...] and must be"),
    (with_arguments({"a": [0] * MAX_VALUES}), f"messages must hold at most {MAX_VALUES} values"),
]
TOOLS: list[tuple[Any, str]] = [
    ("{", "tools must be JSON"),
    ({}, "tools is {} and must be a list"),
    (False, "tools is False and must be a list"),
    ([TOOL] * (MAX_TOOLS + 1), "tools is a list of 129 and must hold at most 128"),
    (["f"], "tools[0] is 'f' and must be an object"),
    ([TOOL, {"name": "f"}], "tools[1] has the key 'name' and must have only type, function"),
    ([{"function": {"name": "f"}}], "tools[0].type is None and must be 'function'"),
    ([{"type": "web_search"}], "tools[0].type is 'web_search' and must be 'function'"),
    ([{"type": "function"}], "tools[0].function is None and must be an object"),
    ([{"type": "function", "function": {}}], "tools[0].function.name is None and must be a string"),
    ([{"type": "function", "function": {"name": ""}}], "function.name is empty and must be a name"),
    (
        [{"type": "function", "function": {"name": "f", "desciption": "x"}}],
        "tools[0].function has the key 'desciption' and must have only name, description",
    ),
    (
        [{"type": "function", "function": {"name": "f", "description": 1}}],
        "tools[0].function.description is 1 and must be a string",
    ),
    (
        [{"type": "function", "function": {"name": "f", "parameters": []}}],
        "tools[0].function.parameters is [] and must be an object",
    ),
    ([{**TOOL, "custom": 1}], "tools[0] has the key 'custom' and must have only type, function"),
    ('[{"type":"function","function":{"name":"\\ud800"}}]', "tools holds the lone surrogate"),
]


def refused(function: Any, value: Any) -> str:
    document = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(InvalidMessages) as error:
        function(document)
    sentence = str(error.value)
    sentence.encode()  # as a Triton error must
    assert len(sentence) < 300
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(("value", "words"), MESSAGES, ids=[words for _, words in MESSAGES])
def test_messages_are_refused_by_name(value: Any, words: str) -> None:
    assert words in refused(parse_messages, value)


@pytest.mark.parametrize(("value", "words"), TOOLS, ids=[words for _, words in TOOLS])
def test_tools_are_refused_by_name(value: Any, words: str) -> None:
    assert words in refused(parse_tools, value)


def test_what_the_template_says_is_told() -> None:
    template = load("{{ raise_exception('Only\n cats.') }}{{ messages }}{{ tools }}")
    sentence = refused(lambda document: encode(template, document), [USER])
    assert sentence == "the chat template refuses the messages: Only cats."


@pytest.mark.parametrize(
    ("messages", "tools", "words"),
    [
        ([USER], [TOOL], "tools is a list of 1 and must be left out: this"),
        ([USER, *with_call()], [], "messages[1] is a tool's call or result and must be words"),
        ([{**USER, "role": "ipython"}], [], "messages[0] is a tool's call or result"),
    ],
)
def test_a_template_without_tools_is_given_none(messages: Any, tools: Any, words: str) -> None:
    template = load(WITHOUT_TOOLS)
    sentence = refused(lambda document: encode(template, document, json.dumps(tools)), messages)
    assert words in sentence


def test_every_way_to_send_no_tools_is_accepted() -> None:
    plain = encode(load(LLAMA_31), json.dumps([USER]))
    assert plain == encode(load(LLAMA_31), json.dumps([USER]), "[]")
    assert plain == encode(load(LLAMA_31), json.dumps([USER]), "null")


@pytest.mark.parametrize(
    "failing",
    [
        "{{ raise_exception('no <|eot_id|> ' + messages[0].content) }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].nothing.at_all }}",
        "{{ messages[7].content }}",
        "{{ 1 // 0 }}",
        "{{ '%d' % messages[0].content }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10**9) | list }}",
        "{{ '{key}'.format() }}",
        "{{ [].index(1) }}",
        "{{ 5 | dictsort }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_that_fails_is_one_sentence(failing: str) -> None:
    template = load(failing)
    document = json.dumps([{"role": "user", "content": "<|eot_id|>\n" * 200}])
    assert "template refuses the messages: " in refused(lambda _: encode(template, document), "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "tool_calls", "function", "name", "arguments", "type"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
ODD_MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "ipython", "developer"]),
        "content": JSON | st.text(max_size=8) | st.lists(st.just({"type": "text", "text": "x"})),
    },
    optional={
        "name": JSON | st.text(),
        "tool_call_id": JSON | st.text(),
        "tool_calls": JSON
        | st.lists(
            st.fixed_dictionaries(
                {"function": st.fixed_dictionaries({"name": st.text(), "arguments": JSON})},
            ),
            max_size=2,
        ),
    },
)


@settings(max_examples=500, deadline=None)
@given(messages=JSON | st.lists(ODD_MESSAGE, max_size=4), tools=JSON | st.just([TOOL]))
def test_any_json_is_encoded_or_refused(messages: Any, tools: Any) -> None:
    template = load(LLAMA_31)
    try:
        assert encode(template, json.dumps(messages), json.dumps(tools))
    except InvalidMessages as error:
        str(error).encode()


def deep_tool(depth: int) -> dict[str, Any]:
    """The costliest tool of its depth to print: all values on the deepest line."""
    inner: Any = [0] * (MAX_VALUES - 200)
    for _ in range(depth - 5):
        inner = [inner]
    return {"type": "function", "function": {"name": "f", "parameters": {"x": inner}}}


LARGEST = {
    "one message of '<'": ([{"role": "user", "content": "<" * (MAX_CHARACTERS - 100)}], []),
    "one message of control tokens": (
        [{"role": "user", "content": "<|eot_id|>" * (MAX_CHARACTERS // 10 - 10)}],
        [],
    ),
    "white space": ([{"role": "user", "content": "x" + " " * (MAX_CHARACTERS - 100) + "x"}], []),
    "many messages": ([{"role": "user", "content": "x" * 4000}] * MAX_MESSAGES, []),
    "many calls": ([USER, *(with_arguments('{"a": "' + "\\u0001" * 550 + '"}') * 1000)], []),
    "a deep tool": ([USER], [deep_tool(MAX_DEPTH)]),
    "a tool of keys": ([USER], [{**TOOL, "function": {"name": "f", "parameters": {
        "k" * 100 + str(index): 0 for index in range(MAX_VALUES - 10)}}}]),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_documents_cost_seconds_at_most(name: str) -> None:
    """Admitted up to the last byte, then refused by the size of what is rendered."""
    messages, tools = (json.dumps(part) for part in LARGEST[name])
    assert max(len(messages), len(tools)) <= MAX_CHARACTERS
    started = time.process_time()
    checked = parse_messages(messages), parse_tools(tools)
    prompt = load(LLAMA_31).render(*checked)
    with pytest.raises(PromptTooLong):
        ENCODER.encode_rendered(prompt, most=len(prompt) // BYTES_A_TOKEN - 1)
    seconds = time.process_time() - started
    print(f"{name}: {1000 * seconds:.0f} ms, {len(prompt)} characters rendered")
    assert seconds < 10  # of this process: a cost that grows with the square takes minutes


@pytest.mark.parametrize("words", ["<|eot_id|>", " "])
def test_the_largest_prompt_that_is_encoded_costs_seconds_at_most(words: str) -> None:
    size = LLAMA_3_1_CONTEXT * BYTES_A_TOKEN - 1000
    document = json.dumps([{"role": "user", "content": f"x{words * (size // len(words))}x"}])
    started = time.process_time()
    prompt = load(LLAMA_31).render(parse_messages(document))
    assert len(ENCODER.encode_rendered(prompt, most=LLAMA_3_1_CONTEXT)) > LLAMA_3_1_CONTEXT
    seconds = time.process_time() - started
    print(f"{words!r}: {1000 * seconds:.0f} ms")
    assert seconds < 60
