"""Whether no JSON value can match two schemas, as far as their types and constants show it."""

from __future__ import annotations

import json
from typing import Any

from guide_language.schema_keywords import types_of


def are_apart(left: Any, right: Any) -> bool:
    """True only if nothing matches both."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return False
    values, others = _values(left), _values(right)
    if values is not None and others is not None:
        return not values & others
    types, other_types = _types(left), _types(right)
    if types and other_types and not types & other_types:
        return True
    return types == other_types == {"object"} and _differ_in_member(left, right)


def _differ_in_member(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether a property that both require has other values in one than in the other."""
    for name in set(left.get("required", ())) & set(right.get("required", ())):
        members = [side.get("properties", {}).get(name) for side in (left, right)]
        values = [_values(member) for member in members]
        if values[0] is not None and values[1] is not None and not values[0] & values[1]:
            return True
    return False


def _values(schema: Any) -> frozenset[str] | None:
    """The only values that match, as JSON."""
    if not isinstance(schema, dict) or not ("enum" in schema or "const" in schema):
        return None
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    return frozenset(json.dumps(value, sort_keys=True) for value in values)


def _types(schema: dict[str, Any]) -> set[str]:
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values:
        return {_type_of(value) for value in values}
    if any(name in schema for name in ("$ref", "allOf", "anyOf", "oneOf")):
        return set()
    return {"number" if name == "integer" else name for name in types_of(schema)}


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", type(None): "null", list: "array", dict: "object"}
    return names.get(type(value), "number")
