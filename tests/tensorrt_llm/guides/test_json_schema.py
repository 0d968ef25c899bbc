"""Guides that are JSON schemas: whatever they match is valid."""

from __future__ import annotations

import json
from datetime import date, time
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError

from tests.support.guide_matching import compiled, matches, write
from tests.support.json_schema_judge import is_valid

PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "full name"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "home": {"$ref": "#/$defs/address"},
    },
    "required": ["name", "home"],
    "additionalProperties": False,
    "$defs": {
        "address": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}, 'é"\\/': {}},
        }
    },
}
TREE = {
    "$ref": "#/$defs/a~1b",
    "$defs": {
        "a/b": {
            "type": "object",
            "properties": {
                "v": {"type": "number"},
                "next": {"anyOf": [{"$ref": "#/$defs/a~1b"}, {"type": "null"}]},
            },
            "required": ["v", "next"],
        }
    },
}
EXPRESSION = {
    "anyOf": [{"$ref": "#/$defs/add"}, {"type": "integer"}],
    "$defs": {
        "add": {
            "type": "object",
            "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}},
            "required": ["left", "right"],
        }
    },
}
SCHEMAS: list[Any] = [
    True, {}, {"type": "string"}, {"type": ["null", "boolean"]}, {"type": ["integer", "number"]},
    {"type": "object"}, {"type": "array"}, PERSON, TREE, EXPRESSION,
    {"enum": ["a", 1, 1.5, None, True, "é\n\"", [1, {"a": []}], {"b": "日本"}]},
    {"type": "string", "enum": ["a", 1, None]}, {"const": -0.5},
    {"type": "integer", "enum": [1.0, 2.5, True]},
    {"type": "string", "minLength": 2, "maxLength": 4}, {"type": "string", "minLength": 3},
    {"type": "string", "pattern": "b+c?$"}, {"type": "string", "pattern": "^a.\\n\"[\\\\]"},
    {"type": "string", "pattern": "x"}, {"type": "string", "pattern": "^([^a]|[\\t-z])*$"},
    {"minimum": 3}, {"type": "integer", "minimum": -12, "maximum": 345},
    {"type": "integer", "exclusiveMinimum": 98.5, "exclusiveMaximum": 10001},
    {"type": "integer", "maximum": -7}, {"type": "integer", "minimum": 5, "maximum": 5},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -2, "exclusiveMaximum": 3},
    {"type": "number", "exclusiveMaximum": 0},
    {"type": "number", "minimum": -3, "exclusiveMaximum": -2},
    {"type": "number", "minimum": 7, "maximum": 7},
    {"type": "number", "exclusiveMinimum": 0, "minimum": -5, "maximum": 12},
    {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": False}, {"type": "array", "maxItems": 0},
    {"type": "array", "minItems": 1},
    {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3},
     "maxItems": 4},
    {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "maxItems": 1},
    {"type": "array", "prefixItems": [{"const": 1}], "items": False},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "additionalProperties": False},
    {"type": "object", "required": ["a", "b"]},
    {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}},
    {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"]},
    {"properties": {"a": {"const": 1}}, "additionalProperties": {"type": "string"},
     "required": ["z"]},
    {"allOf": [{"type": "integer"}], "title": "x"},
    {"anyOf": [{"type": "string"}, {"enum": ["a", 2]}]},
    {"oneOf": [{"type": "string"}, {"type": "integer"}, {"const": None}]},
    {"oneOf": [
        {"properties": {"k": {"const": n}, "x": {"type": t}}, "required": ["k", "x"]}
        for n, t in enumerate(("string", "null"))]},
    {"anyOf": [
        {"properties": {"ab": {"const": 1}}, "required": ["ab"]},
        {"properties": {"ac": {"const": 2}}, "required": ["ac"]}]},
    {"anyOf": [{"type": "object"}, {"properties": {"a": {"type": "null"}}}]},
    {"type": "array", "items": {"$ref": "#"}},
    {"definitions": {"x": {"const": 1}}, "$ref": "#/definitions/x"},
    {"x-order": 1, "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "a",
     "default": 1, "examples": [1]},
    *({"type": "string", "format": name} for name in (
        "date", "time", "date-time", "email", "ipv4", "uuid")),
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_what_is_written_is_valid(schema: Any) -> None:
    text = json.dumps(schema)
    grammar = compiled("json_schema", text)
    for seed in range(60):
        written = write(grammar, Random(seed), eager=40)
        assert is_valid(json.loads(written), schema), written
        assert matches(grammar, written)
        assert not matches(grammar, written + " ")


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({}, [None, True, -1.5e-3, "é\n\"", [], [1, [2, {}]], {"a": {"b": []}, "": 0}]),
        (PERSON, [
            {"name": "", "home": {}},
            {"name": "é", "age": 150, "tags": ["a", "b", "c"],
             "home": {"zip": "01234", 'é"\\/': [1]}}]),
        (TREE, [{"v": 1, "next": None}, {"v": 1, "next": {"v": -2.5, "next": None}}]),
        (EXPRESSION, [1, {"left": 1, "right": {"left": 2, "right": 3}}]),
        ({"type": "integer", "minimum": -12, "maximum": 345}, [-12, -9, 0, 9, 10, 99, 100, 345]),
        ({"type": "integer", "exclusiveMinimum": 98.5, "exclusiveMaximum": 10001}, [99, 10000]),
        ({"type": "number", "minimum": -1, "maximum": 10}, [-1, -0.5, 0, 0.25, 1, 9.999, 10]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "日本\n", '"\\']),
        ({"type": "string", "pattern": "b"}, ["b", "abc", "\nb\t"]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
         [[1], [1, 2, 3]]),
        ({"properties": {"a": {}, "b": {}}}, [{}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}]),
        ({"type": "string", "format": "date"}, ["2024-02-28", "1999-12-31", "2000-04-30"]),
    ],
)  # fmt: skip
def test_what_programs_write_is_matched(schema: Any, values: list[Any]) -> None:
    """`json.dumps` as it is and without its spaces."""
    grammar = compiled("json_schema", json.dumps(schema))
    for value in values:
        assert is_valid(value, schema)
        for separators in ((", ", ": "), (",", ":")):
            text = json.dumps(value, ensure_ascii=False, separators=separators)
            assert matches(grammar, text), text


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        ({}, [
            "", " 1", "01", "1.", "+1", "nul", "'a'", '"\t"', '"\\x"', '"\\ud800"',
            "[1,]", '{"a"}', "{1:2}",
            "[1  ,2]", '"a', "1 2"]),
        (PERSON, [
            '{"name":"","home":{},"x":1}', '{"home":{},"name":""}',
            '{"name":"","age":151,"home":{}}',
            '{"name":""}', '{"name":"","home":{"zip":"1234"}}']),
        ({"type": "integer"}, ["1.0", "1e2", "-0", "00", '"1"']),
        ({"type": "integer", "minimum": -12, "maximum": 345}, ["-13", "346", "1000", "-100", "-0"]),
        ({"type": "integer", "exclusiveMinimum": 98.5, "exclusiveMaximum": 10001},
         ["98", "10001", "98.9"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1},
         ["0", "0.0", "1.1", "-0.5", "2", "1e0"]),
        ({"type": "string", "maxLength": 2}, ['"abc"', '"\\n\\n\\n"']),
        ({"enum": ["a/b"]}, ['"a\\/b"', '"a/b']),
        ({"type": "string", "format": "date"},
         ['"2023-02-30"', '"2023-13-01"', '"2023-04-31"', '"23-01-01"']),
        ({"type": "string", "format": "ipv4"}, ['"256.1.1.1"', '"1.1.1"', '"01.1.1.1"']),
    ],
)  # fmt: skip
def test_what_is_not_valid_is_not_matched(schema: Any, texts: list[str]) -> None:
    grammar = compiled("json_schema", json.dumps(schema))
    for text in texts:
        assert not matches(grammar, text), text


def test_formats_hold_real_dates_and_times() -> None:
    days, hours = (
        compiled("json_schema", json.dumps({"type": "string", "format": f}))
        for f in ("date", "time")
    )
    for seed in range(300):
        date.fromisoformat(json.loads(write(days, Random(seed))))
        time.fromisoformat(json.loads(write(hours, Random(seed)))[:8])


leaves = st.sampled_from(
    [{"type": "null"}, {"type": "boolean"}, {"type": "integer"}, {"type": "string"}, {"const": "é"},
     {"enum": [1, "a"]}, {"type": "integer", "minimum": -3, "maximum": 17}, {"$ref": "#/$defs/d"},
     {"type": "string", "maxLength": 3}, {"type": "number", "exclusiveMinimum": 2},
     {"type": "string", "pattern": "a|b"}]
)  # fmt: skip
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda items, least,
            more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
            inner, st.integers(0, 2), st.integers(0, 2),
        ),
        st.builds(
            lambda members, needed: {
                "type": "object", "properties": members,
                "required": [n for n in needed if n in members],
            },
            st.dictionaries(st.sampled_from(["a", "ab", "b", "ü", '"']), inner, max_size=4),
            st.sets(st.sampled_from(["a", "ab", "b", "ü"])),
        ),
        st.builds(lambda members: {"anyOf": members}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(schemas, st.integers(0, 99))
def test_random_schemas(schema: dict[str, Any], seed: int) -> None:
    whole = {**schema, "$defs": {"d": {"type": "array", "items": {"type": "integer"}}}}
    try:
        grammar = compiled("json_schema", json.dumps(whole))
    except GuideError as error:  # any object, or one with a member that begins as any value does
        assume("must tell" not in str(error) and "states" not in str(error))
        raise
    written = write(grammar, Random(seed), eager=40)
    assert is_valid(json.loads(written), whole)
    assert matches(grammar, written)


def test_any_json_is_an_object_or_an_array() -> None:
    grammar = compiled("json", "")
    values: list[Any] = [{}, [], [0, "é", True], {"a": [None, {"b": -1.5e10}]}]
    for value in values:
        assert matches(grammar, json.dumps(value, ensure_ascii=False))
    for value in (0, "é", True, None):
        assert not matches(grammar, json.dumps(value, ensure_ascii=False))
    for seed in range(100):
        assert isinstance(json.loads(write(grammar, Random(seed))), dict | list)


def test_a_format_a_pattern_and_a_length_that_read_alike_are_three() -> None:
    alike = [{"format": "date"}, {"pattern": "^date$"}, {"pattern": "^1 to 2$"}, {"maxLength": 2}]
    schema = {"prefixItems": [*alike, {"pattern": "date"}, {"pattern": "1 to 2"}], "minLength": 0}
    grammar = compiled("json_schema", json.dumps({**schema, "items": False, "type": "array"}))
    assert matches(grammar, '["2024-02-28","date","1 to 2","ab","a date","is 1 to 2"]')
    assert not matches(grammar, '["date","date","1 to 2","ab","a date","is 1 to 2"]')


def test_properties_that_no_name_is_given_for_share_one_schema() -> None:
    schema = {"required": ["a", "b"], "additionalProperties": {"enum": [1, "x"]}}
    grammar = compiled("json_schema", json.dumps({**schema, "properties": {"c": {}}}))
    assert matches(grammar, '{"c":2,"a":1,"b":"x"}')
    assert matches(grammar, '{"a":"x", "b":1}')
    assert not matches(grammar, '{"a":2,"b":1}')
    assert not matches(grammar, '{"a":1}')
