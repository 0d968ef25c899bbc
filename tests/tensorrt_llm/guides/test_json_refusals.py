"""JSON schemas that cannot be honoured are refused by name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf, read_guide

SAME = [f"same{number}" for number in range(12)]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "has False at #"), ([], r"has \[\] at #"), ("string", "has string at #"),
        (None, "has None at #"),
        ({"type": "strin"}, "has type 'strin' at #"), ({"type": []}, "has type"),
        ({"type": ["x"]}, "has type"),
        *(({name: 1}, f"the keyword '{re.escape(name)}' at #") for name in (
            "multipleOf", "not", "if", "contains", "patternProperties", "propertyNames",
            "minProperties",
            "dependentRequired", "unevaluatedProperties", "$dynamicRef", "$anchor", "nullable",
            "requred")),
        ({"items": {"$id": "x"}}, r"the keyword '\$id' at #/items"),
        ({"uniqueItems": True}, "uniqueItems"), ({"minLength": -1}, "minLength"),
        ({"maxItems": 1.5}, "maxItems"),
        ({"minLength": True}, "minLength"), ({"minimum": "1"}, "minimum"),
        ({"pattern": 1}, "pattern"),
        ({"required": "a"}, "required"), ({"properties": []}, "properties"),
        ({"enum": []}, "enum"), ({"anyOf": {}}, "anyOf"),
        ({"anyOf": [{}], "type": "string"}, "'type' beside 'anyOf'"),
        ({"$ref": "#", "minimum": 1}, r"'minimum' beside '\$ref'"),
        ({"enum": [1], "minimum": 0}, "more than 'type' beside const or enum"),
        ({"enum": [1], "const": 1}, "beside"),
        ({"allOf": [{}, {}]}, "allOf"), ({"allOf": []}, "allOf"),
        ({"$ref": "https://example.com/x"}, r"the \$ref 'https://example.com/x'"),
        ({"$ref": "other.json"}, r"\$ref"),
        ({"$ref": "#/$defs/none"}, r"the \$ref '#/\$defs/none'"), ({"$ref": 1}, r"\$ref"),
        ({"$ref": "#name"}, r"\$ref"),
        ({"type": "string", "format": "uri"}, "the format 'uri'"),
        ({"type": "string", "pattern": "a(?=b)"}, r"look-ahead '\(\?=' at character 2 at #"),
        ({"properties": {"a/b": {"type": "string", "pattern": "("}}}, "at #/properties/a~1b"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "pattern and length"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "strings of 3 to 2"),
        ({"maxLength": 10001}, "10001"),
        ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "no integer is between"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "no number is between"),
        ({"type": "number", "minimum": 0.5}, "minimum 0.5"),
        ({"type": "integer", "maximum": 1e30}, "maximum 1e"),
        ({"type": "array", "items": False, "minItems": 1}, "minItems 1"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems 3"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "requires 'a'"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "a oneOf at # of which 0 and 1"),
        ({"oneOf": [{"const": 1}, {"enum": [1, 2]}]}, "a oneOf"),
        ({"oneOf": [{}, {"type": "null"}]}, "a oneOf"),
        ({"oneOf": [
            {"properties": {"k": {"const": 1}}},
            {"properties": {"k": {"const": 2}}, "required": ["k"]}]}, "a oneOf"),
        ({"oneOf": [{"const": n} for n in range(101)]}, "101 schemas in oneOf"),
        ({"oneOf": [{"enum": 5}, {"type": "null"}]}, "enum '5' at #/oneOf/0"),
        ({"oneOf": [{"type": [[1]]}, {"type": "null"}]}, r"type '\[\[1\]\]' at #/oneOf/0"),
        ({"oneOf": [{"required": 5}, {"type": "object"}]}, "required '5' at #/oneOf/0"),
        ({"oneOf": [
            {"properties": {"k": {"enum": 5}}, "required": ["k"]},
            {"properties": {"k": {"enum": [5]}}, "required": ["k"]}]}, "enum '5'"),
        ({"required": ["a", "b"], "additionalProperties": 5}, "has 5 at #/additionalProperties"),
        ({"$defs": [{}], "$ref": "#/$defs/00"}, "a part that exists"),
        ({"oneOf": [
            {"properties": {key: {"const": 1} for key in SAME} | {"z": {"const": n}},
             "required": [*SAME, "z"]} for n in range(100)]}, "more than 50000 comparisons"),
    ],
)  # fmt: skip
def test_refused_at_once(schema: Any, message: str) -> None:
    with pytest.raises(GuideError, match=message) as error:
        read_guide("json_schema", json.dumps(schema))
    assert "must " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string", "enum": [1]}, "matches no text at all"),
        ({"$ref": "#"}, "matches no text at all|with itself"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "matches no text at all"),
        ({"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {
            name: {"type": "array", "prefixItems": [{"const": name}, {"$ref": f"#/$defs/{name}"}]}
            for name in "ab"}}, "matches no text"),
        ({"properties": {f"{n:04}{'x' * 50}": {"type": "string"} for n in range(500)}},
         "more than 10000 states"),
    ],
)  # fmt: skip
def test_what_only_the_automaton_shows(schema: Any, message: str) -> None:
    with pytest.raises(GuideError, match=message):
        guide_to_ebnf("json_schema", json.dumps(schema))
