"""Chat messages and tools in OpenAI's form -> checked values in the form that templates take.

The templates of Hugging Face take OpenAI's form too, but a call's arguments as an object and a
content as one text. A key whose value is null or an empty list counts as absent: OpenAI's library
sends an assistant's message back with nulls for all that it does not have.
"""

from __future__ import annotations

from typing import Any

from chat_json import InvalidMessages, check_bounds, read_json, short

# "ipython" is Llama 3.1's own name of the role "tool".
ROLES = ("system", "user", "assistant", "tool", "ipython")
TOOL_ROLES = ("tool", "ipython")
# OpenAI's newer name of the system's role. A template would write it into the header of a turn,
# where no Llama has ever seen it.
RENAMED_ROLES = {"developer": "system"}
MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
CALL_KEYS = ("id", "type", "function")
FUNCTION_KEYS = ("name", "description", "parameters", "strict", "return")
MAX_MESSAGES = 1024
MAX_TOOLS = 128

Message = dict[str, Any]
Tool = dict[str, Any]


def parse_messages(document: str) -> list[Message]:
    """Read the JSON list `[{"role": ..., "content": ...}, ...]`; raises `InvalidMessages`."""
    messages = _list(read_json(document, "messages"), "messages")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidMessages(
            f"messages is a list of {len(messages)}, allowed is a list of 1 to {MAX_MESSAGES}"
        )
    checked = [_message(value, f"messages[{index}]") for index, value in enumerate(messages)]
    check_bounds(checked, "messages")
    return checked


def parse_tools(document: str) -> list[Tool]:
    """Read the JSON list `[{"type": "function", "function": {...}}, ...]`, null for none.

    The tools come back as they were sent, because a template prints all of a tool. Raises
    `InvalidMessages`.
    """
    value = read_json(document, "tools")
    tools = [] if value is None else _list(value, "tools")
    if len(tools) > MAX_TOOLS:
        raise InvalidMessages(f"tools is a list of {len(tools)}, allowed are {MAX_TOOLS}")
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools[{index}]")
    check_bounds(tools, "tools")
    return tools


def _message(value: object, where: str) -> Message:
    given = _object(value, where)
    message = {key: item for key, item in given.items() if key == "content" or _says(item)}
    _check_keys(message, MESSAGE_KEYS, where)
    message["role"] = _role(message.get("role"), f"{where}.role")
    for key in ("name", "tool_call_id"):
        if key in message:
            _text(message[key], f"{where}.{key}")
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message, f"{where}.tool_calls")
    if "content" in message or "tool_calls" not in message:
        message["content"] = _content(message, f"{where}.content")
    return message


def _says(value: object) -> bool:
    return value is not None and value != []


def _role(role: object, where: str) -> str:
    if isinstance(role, str):
        role = RENAMED_ROLES.get(role, role)
        if role in ROLES:
            return role
    allowed = ", ".join((*ROLES, *RENAMED_ROLES))
    raise InvalidMessages(f"{where} is {short(role)}, allowed is one of {allowed}")


def _content(message: Message, where: str) -> Any:
    """A text; null beside a tool call; an object too as a tool's result."""
    content = message.get("content")
    if isinstance(content, str) or (content is None and "tool_calls" in message):
        return content
    if isinstance(content, list):
        # Joined as vLLM, llama.cpp and trtllm-serve join them.
        parts = enumerate(content)
        return "\n".join(_text_part(part, f"{where}[{index}]") for index, part in parts)
    if isinstance(content, dict) and message["role"] in TOOL_ROLES:
        return content
    raise InvalidMessages(
        f"{where} is {short(content)}, allowed is a text or a list of text parts, "
        "null beside tool_calls and an object as a tool's result"
    )


def _text_part(value: object, where: str) -> str:
    part = _object(value, where)
    if part.get("type") != "text":
        raise InvalidMessages(f"{where}.type is {short(part.get('type'))}, allowed is 'text'")
    _check_keys(part, ("type", "text"), where)
    return _text(part.get("text"), f"{where}.text")


def _tool_calls(message: Message, where: str) -> list[dict[str, Any]]:
    calls = _list(message["tool_calls"], where)
    if message["role"] != "assistant":
        # Templates write a message with calls as the assistant's, whatever its role is.
        raise InvalidMessages(
            f"{where} stands in a message of the role {message['role']!r}, allowed is 'assistant'"
        )
    if len(calls) != 1:
        raise InvalidMessages(
            f"{where} is a list of {len(calls)} calls, allowed is 1: "
            "Llama 3.1's template takes one call in a message"
        )
    return [_tool_call(calls[0], f"{where}[0]")]


def _tool_call(value: object, where: str) -> dict[str, Any]:
    call = _object(value, where)
    _check_keys(call, CALL_KEYS, where)
    if call.get("type", "function") != "function":
        raise InvalidMessages(f"{where}.type is {short(call['type'])}, allowed is 'function'")
    function = _object(call.get("function"), f"{where}.function")
    _check_keys(function, ("name", "arguments"), f"{where}.function")
    _name(function.get("name"), f"{where}.function.name")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _arguments(value: object, where: str) -> dict[str, Any]:
    """The arguments as an object: OpenAI's clients send JSON in a string, "" for none."""
    if isinstance(value, str):
        value = read_json(value, where) if value.strip() else {}
    return _object(value, where)


def _check_tool(value: object, where: str) -> None:
    tool = _object(value, where)
    _check_keys(tool, ("type", "function"), where)
    if tool.get("type") != "function":
        raise InvalidMessages(f"{where}.type is {short(tool.get('type'))}, allowed is 'function'")
    function = _object(tool.get("function"), f"{where}.function")
    _check_keys(function, FUNCTION_KEYS, f"{where}.function")
    _name(function.get("name"), f"{where}.function.name")
    if function.get("description") is not None:
        _text(function["description"], f"{where}.function.description")
    if function.get("parameters") is not None:
        _object(function["parameters"], f"{where}.function.parameters")


def _check_keys(value: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in allowed:
            raise InvalidMessages(
                f"{where} has the key {short(key)}, allowed are {', '.join(allowed)}"
            )


def _name(value: object, where: str) -> None:
    if not _text(value, where):
        raise InvalidMessages(f"{where} is empty, allowed is a name")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidMessages(f"{where} is {short(value)}, allowed is a text")
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidMessages(f"{where} is {short(value)}, allowed is an object")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidMessages(f"{where} is {short(value)}, allowed is a list")
    return value
