"""JSON schemas that ask for much more work than they are long, by every keyword."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from request_inputs.guide_bounds import MAX_BYTES

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BOMB = "(a|b)*a(a|b){18}"  # 2^18 states when deterministic


def chain(make: Any, count: int) -> dict[str, Any]:
    """Definitions that each take the next one twice: written out, 2^count."""
    found = {f"d{n}": make({"$ref": f"#/$defs/d{n + 1}"}) for n in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**found, f"d{count}": {"type": "null"}}}


def nested(make: Any, depth: int) -> Any:
    """A schema in a schema in a schema."""
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = make(schema)
    return schema


def objects(count: int, **more: Any) -> list[Any]:
    """Schemas of objects that differ in one member."""
    shared = {f"p{n}": {"type": "string"} for n in range(2)}
    return [
        {"type": "object", "properties": {**shared, "k": {"enum": [n]}}, "required": ["k"], **more}
        for n in range(count)
    ]


def of_names(count: int, schema: Any) -> dict[str, Any]:
    """The same schema for many names."""
    return {f"name{n}": schema for n in range(count)}


TWICE: dict[str, Any] = {
    "allOf": lambda ref: {"allOf": [ref, ref]},
    "anyOf": lambda ref: {"anyOf": [ref, {"type": "array", "items": ref}]},
    "oneOf": lambda ref: {"oneOf": [ref, {"type": "array", "items": ref}]},
    "not": lambda ref: {"not": {"allOf": [ref, ref]}},
    "if": lambda ref: {"if": ref, "then": ref, "else": ref},
    "properties": lambda ref: {"type": "object", "properties": {"a": ref, "b": ref}},
    "required": lambda ref: {"type": "object", "properties": {"a": ref, "b": ref},
                             "required": ["a", "b"], "additionalProperties": False},
    "prefixItems": lambda ref: {"type": "array", "prefixItems": [ref, ref], "minItems": 2},
}  # fmt: skip
INSIDE: dict[str, Any] = {
    "properties": lambda one: {"type": "object", "properties": {"a": one}},
    "additionalProperties": lambda one: {"additionalProperties": one},
    "patternProperties": lambda one: {"patternProperties": {"a": one, "b": one}},
    "items": lambda one: {"type": "array", "items": one, "minItems": 1},
    "contains": lambda one: {"type": "array", "contains": one},
    "not": lambda one: {"not": one},
    "anyOf": lambda one: {"anyOf": [one, {"type": "array", "items": one}]},
    "allOf": lambda one: {"allOf": [one, {"minimum": 0}]},
    "oneOf": lambda one: {"oneOf": [one, {"type": "object", "properties": {"a": one}}]},
    "if": lambda one: {"if": {"required": ["a"]}, "then": one, "else": {"properties": {"b": one}}},
    "dependentSchemas": lambda one: {"dependentSchemas": {"a": one, "b": one}},
    "propertyNames": lambda one: {"propertyNames": {"not": one}},
}
SCHEMAS: dict[str, Any] = {
    **{f"{name} twice": chain(make, 40) for name, make in TWICE.items()},
    **{
        # Within the bound on the guide's length: what holds a schema twice doubles it.
        f"{name} nested": nested(make, 9 if json.dumps(make(0)).count("0") > 1 else 30)
        for name, make in INSIDE.items()
    },
    # references
    "a reference to itself": {"$ref": "#"},
    "allOf of itself": {"allOf": [{"$ref": "#"}, {"type": "object"}]},
    "anyOf of itself": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    "not itself": {"not": {"$ref": "#"}},
    "if itself": {"if": {"$ref": "#"}, "then": {"type": "null"}},
    "two that lead to each other": {"$ref": "#/$defs/a", "$defs": {
        "a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "allOf of recursive ones": {"$defs": {
        "a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/c"}},
        "c": {"items": {"$ref": "#/$defs/a"}, "minItems": 1}}, "allOf": [
        {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, {"$ref": "#/$defs/c"}], "type": "array"},
    "recursion of all with all": {"$defs": {f"d{n}": {"type": "object", "properties": {
        f"p{m}": {"$ref": f"#/$defs/d{m}"} for m in range(25)}} for n in range(25)},
        "$ref": "#/$defs/d0"},
    "a long chain": {"$ref": "#/$defs/d0", "$defs": {
        **{f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(1200)}, "d1200": {}}},
    "recursion that never ends": {"type": "object", "properties": {"a": {"$ref": "#"}},
                                  "required": ["a"]},
    # numbers
    "a far minimum": {"type": "integer", "minimum": 10**30},
    "a far maximum": {"type": "number", "maximum": -(10**300)},
    "a bound of 4000 digits": {"type": "integer", "minimum": 10**3999, "maximum": 10**4000 - 1},
    "bounds of many digits": {"type": "number", "minimum": 0.12345678901234567,
                              "maximum": 98765432109.876543},
    "a tiny bound": {"type": "number", "exclusiveMinimum": 1e-300, "maximum": 1e-299},
    "a large divisor": {"type": "integer", "multipleOf": 999999937},
    "a huge divisor": {"type": "integer", "multipleOf": 10**300 + 7},
    "a tiny divisor": {"type": "number", "multipleOf": 1e-300},
    "a long divisor": {"type": "number", "multipleOf": 0.12345678901234567},
    "a divisor between bounds": {"type": "integer", "multipleOf": 9973, "minimum": 10**15,
                                 "maximum": 10**18},
    "many divisors": {"type": "integer", "allOf": [{"multipleOf": n} for n in range(2, 60)]},
    "many bounds": {"anyOf": [{"type": "integer", "minimum": n * 7, "maximum": n * 1000}
                              for n in range(300)]},
    # strings
    "a long minLength": {"type": "string", "minLength": 10**9},
    "a long maxLength": {"type": "string", "maxLength": 10**9},
    "many lengths": {"type": "object", "properties": of_names(300, {"maxLength": 5000})},
    "nested lengths": nested(lambda one: {"type": "array", "items": one, "maxItems": 999}, 9),
    "a bomb of a pattern": {"type": "string", "pattern": f"^{BOMB}$"},
    "a pattern that repeats repetitions": {"type": "string", "pattern": "^((a+)+)+$"},
    "a pattern of everything": {"type": "string", "pattern": "(.*a){25}"},
    "a pattern with counts": {"type": "string", "pattern": "^((a{1,99}){1,99}){1,99}$"},
    "a pattern somewhere": {"type": "string", "pattern": "a.{30}b"},
    "a pattern and a length": {"type": "string", "pattern": "^[a-z0-9_.]*$", "maxLength": 30000},
    "a bomb and a length": {"type": "string", "pattern": BOMB, "maxLength": 400},
    "many patterns at once": {"type": "string", "allOf": [{"pattern": f"{a}.*{b}"}
                              for a in LETTERS[:9] for b in LETTERS[:5]]},
    "not a bomb": {"type": "string", "not": {"pattern": BOMB}},
    "many formats": {"anyOf": [{"type": "string", "format": name} for name in (
        "date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "uri", "hostname",
        "duration", "json-pointer", "uri-reference")] * 20},
    "formats at once": {"type": "string", "allOf": [{"format": "uri"}, {"format": "hostname"},
                        {"format": "email"}, {"maxLength": 200}]},
    # constants
    "a wide enum": {"enum": [f"{n:x}{'v' * (n % 7)}" for n in range(4000)]},
    "a wide enum of objects": {"enum": [{"a": n, "b": [n, n + 1]} for n in range(1500)]},
    "a wide enum, matched with a pattern": {"enum": [f"v{n}" for n in range(5000)], "pattern": "7"},
    "not a wide enum": {"type": "string", "not": {"enum": [f"v{n}" for n in range(3000)]}},
    "a deep constant": {"const": nested(lambda one: {"a": [one]}, 50)},
    "a constant of 60 KB": {"const": "e" * 60_000},
    # arrays
    "many items": {"type": "array", "minItems": 10**9},
    "at most many items": {"type": "array", "maxItems": 10**9, "items": {"type": "object"}},
    "many places": {"type": "array", "prefixItems": [{"type": "integer", "maximum": n}
                    for n in range(1000)], "minItems": 1000},
    "unique items of many": {"type": "array", "uniqueItems": True, "items": {"enum": [
        f"v{n}" for n in range(64)]}},
    "unique items of any kind": {"type": "array", "uniqueItems": True, "minItems": 50},
    "many contained": {"type": "array", "allOf": [{"contains": {"const": n}} for n in range(30)]},
    "contained many times": {"type": "array", "contains": {"type": "object"}, "minContains": 10**6},
    # objects
    "many properties": {"type": "object", "properties": of_names(1500, {"type": "string"})},
    "many closed properties": {"type": "object", "properties": of_names(1500, {"type": "null"}),
                               "additionalProperties": False},
    "many required properties": {"type": "object", "required": [*of_names(1000, 0)],
                                 "properties": of_names(1000, {"type": "integer"})},
    "many that are required and not named": {"type": "object", "required": [*of_names(1500, 0)]},
    "long names": {"type": "object", "properties": {"n" * 10_000 + str(n): {} for n in range(5)},
                   "required": ["n" * 10_000 + "0"]},
    "at least many of many": {"type": "object", "properties": of_names(60, {"type": "null"}),
                              "minProperties": 30, "maxProperties": 31},
    "many properties of no name": {"type": "object", "minProperties": 10**6},
    "each needs another": {"type": "object", "properties": of_names(40, {"type": "null"}),
                           "dependentRequired": {f"name{n}": [f"name{(n * 7 + 3) % 40}"]
                                                 for n in range(40)}},
    "each brings a schema": {"type": "object", "dependentSchemas": {
        f"name{n}": {"properties": {f"name{n + 1}": {"type": "null"}}} for n in range(40)}},
    "many patterns of names": {"type": "object", "patternProperties": {
        f"^{a}.*{b}$": {"type": "integer"} for a in LETTERS for b in LETTERS[:8]}},
    "patterns of names that overlap": {"type": "object", "patternProperties": {
        f"{a}.*{b}": {"minimum": n} for n, (a, b) in enumerate(pairwise(LETTERS))}},
    "bombs of names": {"type": "object", "patternProperties": {BOMB: {}, "a.{40}": {}},
                       "propertyNames": {"pattern": "b.{40}c"}},
    "unevaluated of many": {"type": "object", "anyOf": [
        {"properties": {f"name{n}": {"type": "null"}}} for n in range(40)],
        "unevaluatedProperties": False},
    # schemas of schemas
    "anyOf of 500": {"anyOf": objects(500)},
    "allOf of 500": {"allOf": [{"properties": {f"p{n % 50}": {"minimum": n}}}
                               for n in range(500)]},
    "allOf of 500 patterns": {"type": "string",
                              "allOf": [{"pattern": f"a{n}"} for n in range(500)]},
    "oneOf of 100": {"oneOf": objects(100)},
    "oneOf of 500 that look alike": {"oneOf": [
        {"properties": {f"p{n}": {"type": "string"}}} for n in range(500)]},
    "oneOf of strings": {"type": "string", "oneOf": [{"pattern": f"{a}{b}"}
                         for a in LETTERS[:12] for b in LETTERS[:3]]},
    "oneOf of required": {"type": "object", "properties": of_names(26, {"type": "null"}),
                          "oneOf": [{"required": [f"name{n}"]} for n in range(26)]},
    "allOf of anyOf": {"allOf": [{"anyOf": [{"required": [f"{a}{n}"]} for n in range(6)]}
                                 for a in LETTERS[:14]], "type": "object"},
    "allOf of oneOf": {"allOf": [{"oneOf": objects(8)} for _ in range(9)]},
    "anyOf of allOf of anyOf": nested(
        lambda one: {"anyOf": [{"allOf": [one, {"maxLength": 9}]}, {"minLength": 3}]}, 30),
    "not anyOf": {"not": {"anyOf": objects(200)}},
    "not not not": nested(lambda one: {"not": {"not": {"anyOf": [one, {"type": "null"}]}}}, 20),
    "many conditions": {"type": "object", "allOf": [
        {"if": {"properties": {f"p{n}": {"const": n}}, "required": [f"p{n}"]},
         "then": {"required": [f"q{n}"]}, "else": {"properties": {f"q{n}": {"type": "null"}}}}
        for n in range(40)]},
    "many types": {"anyOf": [{"type": ["string", "object", "array", "number"]}] * 1000},
}  # fmt: skip
# Each takes a second or two to be served or refused: the suite leaves them to `make fuzz-guides`.
SLOW = frozenset((
    "a bomb and a length", "a constant of 60 KB", "a long chain", "a pattern and a length",
    "a pattern somewhere", "a pattern with counts", "allOf of 500", "allOf of anyOf",
    "anyOf nested", "anyOf of 500", "anyOf twice", "at least many of many", "each brings a schema",
    "formats at once", "long names", "many bounds", "many conditions", "many divisors",
    "many formats", "many lengths", "many patterns at once", "many patterns of names",
    "many properties", "many required properties", "many that are required and not named",
    "nested lengths", "not a bomb", "oneOf nested", "oneOf of 100", "oneOf of 500 that look alike",
    "oneOf of strings", "patterns of names that overlap", "recursion of all with all",
    "unique items of any kind",
))  # fmt: skip
assert SCHEMAS.keys() >= SLOW
TEXTS = {name: json.dumps(schema) for name, schema in SCHEMAS.items()}
assert all(len(text.encode()) <= MAX_BYTES for text in TEXTS.values())
