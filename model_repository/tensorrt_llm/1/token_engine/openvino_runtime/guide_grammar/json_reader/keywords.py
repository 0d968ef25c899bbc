"""The keywords of JSON schemas that are served, and the forms that they must have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from token_engine.openvino_runtime.guide_grammar.grammar import GuideError

TYPES = ("null", "boolean", "number", "string", "array", "object")
# Beside these a keyword affects values of one type only. Their order is the order in which the
# properties of an object that several of them name come.
OF_ANY_TYPE = (
    "enum", "const", "$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if"
)  # fmt: skip
BY_TYPE: dict[str, tuple[str, ...]] = {
    "null": (),
    "boolean": (),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    # The first of them stands for the others of its line.
    "array": ("items", "minItems", "maxItems", "uniqueItems", "contains", "unevaluatedItems"),
    "object": (
        "properties", "required", "minProperties", "maxProperties", "propertyNames",
        "dependencies", "unevaluatedProperties",
    ),
}  # fmt: skip
STANDS_FOR = {
    "items": ("items", "prefixItems", "additionalItems"),
    "properties": ("properties", "patternProperties", "additionalProperties"),
    "dependencies": ("dependencies", "dependentRequired", "dependentSchemas"),
}
TYPE_NAMES: dict[type, str] = {
    str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object",
}  # fmt: skip


def type_of(value: Any) -> str:
    """The type of a JSON value."""
    return TYPE_NAMES.get(type(value), "number")


def types_of(schema: dict[str, Any]) -> list[str] | None:
    """The names that `type` has; None if any type is right."""
    if "type" not in schema:
        return None
    given = schema["type"]
    names: list[str] = given if isinstance(given, list) else [given]
    return None if "any" in names else names


def keywords_of(schema: dict[str, Any], type_name: str) -> list[str]:
    """The keywords that affect values of a type, in the order in which they are looked at."""
    return [
        name
        for name in (*BY_TYPE[type_name], *OF_ANY_TYPE)
        if any(one in schema for one in STANDS_FOR.get(name, (name,)))
    ]


def check_keywords(schema: dict[str, Any], place: str) -> None:
    """Raise `GuideError` for a keyword whose value has a wrong form."""
    for name, value in schema.items():
        test, needed = FORMS.get(name, ANY_FORM)
        if not test(value):
            raise GuideError(f"has {name} {str(value)[:40]!r} at {place}; it must be {needed}")


def is_finite(value: object) -> bool:
    """Whether it is a number that JSON can write."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return is_finite(value) and value >= 0 and value == int(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_dependency(value: Any) -> bool:
    return isinstance(value, bool | dict | str) or _is_names(value)


def _are_types(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    known = (*TYPES, "integer", "any")
    return bool(names) and all(isinstance(n, str) and n in known for n in names)


_FORMS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("type",), _are_types, f"one or a list of integer, {', '.join(TYPES)}"),
    (("enum", "allOf", "anyOf", "oneOf"), _is_list, "a list that is not empty"),
    (("prefixItems",), lambda v: isinstance(v, list), "a list of schemas"),
    (
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
         "minContains", "maxContains"),
        _is_count,
        "an integer from 0 on",
    ),
    (("minimum", "maximum"), is_finite, "a number"),
    (
        ("exclusiveMinimum", "exclusiveMaximum"),
        lambda v: is_finite(v) or isinstance(v, bool),
        "a number or, in draft 4, a boolean",
    ),
    (("multipleOf",), lambda v: is_finite(v) and v > 0, "a number above 0"),
    (("pattern", "$ref", "$dynamicRef", "$recursiveRef"), lambda v: isinstance(v, str), "a string"),
    (("uniqueItems",), lambda v: isinstance(v, bool), "a boolean"),
    (("not", "if", "then", "else", "contains", "propertyNames", "additionalProperties",
      "additionalItems", "unevaluatedItems", "unevaluatedProperties"),
     lambda v: isinstance(v, bool | dict), "a schema, which is an object or a boolean"),
    (("items",), lambda v: isinstance(v, bool | dict | list), "a schema or a list of schemas"),
    (
        ("properties", "patternProperties", "dependentSchemas"),
        lambda v: isinstance(v, dict),
        "an object of schemas",
    ),
    (
        ("dependencies",),
        lambda v: isinstance(v, dict) and all(map(_is_dependency, v.values())),
        "an object of schemas and lists of property names",
    ),
    (
        ("dependentRequired",),
        lambda v: isinstance(v, dict) and all(map(_is_names, v.values())),
        "an object of lists of property names",
    ),
    # Draft 3 says true or false beside the property itself.
    (("required",), lambda v: _is_names(v) or isinstance(v, bool), "a list of property names"),
)  # fmt: skip
FORMS = {name: (test, needed) for names, test, needed in _FORMS for name in names}
ANY_FORM: tuple[Callable[[Any], bool], str] = (lambda _: True, "")
