"""A grammar for answers that may be words or calls, where the arguments of strict tools are right.

The answer's beginning decides: words may not begin with a bracket, so an answer that begins with a
call goes on as the tool's schema says. A call after words is not held: a grammar that held it would
forbid braces in words, or read its own answer backwards.

Among the server's guides only a grammar can hold words, so the schemas become rules here: those
that OpenAI takes in strict mode, without bounds of texts and numbers. Others have no such grammar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from llama_fp4.gateway.tool_calls.request import Tool

ANNOTATIONS = frozenset(
    ("$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description",
     "example", "examples", "readOnly", "title", "writeOnly")
)  # fmt: skip
MAX_ITEMS = 1000
SHARED = r"""
blank ::= [ \t\r\n]*
any ::= [^{] | "{"
words ::= [^{[< \t\r\n] any* | "<" ([^f|] any*)?
string ::= "\"" ([^"\\\x01-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9A-Fa-f]{4}))* "\""
whole ::= "-"? ("0" | [1-9] [0-9]*)
number ::= whole ("." [0-9]+)? ([eE] [+\-]? [0-9]+)?
"""
SIMPLE = {
    "string": "string",
    "integer": "whole",
    "number": "number",
    "boolean": '("true" | "false")',
    "null": '"null"',
}


class Unwritten(ValueError):
    """A schema that this module writes no rules for."""


def strict_grammar(tools: Sequence[Tool], parallel: bool) -> str | None:
    """The grammar in EBNF, for tools one of which is strict; None if there is none for them."""
    rules: dict[str, str] = {}
    try:
        calls = [_call(tool, index, rules) for index, tool in enumerate(tools)]
    except (Unwritten, RecursionError):
        return None
    rules["call"] = " | ".join(calls)
    several = ' (";" blank call)* | "[" call ("," " "? call)* "]"' if parallel else ""
    rules["root"] = f"blank (words | call{several})?"
    return SHARED + "".join(f"{name} ::= {body}\n" for name, body in rules.items())


def _call(tool: Tool, index: int, rules: dict[str, str]) -> str:
    if tool.strict:
        schema = {"type": "object", **(tool.parameters or {})}
        arguments = _Writer(schema, f"t{index}", rules).rule("#", schema)
    else:
        arguments = _any_object(rules)
    name = _literal(json.dumps(tool.name))
    head = '"{\\"name\\":" " "? ' + name + ' "," " "? "\\"parameters\\":" " "?'
    return f'{head} {arguments} "}}"'


def _any_object(rules: dict[str, str]) -> str:
    member = 'string ":" " "? value'
    rules["value"] = 'object | list | string | number | "true" | "false" | "null"'
    rules["object"] = f'"{{" ({member} ("," " "? {member})*)? "}}"'
    rules["list"] = '"[" (value ("," " "? value)*)? "]"'
    return "object"


class _Writer:
    """The rules of one tool's schema."""

    def __init__(self, document: Mapping[str, Any], prefix: str, rules: dict[str, str]) -> None:
        self._document, self._prefix, self._rules = document, prefix, rules
        self._names: dict[str, str] = {}  # by the pointer

    def rule(self, pointer: str, schema: Any) -> str:
        """The rule for the schema at a pointer."""
        if pointer not in self._names:
            name = self._names[pointer] = f"{self._prefix}r{len(self._names)}"
            self._rules[name] = self._node(schema)
        return self._names[pointer]

    def _node(self, schema: Any) -> str:
        if not isinstance(schema, Mapping):
            raise Unwritten
        keys = schema.keys() - ANNOTATIONS
        if keys == {"$ref"}:
            return self.rule(schema["$ref"], self._target(schema["$ref"]))
        if keys == {"anyOf"} and isinstance(schema["anyOf"], list):
            return _either([self._node(one) for one in schema["anyOf"]])
        kind = schema.get("type")
        if keys in ({"const"}, {"enum"}, {"type", "const"}, {"type", "enum"}):
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            if not isinstance(values, list) or not all(_is_of(kind, value) for value in values):
                raise Unwritten
            return _either([_literal(json.dumps(value, ensure_ascii=False)) for value in values])
        if isinstance(kind, list):
            return _either([self._node({**schema, "type": one}) for one in kind])
        if kind == "object" and keys <= {"type", "properties", "required", "additionalProperties"}:
            return self._object(schema)
        if kind == "array" and keys <= {"type", "items", "minItems", "maxItems"}:
            return self._array(schema)
        if isinstance(kind, str) and kind in SIMPLE and keys == {"type"}:
            return SIMPLE[kind]
        raise Unwritten

    def _target(self, pointer: Any) -> Any:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise Unwritten
        target: Any = self._document
        for part in pointer.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or name not in target:
                raise Unwritten
            target = target[name]
        return target

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise Unwritten
        all_named = len(required) == len(properties) and all(
            name in required for name in properties
        )
        if schema.get("additionalProperties", False) is not False or not all_named:
            raise Unwritten
        members = [
            f'{_literal(json.dumps(name) + ":")} " "? {self._node(value)}'
            for name, value in properties.items()
        ]
        return '"{" ' + ' "," " "? '.join(members) + ' "}"'

    def _array(self, schema: Mapping[str, Any]) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        for count in (least, most or 0):
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_ITEMS:
                raise Unwritten
        if most is not None and most < max(least, 1):
            raise Unwritten
        item = self._node(schema.get("items"))
        more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        items = f'{item} ("," " "? {item}){more}'
        return f'"[" {items} "]"' if least else f'"[" ({items})? "]"'


def _is_of(kind: Any, value: Any) -> bool:
    """Whether the one text of a constant stands for a value of the type."""
    kinds = [kind] if isinstance(kind, str) else kind
    name = {str: "string", bool: "boolean", int: "integer", type(None): "null"}.get(type(value))
    return name is not None and (kind is None or name in kinds)


def _either(nodes: Sequence[str]) -> str:
    if not nodes:
        raise Unwritten
    return nodes[0] if len(nodes) == 1 else "(" + " | ".join(nodes) + ")"


def _literal(text: str) -> str:
    """A string of the grammar."""
    escaped = "".join(
        f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08X}" for c in text
    )
    return f'"{escaped}"'
