"""The keywords that a JSON schema may have here, their forms, and what `$ref` leads to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from token_engine.openvino_runtime.guide_grammar.grammar import ROOT, GuideError
from token_engine.openvino_runtime.guide_grammar.json_values import is_finite

ANNOTATIONS = frozenset(
    ("$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description",
     "discriminator", "example", "examples", "readOnly", "title", "writeOnly")
)  # fmt: skip
BY_TYPE = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "null": (),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "object": ("properties", "required", "additionalProperties"),
}
TYPE_OF = {
    keyword: name for name, keywords in BY_TYPE.items() if name != "integer" for keyword in keywords
}
# No other keyword but annotations may stand beside these.
ALONE = frozenset(("$ref", "allOf", "anyOf", "oneOf"))
VALUES = frozenset(("const", "enum"))
KNOWN = frozenset(
    ("type", *ALONE, *VALUES, *(keyword for keywords in BY_TYPE.values() for keyword in keywords))
)
TYPE_NAMES: dict[type, str] = {
    str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object",
}  # fmt: skip


def check_keywords(schema: dict[str, Any], where: str) -> set[str]:
    """The keywords that affect what matches; raises `GuideError` for one not supported."""
    keywords = schema.keys() & KNOWN
    if len(keywords) < len(schema):
        _check_others(schema, where)
    alone = keywords & ALONE
    if alone and len(keywords) > 1:
        name = min(alone)
        other = min(keywords - {name})
        raise GuideError(f"has {other!r} beside {name!r} at {where}; there must be one")
    given = keywords & VALUES
    if len(given) > 1 or (given and keywords - VALUES - {"type"}):
        raise GuideError(
            f"has more than 'type' beside const or enum at {where}; there must be one of them"
        )
    for name, value in schema.items():
        test, needed = FORMS.get(name, ANY_FORM)
        if not test(value):
            raise GuideError(f"has {name} {str(value)[:40]!r} at {where}; it must be {needed}")
    return keywords


def _check_others(schema: dict[str, Any], where: str) -> None:
    """Check the keywords that do not affect what matches, or are not supported."""
    others = [name for name in schema if name not in KNOWN and name not in ANNOTATIONS]
    unknown = [name for name in others if not name.startswith("x-")]
    if unknown or ("$id" in schema and where != "#"):
        raise GuideError(
            f"has the keyword {min(unknown, default='$id')[:40]!r} at {where}; "
            f"it must be one of {', '.join(sorted(KNOWN))}, or an annotation"
        )


def types_of(schema: dict[str, Any]) -> list[str]:
    """The types that a schema matches; none means any."""
    if "type" in schema:
        given = schema["type"]
        types = list(dict.fromkeys(given)) if isinstance(given, list) else [given]
        # An integer is a number: one of the two is enough.
        return [name for name in types if name != "integer" or "number" not in types]
    asked = {TYPE_OF[keyword] for keyword in schema.keys() & TYPE_OF.keys()}
    return [name for name in BY_TYPE if name in asked] if asked else []


def matches_type(value: Any, types: list[str]) -> bool:
    """Whether a JSON value is of one of the types."""
    name = type_of(value)
    if name == "number" and "integer" in types and (type(value) is int or value.is_integer()):
        return True
    return name in types


def type_of(value: Any) -> str:
    """The type of a JSON value."""
    return TYPE_NAMES.get(type(value), "number")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _are_types(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(n, str) and n in BY_TYPE for n in names)


_FORMS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("type",), _are_types, f"one or a list of {', '.join(BY_TYPE)}"),
    (("enum", "anyOf", "oneOf", "prefixItems"), _is_list, "a list that is not empty"),
    (("allOf",), lambda v: _is_list(v) and len(v) == 1, "a list of one schema"),
    (("minLength", "maxLength", "minItems", "maxItems"), _is_count, "an integer from 0 on"),
    (BY_TYPE["number"], is_finite, "a number"),
    (("pattern", "format"), lambda v: isinstance(v, str), "a string"),
    (("uniqueItems",), lambda v: v is False, "false: unique items cannot be enforced"),
    (("properties",), lambda v: isinstance(v, dict), "an object of schemas"),
    (
        ("required",),
        lambda v: isinstance(v, list) and all(isinstance(n, str) for n in v),
        "a list of property names",
    ),
)
FORMS = {name: (test, needed) for names, test, needed in _FORMS for name in names}
ANY_FORM: tuple[Callable[[Any], bool], str] = (lambda _: True, "")


_INDEX = re.compile("0|[1-9][0-9]{0,5}")


class References:
    """What the pointers of one document lead to. Each is followed once."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._found: dict[str, tuple[str, Any]] = {"#": (ROOT, document)}
        self._ends: dict[int, Any] = {}  # by the id of the schema that refers

    def find(self, pointer: Any) -> tuple[str, Any]:
        """(the rule for the target, the target); raises `GuideError`. Spellings do not matter."""
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise GuideError(
                f"has the $ref {str(pointer)[:60]!r}; it must point into the schema itself: #/..."
            )
        if pointer not in self._found:
            self._found[pointer] = self._walk(pointer)
        return self._found[pointer]

    def end(self, schema: Any) -> Any:
        """The end of a chain of references; one of its schemas if the chain is a loop."""
        passed: dict[int, None] = {}
        while isinstance(schema, dict) and "$ref" in schema and id(schema) not in passed:
            if id(schema) in self._ends:
                schema = self._ends[id(schema)]
                break
            passed[id(schema)] = None
            schema = self.find(schema["$ref"])[1]
        self._ends.update(dict.fromkeys(passed, schema))
        return schema

    def _walk(self, pointer: str) -> tuple[str, Any]:
        target = self._document
        names = [
            unquote(part).replace("~1", "/").replace("~0", "~") for part in pointer[2:].split("/")
        ]
        for name in names:
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and _INDEX.fullmatch(name) and int(name) < len(target):
                target = target[int(name)]
            else:
                raise GuideError(
                    f"has the $ref {pointer[:60]!r}; it must point to a part that exists"
                )
        return "/".join(["#", *map(escaped, names)]), target


def escaped(name: str) -> str:
    """A property's name as a JSON pointer has it."""
    return name.replace("~", "~0").replace("/", "~1")
