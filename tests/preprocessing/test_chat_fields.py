"""Messages as clients really send them: fields that say nothing to a model refuse no request, and
nothing that a model wrote before blocks a conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_messages import parse_messages, parse_tools

from tests.preprocessing.test_chat_corpus import LLAMA_31, Conversation
from tests.preprocessing.test_chat_equality import TRANSFORMERS, encode, load, theirs

SHOW_ALL = "{{ bos_token }}{{ messages | tojson }}{{ tools | tojson }}"
USER: dict[str, Any] = {"role": "user", "content": "x"}
CALL: dict[str, Any] = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {}}}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "y"}
CACHE = {"type": "ephemeral"}

# As a client sends it, and as it is to be read.
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "OpenAI's library, model_dump()": (
        {**ANSWER, "refusal": None, "annotations": [], "audio": None, "function_call": None,
         "tool_calls": None},
        ANSWER,
    ),
    "OpenAI's library, a parsed answer": ({**ANSWER, "parsed": {"a": 1}, "tool_calls": []}, ANSWER),
    "OpenAI, citations": ({**ANSWER, "annotations": [{"type": "url_citation"}]}, ANSWER),
    "OpenAI, a refusal": (
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": "No."},
    ),
    "OpenAI, a part of refusal": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "No."},
    ),
    "OpenAI, nothing said": (
        {"role": "assistant", "content": None}, {"role": "assistant", "content": ""},
    ),
    "OpenAI, developer": ({**USER, "role": "developer"}, {**USER, "role": "system"}),
    "OpenAI, a weight": ({**ANSWER, "weight": 0}, ANSWER),
    "OpenAI, parts": (
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
        {"role": "user", "content": "x\ny"},
    ),
    "Responses API's parts": (
        {"role": "user", "content": [{"type": "input_text", "text": "x", "annotations": []}]}, USER,
    ),
    "OpenAI's stream, put together": (
        {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **CALL}]},
        {"role": "assistant", "tool_calls": [CALL]},
    ),
    "OpenAI's library, parsed arguments": (
        {"role": "assistant", "tool_calls": [
            {**CALL, "function": {**CALL["function"], "parsed_arguments": {}}}]},
        {"role": "assistant", "tool_calls": [CALL]},
    ),
    "no arguments": (
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": None}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
    ),
    "LangChain, texts as parts": (
        {"role": "user", "content": ["x", "y"]}, {**USER, "content": "x\ny"},
    ),
    "Mistral's library, no prefix": ({**ANSWER, "prefix": False, "tool_calls": None}, ANSWER),
    "Moonshot, not partial": ({**ANSWER, "partial": False}, ANSWER),
    "Azure, its own data": (
        {**ANSWER, "end_turn": True, "context": {"citations": [], "intent": "i"}}, ANSWER,
    ),
    "Groq, its tools": ({**ANSWER, "executed_tools": [{"type": "search"}]}, ANSWER),
    "opencode for Copilot": ({**USER, "copilot_cache_control": CACHE}, USER),
    "Copilot, reasoning": ({**ANSWER, "reasoning_opaque": "x"}, ANSWER),
    "LiteLLM, a cached message": ({**USER, "cache_control": CACHE}, USER),
    "LangChain, a cached part": (
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": CACHE}]}, USER,
    ),
    "LiteLLM, what providers say": (
        {**ANSWER, "provider_specific_fields": {"a": 1}, "thinking_blocks": [{"thinking": "h"}]},
        ANSWER,
    ),
    "LangChain, parts of Anthropic's": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "h", "signature": "s"},
                                          {"type": "text", "text": "y"}]},
        ANSWER,
    ),
    "LangChain, a tool's result": (
        {"role": "tool", "content": "y", "tool_call_id": "1", "name": "f", "status": "success"},
        {"role": "tool", "content": "y", "tool_call_id": "1", "name": "f"},
    ),
    "AI SDK, Google's signature": (
        {"role": "assistant", "content": "", "tool_calls": [
            {**CALL, "extra_content": {"google": {"thought_signature": "s"}}}]},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
    ),
    "Ollama": (
        {"role": "tool", "content": "y", "tool_name": "f"}, {"role": "tool", "content": "y"},
    ),
    "a tool without a result": ({"role": "tool", "content": None}, {"role": "tool", "content": ""}),
    "a tool without a content": ({"role": "tool"}, {"role": "tool", "content": ""}),
    "OpenRouter, reasoning": (
        {**ANSWER, "reasoning": "h", "reasoning_details": [{"text": "h"}]},
        {"thinking": "h", **ANSWER, "reasoning_content": "h"},
    ),
    "vLLM, reasoning": (
        {**ANSWER, "reasoning_content": "h", "reasoning": "h"},
        {"thinking": "h", **ANSWER, "reasoning_content": "h"},
    ),
    "reasoning that is none": ({**ANSWER, "reasoning_content": None, "reasoning": {}}, ANSWER),
    "reasoning that is no model's": ({**USER, "reasoning_content": "h"}, USER),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_clients_add_change_nothing(name: str) -> None:
    sent, meant = FIELDS[name]
    parsed = parse_messages(json.dumps([USER, sent]))
    assert parsed == parse_messages(json.dumps([USER, meant]))
    assert list(parsed[1]) == list(parse_messages(json.dumps([USER, meant]))[1])
    assert encode(load(SHOW_ALL), json.dumps([USER, sent]))


@pytest.mark.parametrize(
    "tool",
    [
        {**TOOL, "cache_control": CACHE},
        {**TOOL, "function": {**TOOL["function"], "cache_control": CACHE}},
        {**TOOL, "defer_loading": True, "allowed_callers": ["direct"], "custom": None},
        {**TOOL, "function": {**TOOL["function"], "output": None}},
    ],
)
def test_a_cached_tool_is_that_tool(tool: dict[str, Any]) -> None:
    assert parse_tools(json.dumps([tool])) == [TOOL]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"city": "Par',
        "{'city': 'Paris'}",
        "Paris",
        "[1]",
        "3",
        "null",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": "\\ud83d"}',
        '{"a": ' + "[" * 40 + "]" * 40 + "}",
        "[" * 50_000,
        '{"a": 1}}',
        '{"a": "<|eot_id|>',
    ],
)
def test_broken_arguments_go_back_as_they_are(arguments: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, USER]
    ids = encode(load(LLAMA_31), json.dumps(messages))
    expected = theirs(LLAMA_31, Conversation(messages, None))
    if "<|" not in arguments:
        assert ids == expected
    assert TRANSFORMERS.decode(ids) == TRANSFORMERS.decode(expected)


def test_several_calls_are_the_templates_matter() -> None:
    template = "{{ bos_token }}{% for call in messages[0].tool_calls %}{{ call.function.name }}"
    template += "{% endfor %}{{ tools }}"
    calls = [{**CALL, "function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]
    messages = [{"role": "assistant", "tool_calls": calls}]
    ids = encode(load(template), json.dumps(messages))
    assert TRANSFORMERS.decode(ids, skip_special_tokens=True) == "fgNone"


def test_reasoning_reaches_the_templates_that_read_it() -> None:
    template = "{{ bos_token }}{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}"
    for key in ("reasoning_content", "thinking", "reasoning"):
        messages = [{**ANSWER, key: "because"}]
        assert encode(load(template), json.dumps(messages)) == theirs(
            template, Conversation(messages, None)
        )


# As templates of the field print calls: DeepSeek's own with the arguments' text and a null beside
# a call, IBM Granite's with the content of every message.
DEEPSEEK = """{{ bos_token }}{% for m in messages %}{% if 'tool_calls' in m %}
{%- for call in m['tool_calls'] %}{% if m['content'] is none %}[call]{% else %}
{{- m['content'] + '[call]' }}{% endif %}{{ call['type'] + call['function']['name'] + '```json\n'
 + call['function']['arguments'] + '```' }}{% endfor %}{% else %}{{ m['role'] + m['content'] }}
{%- endif %}{% endfor %}"""
GRANITE = "{{ bos_token }}{% for m in messages %}{{ m.role + m.content }}{% endfor %}{{ tools }}"


@pytest.mark.parametrize(
    "content", [{"content": None}, {}, {"content": ""}, {"content": "I ask. "}]
)
@pytest.mark.parametrize("text", ['{"a":1,  "b": "\\u00e9"}', "{}", '{"a": "'])
def test_calls_in_the_form_that_a_template_asks_for(content: dict[str, Any], text: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": text}}
    messages = [
        USER,
        {"role": "assistant", **content, "tool_calls": [call]},
        {**USER, "role": "tool"},
    ]
    prompt = load(DEEPSEEK).render(parse_messages(json.dumps(messages)))
    said = content.get("content") or ""
    assert prompt == f"<|begin_of_text|>userx{said}[call]functionf```json\n{text}```toolx"
    prompt = load(GRANITE).render(parse_messages(json.dumps(messages)))
    assert prompt == f"<|begin_of_text|>userxassistant{said}toolxNone"


def test_a_control_token_in_the_text_of_arguments_stays_text() -> None:
    call = {**CALL, "function": {"name": "f", "arguments": '{"a": "<|eot_id|>"}'}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    ids = encode(load(DEEPSEEK), json.dumps(messages))
    assert TRANSFORMERS.convert_tokens_to_ids("<|eot_id|>") not in ids
    assert "<|eot_id|>" in TRANSFORMERS.decode(ids)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "x"}],
        [ANSWER, USER],
        [{"role": "system", "content": "x"}, ANSWER, USER],
        [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "y"}, USER],
        [{"role": "system", "content": "x"}, {"role": "tool", "content": "y"}],
    ],
)
def test_tools_before_anything_of_a_user_get_a_turn_of_their_own(messages: list[Any]) -> None:
    """Llama's template would write them into that message and call it the user's."""
    index = int(messages[0]["role"] == "system")
    begun = [*messages[:index], {"role": "user", "content": ""}, *messages[index:]]
    expected = theirs(LLAMA_31, Conversation(parse_messages(json.dumps(begun)), [TOOL]))
    assert encode(load(LLAMA_31), json.dumps(messages), json.dumps([TOOL])) == expected


def test_with_tools_the_first_turn_may_be_anyones_where_the_template_reads_its_role() -> None:
    messages = [ANSWER, USER]
    source = "{{ bos_token }}{{ tools | tojson }}{% for m in messages %}{{ m.role ~ m.content }}"
    source += "{% endfor %}"
    ids = encode(load(source), json.dumps(messages), json.dumps([TOOL]))
    assert ids == theirs(source, Conversation(messages, [TOOL]))
