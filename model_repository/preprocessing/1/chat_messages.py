"""Chat messages and tools in OpenAI's form -> checked values in the form that templates take.

The templates of Hugging Face take OpenAI's form too, but a call's arguments as an object and a
content as one text. A key whose value is null or an empty list counts as absent: OpenAI's library
sends an assistant's message back with nulls for everything it lacks.

Keys that clients add for other servers, and that say nothing to a model, are ignored by name;
any other key is refused, since it could be a misspelled one. What a model wrote before and a
client sends back, such as broken arguments of a call, never blocks a conversation.

A document is a request's own data. This file bounds its size, its depth, its number of values and
its numbers, so that nothing after it meets a small document that costs much.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from typing import Any

MAX_CHARACTERS = 4 << 20
# A template may print JSON with an indent: each value then costs up to 4 * MAX_DEPTH spaces.
MAX_DEPTH = 32
MAX_VALUES = 32_768
MAX_DIGITS = 400  # as many as the largest float has before its point; int() takes quadratic time
SURROGATE = re.compile("[\ud800-\udfff]")
_BRIEF = reprlib.Repr()
_BRIEF.maxstring, _BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxdict = 60, 2, 3, 3


class InvalidMessages(ValueError):
    """The caller's messages or tools cannot be used; one sentence says what is wrong and what it
    must be."""


def read_json(document: str, called: str) -> Any:
    """The value of a document, its size and numbers within the bounds."""
    if len(document) > MAX_CHARACTERS:
        raise InvalidMessages(
            f"{called} has {len(document)} characters and must have at most {MAX_CHARACTERS}"
        )
    try:
        return json.loads(
            document, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise InvalidMessages(f"{called} must be JSON ({error})") from None


def check_bounds(value: Any, called: str, most: int = MAX_DEPTH) -> None:
    """Refuse a value that is too deep, holds too many values or text that is not Unicode."""
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        if count > MAX_VALUES:
            raise InvalidMessages(f"{called} must hold at most {MAX_VALUES} values")
        if depth > most:
            raise InvalidMessages(f"{called} must nest at most {most} deep")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item, called)
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key, called)
                inner += item.values()
        level, depth = inner, depth + 1


def short(value: object) -> str:
    """A value, short enough for a sentence, at a cost that does not grow with its depth."""
    return _BRIEF.repr(value)


def _check_text(text: str, called: str) -> None:
    found = None if text.isascii() else SURROGATE.search(text)
    if found:
        raise InvalidMessages(
            f"{called} holds the lone surrogate {found[0]!r} and must be Unicode text"
        )


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits and must have at most {MAX_DIGITS}")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {short(text)} is too large")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


# "ipython" is Llama 3.1's own name of the role "tool".
ROLES = ("system", "user", "assistant", "tool", "ipython")
TOOL_ROLES = ("tool", "ipython")
# OpenAI's newer name of the system's role. A template would write it into a turn's header, where
# Llama was never trained on it.
RENAMED_ROLES = {"developer": "system"}
MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
# The names of a model's reasoning. Templates read the first (as in transformers).
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
CALL_KEYS = ("id", "type", "function")
CALLED_KEYS = ("name", "arguments")
FUNCTION_KEYS = ("name", "description", "parameters", "strict", "return")
TEXT_PARTS = ("text", "input_text", "output_text")  # the latter two are the Responses API's
# Parts of an assistant's content that no template shows.
HIDDEN_PARTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_content", "tool_use")

# Anthropic's prompt cache, as LiteLLM, LangChain and OpenRouter pass it on; Google's and LiteLLM's
# notes; an object's own number.
_ANYWHERE = (
    "cache_control", "copilot_cache_control", "extra_content", "provider_specific_fields", "id",
    "index",
)  # fmt: skip
IGNORED_MESSAGE_KEYS = (
    *_ANYWHERE,
    "annotations",  # OpenAI: what the answer cites
    "citations",  # Perplexity
    "parsed",  # OpenAI's library: the answer read as JSON
    "reasoning_details",  # OpenRouter
    "thinking_blocks",  # LiteLLM
    "thought_signature",  # Google
    "reasoning_signature",  # LiteLLM and others
    "status",  # LangChain: whether a tool succeeded
    "is_error",  # Anthropic: the same
    "tool_name",  # Ollama
    "metadata",
    "weight",  # OpenAI: of a message in fine-tuning
    "context",  # Azure: what the answer cites
    "end_turn",  # Azure
    "executed_tools",  # Groq
    "reasoning_opaque",  # GitHub Copilot
    "refusal",  # OpenAI: stands for a content, and is read there
)
IGNORED_PART_KEYS = (*_ANYWHERE, "annotations", "citations", "logprobs", "metadata", "signature")
IGNORED_CALL_KEYS = (*_ANYWHERE, "thought_signature", "caller", "status")
IGNORED_CALLED_KEYS = (*_ANYWHERE, "parsed_arguments", "thought_signature", "output")
IGNORED_TOOL_KEYS = (
    "cache_control", "copilot_cache_control", "extra_content", "provider_specific_fields",
    "allowed_callers", "defer_loading", "eager_input_streaming",  # Anthropic
)  # fmt: skip
# Mistral's, DeepSeek's and Moonshot's names of an answer to continue; false means nothing.
CONTINUED_KEYS = ("prefix", "partial")
ARGUMENTS_DEPTH = 24  # the rest of a document's depth is that of the call around them
MAX_MESSAGES = 1024
MAX_TOOLS = 128

Message = dict[str, Any]
Tool = dict[str, Any]


class Arguments(dict[str, Any]):
    """A call's arguments as an object, and the text of JSON in which a client sent them."""

    def __init__(self, value: dict[str, Any], text: str) -> None:
        super().__init__(value)
        self.text = text


def arguments_text(arguments: dict[str, Any] | str) -> str:
    """The text of JSON of a checked call's arguments, as the client sent it."""
    if isinstance(arguments, Arguments | str):
        return arguments if isinstance(arguments, str) else arguments.text
    return json.dumps(arguments, ensure_ascii=False)


def parse_messages(document: str) -> list[Message]:
    """Read the JSON list `[{"role": ..., "content": ...}, ...]`; raises `InvalidMessages`."""
    messages = _list(read_json(document, "messages"), "messages")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidMessages(
            f"messages is a list of {len(messages)} and must be a list of 1 to {MAX_MESSAGES}"
        )
    checked = [_message(value, f"messages[{index}]") for index, value in enumerate(messages)]
    check_bounds(checked, "messages")
    return checked


def parse_tools(document: str) -> list[Tool]:
    """Read the JSON list `[{"type": "function", "function": {...}}, ...]`, null for none.

    The tools stay as they were sent, without the ignored keys, because a template prints a whole
    tool. Raises `InvalidMessages`.
    """
    value = read_json(document, "tools")
    tools = [] if value is None else _list(value, "tools")
    if len(tools) > MAX_TOOLS:
        raise InvalidMessages(f"tools is a list of {len(tools)} and must hold at most {MAX_TOOLS}")
    checked = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    check_bounds(checked, "tools")
    return checked


def _message(value: object, where: str) -> Message:
    given = {
        key: item
        for key, item in _object(value, where).items()
        if _says(item) and not (key in CONTINUED_KEYS and item is False)
    }
    role = _role(given.get("role"), f"{where}.role")
    reasoning = next((given.pop(key) for key in REASONING_KEYS if key in given), None)
    message = _known(given, MESSAGE_KEYS, (*IGNORED_MESSAGE_KEYS, *REASONING_KEYS), where)
    message["role"] = role
    for key in ("name", "tool_call_id"):
        if key in message:
            _text(message[key], f"{where}.{key}")
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message, f"{where}.tool_calls")
    if "content" in message or "tool_calls" not in message:
        message["content"] = _content(_object(value, where), role, f"{where}.content")
    if role == "assistant" and isinstance(reasoning, str):
        # gpt-oss's template reads the one, all others read the other.
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def _says(value: object) -> bool:
    return value is not None and value != []


def _given(value: object, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """An object without nulls and empty lists, except under these keys."""
    return {key: item for key, item in _object(value, where).items() if key in keys or _says(item)}


def _role(role: object, where: str) -> str:
    if isinstance(role, str):
        role = RENAMED_ROLES.get(role, role)
        if role in ROLES:
            return role
    roles = ", ".join((*ROLES, *RENAMED_ROLES))
    raise InvalidMessages(f"{where} is {short(role)} and must be one of {roles}")


def _content(message: dict[str, Any], role: str, where: str) -> Any:
    """A text; "" for an assistant that said nothing and a tool without a result; as a tool's result
    an object too."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":
        refusal = message.get("refusal")
        return refusal if isinstance(refusal, str) else ""
    if content is None and role in TOOL_ROLES:
        return ""
    if isinstance(content, list):
        # Joined as vLLM, llama.cpp and trtllm-serve join them.
        parts = [_part(part, role, f"{where}[{index}]") for index, part in enumerate(content)]
        return "\n".join(part for part in parts if part is not None)
    if isinstance(content, dict) and role in TOOL_ROLES:
        return content
    raise InvalidMessages(
        f"{where} is {short(content)} and must be a string or a list of text parts, "
        "null from an assistant or a tool and an object as a tool's result"
    )


def _part(value: object, role: str, where: str) -> str | None:
    """The text of a part, None for one that is not shown. LangChain has parts that are texts."""
    if isinstance(value, str):
        return value
    part = _given(value, ("type", "text"), where)
    kind = part.get("type")
    if role == "assistant" and kind in HIDDEN_PARTS:
        return None
    if role == "assistant" and kind == "refusal":
        return _text(part.get("refusal"), f"{where}.refusal")
    if kind not in TEXT_PARTS:
        raise InvalidMessages(f"{where}.type is {short(kind)} and must be 'text'")
    return _text(
        _known(part, ("type", "text"), IGNORED_PART_KEYS, where).get("text"), f"{where}.text"
    )


def _tool_calls(message: Message, where: str) -> list[dict[str, Any]]:
    calls = _list(message["tool_calls"], where)
    if message["role"] != "assistant":
        # Templates write a message with calls as the assistant's, whatever its role is.
        raise InvalidMessages(
            f"{where} is in a message with the role {message['role']!r} and must be in "
            "one with the role 'assistant'"
        )
    return [_tool_call(call, f"{where}[{index}]") for index, call in enumerate(calls)]


def _tool_call(value: object, where: str) -> dict[str, Any]:
    given = {key: item for key, item in _object(value, where).items() if _says(item)}
    call = _known(given, CALL_KEYS, IGNORED_CALL_KEYS, where)
    if call.get("type", "function") != "function":
        raise InvalidMessages(f"{where}.type is {short(call['type'])} and must be 'function'")
    called = _given(call.get("function"), CALLED_KEYS, f"{where}.function")
    function = _known(called, CALLED_KEYS, IGNORED_CALLED_KEYS, f"{where}.function")
    _name(function.get("name"), f"{where}.function.name")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _arguments(value: object, where: str) -> dict[str, Any] | str:
    """The arguments as an object: OpenAI's clients send JSON in a string, "" for none.

    A string that is not a JSON object is what a model wrote, and goes back to it unchanged.
    """
    if value is None:
        return {}
    if not isinstance(value, str):
        return _object(value, where)
    if not value.strip():
        return {}
    try:
        arguments = read_json(value, where)
        check_bounds(arguments, where, ARGUMENTS_DEPTH)
    except InvalidMessages:
        return value
    return Arguments(arguments, value) if isinstance(arguments, dict) else value


def _tool(value: object, where: str) -> Tool:
    tool = _known(
        _given(value, ("type", "function"), where), ("type", "function"), IGNORED_TOOL_KEYS, where
    )
    if tool.get("type") != "function":
        raise InvalidMessages(f"{where}.type is {short(tool.get('type'))} and must be 'function'")
    given = _given(tool.get("function"), FUNCTION_KEYS, f"{where}.function")
    function = _known(given, FUNCTION_KEYS, IGNORED_TOOL_KEYS, f"{where}.function")
    _name(function.get("name"), f"{where}.function.name")
    if function.get("description") is not None:
        _text(function["description"], f"{where}.function.description")
    if function.get("parameters") is not None:
        _object(function["parameters"], f"{where}.function.parameters")
    return {**tool, "function": function}


def _known(
    value: dict[str, Any], keys: tuple[str, ...], ignored: tuple[str, ...], where: str
) -> dict[str, Any]:
    """The value without the ignored keys; raises `InvalidMessages` for any other."""
    for key in value:
        if key not in keys and key not in ignored:
            raise InvalidMessages(
                f"{where} has the key {short(key)} and must have only {', '.join(keys)}"
            )
    return {key: item for key, item in value.items() if key in keys}


def _name(value: object, where: str) -> None:
    if not _text(value, where):
        raise InvalidMessages(f"{where} is empty and must be a name")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidMessages(f"{where} is {short(value)} and must be a string")
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidMessages(f"{where} is {short(value)} and must be an object")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidMessages(f"{where} is {short(value)} and must be a list")
    return value
