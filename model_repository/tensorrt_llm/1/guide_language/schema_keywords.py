"""Which keywords a JSON schema may have here, and of what form."""

from __future__ import annotations

from typing import Any

from guide_language.grammar import GuideError
from guide_language.json_values import is_finite

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
# These stand alone, but for annotations.
ALONE = frozenset(("$ref", "allOf", "anyOf", "oneOf"))
VALUES = frozenset(("const", "enum"))
KNOWN = frozenset(
    ("type", *ALONE, *VALUES, *(keyword for keywords in BY_TYPE.values() for keyword in keywords))
)
PYTHON_TYPES: dict[str, type] = {
    "string": str, "boolean": bool, "null": type(None), "array": list, "object": dict,
}  # fmt: skip


def check_keywords(schema: dict[str, Any], where: str) -> set[str]:
    """The keywords that say what matches; raises `GuideError` for one that is not served."""
    keywords = {name for name in schema if name not in ANNOTATIONS and not name.startswith("x-")}
    unknown = sorted(keywords - KNOWN)
    if unknown or ("$id" in schema and where != "#"):
        raise GuideError(
            f"has the keyword {(unknown or ['$id'])[0][:40]!r} at {where[:80]}, "
            f"allowed are {', '.join(sorted(KNOWN))} and annotations"
        )
    for alone in sorted(keywords & ALONE):
        if len(keywords) > 1:
            other = sorted(keywords - {alone})[0]
            raise GuideError(f"has {other!r} beside {alone!r} at {where[:80]}, allowed is one")
    given = keywords & VALUES
    if len(given) > 1 or (given and keywords - VALUES - {"type"}):
        raise GuideError(
            f"has more than 'type' beside const or enum at {where[:80]}, allowed is one of them"
        )
    for name in keywords:
        _check_form(name, schema[name], where)
    return keywords


def types_of(schema: dict[str, Any]) -> list[str]:
    """The types that a schema matches; none means any."""
    if "type" in schema:
        given = schema["type"]
        types = list(given) if isinstance(given, list) else [given]
        # An integer is a number: one of the two is enough.
        return [name for name in types if name != "integer" or "number" not in types]
    return [
        name
        for name, keywords in BY_TYPE.items()
        if name != "integer" and any(keyword in schema for keyword in keywords)
    ]


def matches_type(value: Any, types: list[str]) -> bool:
    """Whether a JSON value is of one of the types."""
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, int | float):
        return "number" in types or ("integer" in types and value == int(value))
    return any(isinstance(value, PYTHON_TYPES.get(name, ())) for name in types)


def _check_form(name: str, value: Any, where: str) -> None:
    for names, test, allowed in _FORMS:
        if name in names and not test(value):
            raise GuideError(
                f"has {name} {str(value)[:40]!r} at {where[:80]}, allowed is {allowed}"
            )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _are_types(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(n, str) and n in BY_TYPE for n in names)


_FORMS = (
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
