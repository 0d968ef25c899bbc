"""JSON schemas that are none, or that cannot be honoured, are refused by name and place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf

from tests.support.guide_matching import compiled, matches

UNIQUE = {"uniqueItems": True}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], r"has \[\] at #"), ("string", "has string at #"), (None, "has None at #"),
        ({"type": "strin"}, "has type 'strin' at #"), ({"type": []}, "has type"),
        ({"type": ["x"]}, "has type"), ({"items": {"type": 5}}, "has type '5' at #/items"),
        ({"minLength": -1}, "minLength"), ({"maxItems": 1.5}, "maxItems"),
        ({"minLength": True}, "minLength"), ({"minimum": "1"}, "minimum"),
        ({"pattern": 1}, "pattern"), ({"required": "a"}, "required"),
        ({"properties": []}, "properties"), ({"enum": []}, "enum"), ({"anyOf": {}}, "anyOf"),
        ({"multipleOf": 0}, "multipleOf"), ({"allOf": []}, "allOf"), ({"not": 5}, "not '5' at #"),
        ({"uniqueItems": "yes"}, "uniqueItems"), ({"dependencies": []}, "dependencies"),
        ({"properties": {"a": {"items": 5}}}, "items '5' at #/properties/a"),
        ({"oneOf": [{"enum": 5}, {"type": "null"}]}, "enum '5' at #/oneOf/0"),
        ({"oneOf": [{"type": [[1]]}, {"type": "null"}]}, r"type '\[\[1\]\]' at #/oneOf/0"),
        ({"anyOf": [5]}, "has 5 at #/anyOf/0"), ({"patternProperties": {"a": 5}}, "5 at #/pattern"),
        ({"$ref": "https://example.com/x"}, r"the \$ref 'https://example.com/x' at #"),
        ({"$ref": "other.json"}, r"\$ref"), ({"$ref": 1}, r"\$ref"), ({"$ref": "#name"}, r"\$ref"),
        ({"$ref": "#"}, r"the \$ref '#' at #; it must not lead back to itself"),
        ({"items": {"$ref": "#/$defs/a"},
          "$defs": {n: {"$ref": f"#/$defs/{'ba'[n == 'b']}"} for n in "ab"}}, "back to itself"),
        ({"enum": [1e999]}, "not finite|is not JSON"),
        ({"$ref": "#/$defs/none"}, r"the \$ref '#/\$defs/none'"),
        ({"$defs": [{}], "$ref": "#/$defs/00"}, "a part that exists"),
        ({"items": {"pattern": "a(?=b)"}}, r"look-ahead '\(\?=' at character 2 at #/items"),
        ({"properties": {"a/b": {"type": "string", "pattern": "("}}}, "at #/properties/a~1b"),
        ({"minLength": 1001, "type": "string"}, "minLength 1001 at #"),
        ({"type": "number", "multipleOf": 1001}, "multipleOf 1001"),
        ({"type": "array", "minItems": 501}, "minItems 501 at #"),
        ({"type": "array", "minItems": 3, **UNIQUE, "items": {"type": "object"}}, "minItems 3 at"),
        ({"type": "object", "minProperties": 2}, "minProperties 2 at #"),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, "the keyword 'unevaluatedP"),
        ({"items": {}, "unevaluatedItems": False}, "the keyword 'unevaluatedItems' at #"),
        ({"$dynamicRef": "#a"}, r"the keyword '\$dynamicRef' at #"),
        ({"not": {"type": "string", "format": "date"}, "type": "string"}, "has not the format"),
        ({"properties": {"a\nb": 5}}, r"has 5 at #/properties/aU\+000Ab"),
        ({"properties": {"a" * 5_000: 5}}, "has 5 at #/properties/aaa"),
        ({"minLength": 10**4000}, "has minLength 1000"), ({"minItems": 10**4000}, "minItems 1000"),
        ({"$defs": [], "$ref": "#/$defs/" + "1" * 5_000}, "a part that exists"),
        ({"type": "object", "not": {"additionalProperties": {"type": "null"}}}, "has other prop"),
    ],
)  # fmt: skip
def test_refused(schema: Any, message: str) -> None:
    with pytest.raises(GuideError, match=message) as error:
        guide_to_ebnf("json_schema", json.dumps(schema))
    assert " must " in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "string", "enum": [1]},
        {"not": {}},
        {"not": {"$ref": "#"}},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "integer", "minimum": 1.2, "maximum": 1.8},
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1},
        {"type": "array", "items": False, "minItems": 1},
        {"type": "array", "minItems": 3, "maxItems": 2},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"enum": [1], "const": 2},
        {"oneOf": [{"const": 1}, {"enum": [1]}]},
        {"type": "integer", "allOf": [{"minimum": 3}, {"maximum": 2}]},
    ],
    ids=json.dumps,
)
def test_what_nothing_is_valid_against(schema: Any) -> None:
    with pytest.raises(GuideError, match="matches no text at all"):
        guide_to_ebnf("json_schema", json.dumps(schema))


def test_too_many_states() -> None:
    schema = {"properties": {f"{n:04}{'x' * 50}": {"type": "string"} for n in range(500)}}
    with pytest.raises(GuideError, match="more than 10000 states"):
        guide_to_ebnf("json_schema", json.dumps({**schema, "additionalProperties": False}))


def test_less_is_matched_before_a_schema_is_refused() -> None:
    """Strings of up to 256 characters would take 10,496 states; those of up to 64 do not."""
    members = {f"p{n}": {"minLength": n, "maxLength": 256} for n in range(41)}
    schema = {"properties": members, "additionalProperties": False, "type": "object"}
    grammar = compiled("json_schema", json.dumps(schema))
    assert matches(grammar, '{"p3": "abc", "p40": null}')
    assert not matches(grammar, '{"p3": "ab"}')
