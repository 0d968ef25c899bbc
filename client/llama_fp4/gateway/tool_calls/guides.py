"""Guides for the server's guided decoding under which an answer is a call with right arguments.

A guide holds the form `{"name": "f", "parameters": {...}}`, which Llama 3.1 was trained to write,
or a list of those. Each tool's schema stands under `$defs`, and its own references are moved there.

Runtimes read guides with different libraries, and may refuse a schema. So there is a list of
guides: when the server refuses one, the next asks for less. Under the last one the arguments are
any JSON object; a tool with `strict` has no such guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llama_fp4.gateway.tool_calls.request import Tool, ToolError, ToolUse
from llama_fp4.gateway.tool_calls.strict_grammar import strict_grammar

MAX_BYTES = 64 * 1024  # the server's bound of a guide
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
# Keywords whose value is a schema, a list of schemas, or an object of schemas.
_ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LIST = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAP = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties",
        "properties")  # fmt: skip
# They say nothing where a schema stands inside of another one.
_OF_DOCUMENTS = ("$schema", "$id", "id")
_OTHER_KINDS = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "enum", "const", "not", "if")
_PLACE = re.compile(r"#/\$defs/(\d+)(\S*)")


class Guide(NamedTuple):
    """The ensemble's inputs `guided_decoding_guide_type` and `guided_decoding_guide`."""

    kind: str
    text: str


def guides_for(use: ToolUse, answer: Any = None) -> tuple[Guide, ...]:
    """The guides of a request, the one that holds most first; none if nothing is to be held.

    They hold a call where `tool_choice` asks for one. Where the model may choose, they hold either
    calls or the schema `answer` of `response_format`, or strict tools' arguments; if the server
    refuses these, the request goes without them. Raises `ToolError` if a strict tool's schema is
    too large.
    """
    if not use.names:
        return ()
    tools, several = use.allowed, use.parallel and not use.is_named
    if use.mode == "auto" and answer is None:
        strict = any(tool.strict for tool in tools)
        grammar = strict_grammar(tools, several) if strict else None
        return _small_enough("ebnf_grammar", [grammar] if grammar else [])
    schemas = [_schema(tool.parameters, f"#/$defs/{n}") for n, tool in enumerate(tools)]
    least = [s if t.strict else ANY_ARGUMENTS for s, t in zip(schemas, tools, strict=True)]
    documents = [_document(tools, schemas, several)]
    if several:
        documents.append(_document(tools, schemas, False))
    documents.append(_document(tools, least, several))
    if use.mode == "auto":
        documents = [_with_answer(document, answer) for document in documents]
    guides = _small_enough("json_schema", [json.dumps(d, ensure_ascii=False) for d in documents])
    if not guides and use.mode == "required":
        raise ToolError(
            "tools",
            f"the schemas of tools make a guide of more than {MAX_BYTES} bytes, and must make a "
            "smaller one where a tool is strict",
        )
    return guides


def _small_enough(kind: str, texts: Sequence[str]) -> tuple[Guide, ...]:
    once = dict.fromkeys(texts)
    return tuple(Guide(kind, text) for text in once if len(text.encode()) <= MAX_BYTES)


def _with_answer(document: dict[str, Any], answer: Any) -> dict[str, Any]:
    """A schema of calls, or of an answer in JSON."""
    definitions = {**document.pop("$defs"), "calls": document}
    definitions["answer"] = _moved(answer, "#/$defs/answer")
    either = [{"$ref": "#/$defs/answer"}, {"$ref": "#/$defs/calls"}]
    return {"$defs": definitions, "anyOf": either}


def refusal_of(message: str, use: ToolUse) -> ToolError:
    """The server's refusal of the last guide, in terms of the request."""
    found = _PLACE.search(message)
    if found is None or int(found[1]) >= len(use.allowed):
        return ToolError("tools", f"the server refuses the schemas of tools: {message}")
    tool = use.allowed[int(found[1])]
    where = f"{tool.where}.parameters"
    said = message.replace(found[0], f"#{found[2]}" if found[2] else "#")
    return ToolError(where, f"{where} of the tool {tool.name!r} cannot be held: {said}")


def _document(
    tools: Sequence[Tool], schemas: Sequence[Mapping[str, Any]], several: bool
) -> dict[str, Any]:
    """A schema of one call, or of one or a list of them if `several`."""
    definitions: dict[str, Any] = {str(n): schema for n, schema in enumerate(schemas)}
    calls = [_call(tool.name, f"#/$defs/{n}") for n, tool in enumerate(tools)]
    call = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if not several:
        return {"$defs": definitions, **call}
    definitions["call"] = call
    one = {"$ref": "#/$defs/call"}
    return {
        "$defs": definitions,
        "anyOf": [one, {"type": "array", "items": one, "minItems": 1}],
    }


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "parameters": {"$ref": arguments}},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _schema(parameters: Mapping[str, Any] | None, place: str) -> Mapping[str, Any]:
    """The schema of a tool's arguments, which will stand at `place`."""
    if not parameters:
        return NO_ARGUMENTS
    moved: dict[str, Any] = _moved(parameters, place)
    if "type" not in moved and not any(name in moved for name in _OTHER_KINDS):
        moved = {"type": "object", **moved}
    return moved


def _moved(schema: Any, place: str) -> Any:
    """The schema with its references to itself led to `place`."""
    if not isinstance(schema, Mapping):
        return schema
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _OF_DOCUMENTS and isinstance(value, str):
            continue
        if key == "$ref" and isinstance(value, str) and value[:2] in ("#", "#/"):
            value = place + value[1:]
        elif key in _MAP and isinstance(value, Mapping):
            value = {name: _moved(inner, place) for name, inner in value.items()}
        elif key in _LIST and isinstance(value, list):
            value = [_moved(inner, place) for inner in value]
        elif key in _ONE:
            value = _moved(value, place)
        moved[key] = value
    return moved
