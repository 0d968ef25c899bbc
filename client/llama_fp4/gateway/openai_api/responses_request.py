"""The body of `/v1/responses`, and the chat that it stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from llama_fp4.gateway.errors import wrong
from llama_fp4.gateway.openai_api.chat_request import JsonSchema
from llama_fp4.gateway.openai_api.fields import Body, Conversation, brief, only

NOTHING_KEPT = "this server keeps no responses"
CALL_KEYS = ("type", "id", "call_id", "name", "arguments", "status")
OUTPUT_KEYS = ("type", "id", "call_id", "output", "status")


def _input(value: Any) -> Any:
    items = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise PydanticCustomError("input", "must be a string or a list of at least one item")
    return items


class TextFormat(JsonSchema):
    """`text.format`: as a chat's `response_format`, written flat."""

    type: Literal["text", "json_object", "json_schema"]


class TextConfig(Body):
    """`text`."""

    format: TextFormat | None = None
    verbosity: only("medium", why="the model has one verbosity") = None  # type: ignore[valid-type]


class ResponsesRequest(Conversation):
    """Text and function tools; whatever needs a memory of earlier responses is refused."""

    input: Annotated[
        Any,
        BeforeValidator(_input),
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
        ),
    ]
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: TextConfig | None = None

    max_tokens: only(why="use max_output_tokens instead") = None  # type: ignore[valid-type]
    n: only(1, why="a response has one answer") = None  # type: ignore[valid-type]
    background: only(False, why=NOTHING_KEPT) = None  # type: ignore[valid-type]
    conversation: only(why=NOTHING_KEPT) = None  # type: ignore[valid-type]
    previous_response_id: only(why=NOTHING_KEPT) = None  # type: ignore[valid-type]
    prompt: only(why="this server keeps no prompts") = None  # type: ignore[valid-type]
    include: only([], why="there is nothing more to include") = None  # type: ignore[valid-type]
    top_logprobs: only(0, why="use chat completions for log probabilities") = None  # type: ignore[valid-type]
    truncation: only("disabled", why="no message is left out") = None  # type: ignore[valid-type]
    reasoning: only({}, why="the model does not reason") = None  # type: ignore[valid-type]
    max_tool_calls: only(why="the server calls no tools itself") = None  # type: ignore[valid-type]


def messages_of(request: ResponsesRequest) -> list[dict[str, Any]]:
    """The chat's messages, whose contents the server checks. Raises `ApiError`."""
    messages: list[dict[str, Any]] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    for index, item in enumerate(request.input):
        where = f"input[{index}]"
        if not isinstance(item, dict):
            raise wrong(where, f"{where} must be an object, not {brief(item)}", "invalid_type")
        _add(messages, item, where)
    return messages


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        kept = {key: value for key, value in item.items() if key not in ("type", "id", "status")}
        messages.append(kept)
    elif kind == "function_call":
        _check_keys(item, CALL_KEYS, where)
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        last = messages[-1] if messages else {}
        if last.get("role") == "assistant" and "tool_calls" in last:
            last["tool_calls"].append(call)  # calls that were made together
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        _check_keys(item, OUTPUT_KEYS, where)
        answer = {"tool_call_id": item.get("call_id"), "content": item.get("output")}
        messages.append({"role": "tool", **answer})
    elif kind != "reasoning":
        kinds = "message, function_call, function_call_output or reasoning"
        raise wrong(f"{where}.type", f"{where}.type must be {kinds}, not {brief(kind)}")


def _check_keys(item: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in item:
        if key not in known:
            name = f"{where}.{key}"
            message = f"{name[:100]} is not a field that this server knows"
            raise wrong(name[:100], message, "unknown_parameter")


def format_json(request: ResponsesRequest) -> dict[str, Any]:
    """`text` of the answer."""
    given = request.text.format if request.text else None
    if given is None:
        return {"format": {"type": "text"}}
    return {"format": json.loads(given.model_dump_json(by_alias=True, exclude_none=True))}
