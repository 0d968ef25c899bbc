"""Values that a JSON schema's keywords suggest: often valid, else nearly so."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.support.random_schemas import NAMES, NUMBERS, STRINGS, TYPES

OF_FORMATS = [
    "2024-02-29", "2023-02-29", "12:00:00Z", "2024-01-01T00:00:00Z", "a@b.de", "127.0.0.1", "::1",
    "00000000-0000-0000-0000-00000000000a", "http://a.de/b?c#d", "a.de", "/a/0", "P1D", "../a",
]  # fmt: skip
ANY: list[Any] = [None, True, *NUMBERS[:6], *STRINGS[:6], [], [1], {}, {"a": 1}, {"b": [2]}]


def guess(schema: Any, root: Any, random: Random, depth: int = 0) -> Any:
    """A value that the schema's keywords suggest; often valid, with members in their order."""
    if not isinstance(schema, dict) or depth > 6 or random.random() < 0.05:
        return random.choice(ANY)
    for name in ("allOf", "anyOf", "oneOf"):
        if name in schema and random.random() < 0.6:
            merged = {**schema, **_dict(random.choice(schema[name]))}
            return guess({k: v for k, v in merged.items() if k != name}, root, random, depth + 1)
    if "$ref" in schema and random.random() < 0.9:
        target: Any = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return guess(target, root, random, depth + 1)
    if "if" in schema and random.random() < 0.6:
        parts = random.choice([("if", "then"), ("else",)])
        merged = {k: v for k, v in schema.items() if k not in ("if", "then", "else")}
        for part in parts:
            merged |= _dict(schema.get(part))
        return guess(merged, root, random, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return random.choice(schema["enum"])
    return _of_type(_likely_type(schema, random), schema, root, random, depth)


def _dict(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}


def _likely_type(schema: dict[str, Any], random: Random) -> str:
    if "type" in schema:
        given = schema["type"]
        return str(random.choice(given) if isinstance(given, list) else given)
    groups = {
        "string": ("minLength", "maxLength", "pattern", "format"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
        "object": (
            "properties", "required", "additionalProperties", "patternProperties", "minProperties",
            "maxProperties", "propertyNames", "dependencies", "dependentRequired",
            "dependentSchemas",
        ),
    }  # fmt: skip
    fitting = [name for name, keywords in groups.items() if any(k in schema for k in keywords)]
    return random.choice(fitting) if fitting and random.random() < 0.9 else random.choice(TYPES)


def _of_type(name: str, schema: dict[str, Any], root: Any, random: Random, depth: int) -> Any:
    if name == "array":
        return _array(schema, root, random, depth)
    if name == "object":
        return _object(schema, root, random, depth)
    if name == "integer":
        return random.choice([n for n in NUMBERS if n == int(n)] + [random.randint(-20, 120)])
    if name == "number":
        return random.choice([*NUMBERS, random.randint(-20, 120)])
    if name == "string":
        words = OF_FORMATS if "format" in schema else STRINGS
        return random.choice([*words, "".join(random.choices("abc", k=random.randrange(5)))])
    return None if name == "null" else random.random() < 0.5


def _array(schema: dict[str, Any], root: Any, random: Random, depth: int) -> list[Any]:
    items = schema.get("items", True)
    prefix = items if isinstance(items, list) else schema.get("prefixItems", [])
    rest = schema.get("additionalItems", True) if isinstance(items, list) else items
    size = max(0, random.choice([0, 1, 2, 3, schema.get("minItems", 1), len(prefix)]))
    return [
        guess(
            prefix[n] if n < len(prefix) else random.choice([rest, schema.get("contains", rest)]),
            root, random, depth + 1,
        )
        for n in range(size)
    ]  # fmt: skip


def _object(schema: dict[str, Any], root: Any, random: Random, depth: int) -> dict[str, Any]:
    needed = schema.get("required", [])
    known = schema.get("properties", {})
    found = {
        name: guess(one, root, random, depth + 1)
        for name, one in known.items()
        if name in needed or random.random() < 0.6
    }
    more = schema.get("additionalProperties", schema.get("unevaluatedProperties", True))
    more = random.choice([more, *schema.get("patternProperties", {}).values()])
    for name in [*needed, *random.choices([*NAMES, *STRINGS], k=random.choice([0, 0, 1, 2]))]:
        if name not in found and name not in known:
            found[name] = guess(more, root, random, depth + 1)
    return found
