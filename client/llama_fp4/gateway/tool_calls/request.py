"""The fields `tools`, `tool_choice` and `parallel_tool_calls` of a request, checked.

Chat completions nest a function in its tool, the Responses API writes it flat; both are read here.
Every refusal names the field, its value and what it must be.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_TOOLS = 128  # as OpenAI's API and the server's room 1
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
FUNCTION_KEYS = ("name", "description", "parameters", "strict")
# What clients add for other servers, and what says nothing to a model.
IGNORED_KEYS = (
    "cache_control", "copilot_cache_control", "extra_content", "provider_specific_fields",
    "allowed_callers", "defer_loading", "eager_input_streaming", "return", "output_schema",
)  # fmt: skip
MODES = ("none", "auto", "required")
Mode = Literal["none", "auto", "required"]
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60


class ToolError(ValueError):
    """A wrong field of a request: its path, and one sentence."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param, self.message = param, message


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str | None
    parameters: Mapping[str, Any] | None  # a JSON schema
    strict: bool
    where: str  # the path of the function in the request

    @property
    def document(self) -> dict[str, Any]:
        """What the chat template shows to the model, in OpenAI's form."""
        function = {"name": self.name, "description": self.description}
        shown = {key: value for key, value in function.items() if value is not None}
        parameters = (
            {"type": "object", "properties": {}} if not self.parameters else self.parameters
        )
        return {"type": "function", "function": {**shown, "parameters": parameters}}


@dataclass(frozen=True)
class ToolUse:
    """What a request says of tools."""

    tools: tuple[Tool, ...] = ()
    mode: Mode = "auto"
    allowed: tuple[Tool, ...] = ()  # those that may be called; all of them, or one that is named
    is_named: bool = False  # tool_choice names one function
    parallel: bool = True
    names: frozenset[str] = field(init=False)  # of the functions that an answer may call

    def __post_init__(self) -> None:
        callable_ = () if self.mode == "none" else self.allowed
        object.__setattr__(self, "names", frozenset(tool.name for tool in callable_))

    @property
    def prompt_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is shown: none if it may call none, for a prompt with tools asks
        for a call."""
        return [] if self.mode == "none" else [tool.document for tool in self.tools]


def read_tool_use(body: Mapping[str, Any], flat: bool = False) -> ToolUse:
    """Read the fields of a request; `flat` as in the Responses API. Raises `ToolError`."""
    tools = _read_tools(body.get("tools"), flat)
    parallel = body.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise _must("parallel_tool_calls", parallel, "true or false")
    choice = body.get("tool_choice")
    mode, allowed, is_named = _read_choice("auto" if choice is None else choice, tools, flat)
    if mode == "required" and not tools:
        raise ToolError("tool_choice", "tool_choice asks for a call and tools is empty")
    return ToolUse(tools, mode, allowed, is_named, parallel is not False)


def _read_tools(value: Any, flat: bool) -> tuple[Tool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _must("tools", value, "a list")
    if len(value) > MAX_TOOLS:
        message = f"tools is a list of {len(value)} and must hold at most {MAX_TOOLS}"
        raise ToolError("tools", message)
    tools = tuple(_read_tool(tool, f"tools[{index}]", flat) for index, tool in enumerate(value))
    seen: dict[str, Tool] = {}
    for tool in tools:
        first = seen.setdefault(tool.name, tool)
        if first is not tool:
            raise ToolError(
                f"{tool.where}.name",
                f"{tool.where}.name is {tool.name!r}, the name of {first.where} too; "
                "each tool must have a name of its own",
            )
    return tools


def _read_tool(value: Any, where: str, flat: bool) -> Tool:
    tool = _object(value, where)
    if tool.get("type") != "function":
        raise _must(f"{where}.type", tool.get("type"), "'function'")
    if not flat:
        _check_keys(tool, ("type", "function"), where)
        where = f"{where}.function"
        tool = _object(tool.get("function"), where)
    _check_keys(tool, (*FUNCTION_KEYS, "type") if flat else FUNCTION_KEYS, where)
    name, description, strict = tool.get("name"), tool.get("description"), tool.get("strict")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _must(f"{where}.name", name, "1 to 64 of the characters a-z, A-Z, 0-9, _ and -")
    if description is not None and not isinstance(description, str):
        raise _must(f"{where}.description", description, "a string")
    if strict is not None and not isinstance(strict, bool):
        raise _must(f"{where}.strict", strict, "true or false")
    parameters = _read_parameters(tool.get("parameters"), f"{where}.parameters")
    return Tool(name, description, parameters, bool(strict), where)


def _read_parameters(value: Any, where: str) -> Mapping[str, Any] | None:
    if value is None:
        return None
    schema = _object(value, where)
    if schema.get("type", "object") != "object":
        raise _must(f"{where}.type", schema["type"], "'object': arguments have names")
    if not isinstance(schema.get("properties", {}), dict):
        raise _must(f"{where}.properties", schema["properties"], "an object of schemas")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _must(f"{where}.required", required, "a list of property names")
    return schema


def _read_choice(
    value: Any, tools: tuple[Tool, ...], flat: bool
) -> tuple[Mode, tuple[Tool, ...], bool]:
    """The mode, the tools that may be called, and whether one is named."""
    if isinstance(value, str):
        if value not in MODES:
            raise _must("tool_choice", value, f"one of {', '.join(MODES)} or an object")
        mode: Mode = "none" if value == "none" else "auto" if value == "auto" else "required"
        return mode, tools, False
    choice = _object(value, "tool_choice")
    kind = choice.get("type")
    if kind == "function":
        return "required", (_named(choice, "tool_choice", tools, flat),), True
    if kind != "allowed_tools":
        raise _must("tool_choice.type", kind, "'function' or 'allowed_tools'")
    where = "tool_choice" if flat else "tool_choice.allowed_tools"
    given = choice if flat else _object(choice.get("allowed_tools"), where)
    mode_, named = given.get("mode"), given.get("tools")
    if mode_ not in ("auto", "required"):
        raise _must(f"{where}.mode", mode_, "'auto' or 'required'")
    if not isinstance(named, list) or not named:
        raise _must(f"{where}.tools", named, "a list of tools")
    found = [_named(tool, f"{where}.tools[{n}]", tools, flat) for n, tool in enumerate(named)]
    once = tuple({tool.name: tool for tool in found}.values())
    return ("auto" if mode_ == "auto" else "required"), once, False


def _named(value: Any, where: str, tools: tuple[Tool, ...], flat: bool) -> Tool:
    """The tool that `{"type": "function", "function": {"name": ...}}` names."""
    choice = _object(value, where)
    if choice.get("type") != "function":
        raise _must(f"{where}.type", choice.get("type"), "'function'")
    if not flat:
        where = f"{where}.function"
        choice = _object(choice.get("function"), where)
    name = choice.get("name")
    for tool in tools:
        if tool.name == name:
            return tool
    raise _must(f"{where}.name", name, "the name of one of the tools")


def _check_keys(value: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in keys and key not in IGNORED_KEYS:
            known = ", ".join(keys)
            raise ToolError(
                f"{where}.{key[:60]}",
                f"{where} has the key {_BRIEF.repr(key)} and must have only {known}",
            )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _must(where, value, "an object")
    return value


def _must(where: str, value: Any, what: str) -> ToolError:
    shown = "missing" if value is None else _BRIEF.repr(value)
    return ToolError(where, f"{where} is {shown} and must be {what}")
