"""Keywords of a JSON schema that hold at once: what is valid is matched, what is not is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.guide_matching import compiled, matches
from tests.support.json_schema_judge import is_valid

NAMED = {"properties": {"ab": {"type": "integer"}, "c": {}}}
PLACES = {
    "$id": "http://a.example/root",
    "$defs": {
        "x": {"$id": "x", "$anchor": "here", "type": "null"},
        "y": {"$anchor": "there", "const": 1},
    },
}
DRAFT_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "null", "id": 5, "readonly": 1, "links": [], "vendor": {"type": "string"}},
     [None], [1]),
    ({**NAMED, "type": "object"},
     [{"a": 1}, {"ab": 1, "abc": 2}, {"x": 1, "ab": 2, "y": 3, "c": 4}], [{"ab": "a"}, []]),
    ({**NAMED, "type": "object", "additionalProperties": {"type": "null"}},
     [{"ab": 1, "d": None}], [{"d": 1}, {"ab": None}]),
    ({"type": "object", "patternProperties": {"^x": {"type": "null"}, "y$": {"type": "null"}},
      "additionalProperties": False}, [{"xa": None, "by": None, "xy": None}], [{"x": 1}, {"a": 1}]),
    ({"type": "object", "propertyNames": {"maxLength": 2, "pattern": "^[a-z]"}},
     [{"ab": 1}], [{"abc": 1}, {"1": 1}]),
    ({"type": "object", "minProperties": 1, "maxProperties": 2, **NAMED},
     [{"ab": 1}, {"q": 1}, {"ab": 1, "c": 2}], [{}, {"ab": 1, "c": 2, "d": 3}]),
    ({"type": "object", **NAMED, "dependencies": {"ab": ["c"]}, "additionalProperties": False,
      **DRAFT_4}, [{}, {"c": 1}, {"ab": 1, "c": 1}], [{"ab": 1}]),
    ({"type": "string", "pattern": "^a", "minLength": 2, "maxLength": 3, "not": {"enum": ["abc"]}},
     ["ab", "abb"], ["a", "abc", "abbb", "bb"]),
    ({"type": "string", "format": "date", "pattern": "^2024"}, ["2024-01-31"], ["2023-01-31"]),
    ({"enum": ["a", "bb", 3, None], "type": ["string", "integer"], "minLength": 2},
     ["bb", 3], ["a", None]),
    ({"type": "number", "minimum": 0.5, "exclusiveMaximum": 1.25, "multipleOf": 0.25},
     [0.5, 0.75, 1.0], [0.25, 1.25, 0.6]),
    ({"minimum": 1, "exclusiveMinimum": True, "type": "integer", **DRAFT_4}, [2], [1]),
    ({"allOf": [{"properties": {"a": {"type": "string"}}}, {"required": ["a"]},
                {"properties": {"a": {"maxLength": 1}}}], "type": "object"},
     [{"a": "x"}], [{}, {"a": "xy"}, {"a": 1}]),
    ({"type": "object", **NAMED, "anyOf": [{"required": ["ab"]}, {"required": ["c"]}],
      "additionalProperties": False}, [{"ab": 1}, {"c": 1}, {"ab": 1, "c": 1}], [{}]),
    ({"type": "object", **NAMED, "oneOf": [{"required": ["ab"]}, {"required": ["c"]}],
      "additionalProperties": False}, [{"ab": 1}, {"c": 1}], [{}, {"ab": 1, "c": 1}]),
    ({"oneOf": [{"type": "number", "multipleOf": 2}, {"type": "number", "multipleOf": 3}]},
     [2, 3, 4, 9], [1, 6, 12]),
    ({"type": "integer", "not": {"multipleOf": 2}}, [1, -7], [2, 7470663262731620]),
    ({"type": "object", "not": {"required": ["a"]}}, [{"b": 1}], [{"a": 1}, 5]),
    ({"if": {"type": "string"}, "then": {"maxLength": 1}, "else": {"type": "null"}},
     ["a", None], ["ab", 1]),
    ({"$ref": "#/$defs/a", "maxLength": 1, "$defs": {"a": {"type": "string"}}}, ["a"], ["ab", 1]),
    ({"$ref": "#/definitions/a", "maxLength": 1, "definitions": {"a": {"type": "string"}},
      **DRAFT_4}, ["a", "ab"], [1]),
    ({**PLACES, "$ref": "x"}, [None], [1]), ({**PLACES, "$ref": "#there"}, [1], [None]),
    ({"type": "array", "items": [{"type": "null"}], "additionalItems": {"type": "integer"},
      **DRAFT_4}, [[], [None, 1, 2]], [[1], [None, None]]),
    ({"type": "array", "contains": {"type": "null"}, "maxItems": 2}, [[None], [None, 1]], [[1]]),
    ({"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c"]}},
     [[], ["a", "c"]], [["a", "a"], ["b", "c", "b"]]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "valid", "invalid"), CASES, ids=lambda v: json.dumps(v)[:50])
def test_keywords_together(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    grammar = compiled("json_schema", json.dumps(schema))
    for value in (*valid, *invalid):
        assert is_valid(value, schema) is (value in valid)
        assert matches(grammar, json.dumps(value)) is (value in valid), value
