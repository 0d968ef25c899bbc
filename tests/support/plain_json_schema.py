"""A JSON schema validator for tests, keyword by keyword as the specification defines them."""

from __future__ import annotations

import re
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "boolean": (bool,), "null": (type(None),), "array": (list,),
    "object": (dict,), "number": (), "integer": (),
}  # fmt: skip
FORMATS = {
    "date": r"\d{4}-\d\d-\d\d",
    "time": r"\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
    "date-time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
    "email": r"[^@\s]+@[^@\s]+\.[^@\s]+",
    "ipv4": r"\d{1,3}(\.\d{1,3}){3}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}


def is_valid(value: Any, schema: Any, root: Any = None) -> bool:
    """Whether `value` matches `schema`, whose references are into `root`."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    return all(_holds(key, value, schema, root) for key in schema)


def _holds(keyword: str, value: Any, schema: dict[str, Any], root: Any) -> bool:
    wanted = schema[keyword]
    if keyword == "$ref":
        return is_valid(value, _target(wanted, root), root)
    if keyword == "type":
        return any(_is(value, name) for name in ([wanted] if isinstance(wanted, str) else wanted))
    if keyword in ("enum", "const"):
        return any(_equal(value, one) for one in (wanted if keyword == "enum" else [wanted]))
    if keyword in ("anyOf", "oneOf", "allOf"):
        count = sum(is_valid(value, one, root) for one in wanted)
        return {"anyOf": count > 0, "oneOf": count == 1, "allOf": count == len(wanted)}[keyword]
    if isinstance(value, str):
        return _holds_for_string(keyword, value, wanted)
    if _is(value, "number"):
        return _holds_for_number(keyword, value, wanted)
    if isinstance(value, list):
        return _holds_for_array(keyword, value, schema, root)
    return not isinstance(value, dict) or _holds_for_object(keyword, value, schema, root)


def _holds_for_number(keyword: str, value: float, wanted: Any) -> bool:
    if keyword == "minimum":
        return bool(value >= wanted)
    if keyword == "maximum":
        return bool(value <= wanted)
    if keyword == "exclusiveMinimum":
        return bool(value > wanted)
    return keyword != "exclusiveMaximum" or bool(value < wanted)


def _holds_for_string(keyword: str, value: str, wanted: Any) -> bool:
    if keyword == "minLength":
        return len(value) >= int(wanted)
    if keyword == "maxLength":
        return len(value) <= int(wanted)
    if keyword == "pattern":
        return bool(re.search(wanted, value, re.ASCII))
    return keyword != "format" or bool(re.fullmatch(FORMATS[wanted], value))


def _holds_for_array(keyword: str, value: list[Any], schema: dict[str, Any], root: Any) -> bool:
    wanted = schema[keyword]
    prefix = schema.get("prefixItems", [])
    if keyword == "items":
        return all(is_valid(item, wanted, root) for item in value[len(prefix) :])
    if keyword == "prefixItems":
        return all(is_valid(item, one, root) for item, one in zip(value, prefix, strict=False))
    if keyword == "minItems":
        return len(value) >= int(wanted)
    return keyword != "maxItems" or len(value) <= int(wanted)


def _holds_for_object(
    keyword: str, value: dict[str, Any], schema: dict[str, Any], root: Any
) -> bool:
    wanted = schema[keyword]
    if keyword == "required":
        return all(name in value for name in wanted)
    if keyword == "properties":
        return all(is_valid(value[name], wanted[name], root) for name in wanted if name in value)
    if keyword == "additionalProperties":
        named = schema.get("properties", {})
        return all(is_valid(value[name], wanted, root) for name in value if name not in named)
    return True


def _target(pointer: str, root: Any) -> Any:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        root = root[int(name)] if isinstance(root, list) else root[name]
    return root


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, int | float):
        return name == "number" or (name == "integer" and float(value).is_integer())
    return isinstance(value, TYPES[name])


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right  # Python takes true for 1
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    return bool(left == right)
