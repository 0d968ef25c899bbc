"""Keywords for objects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.guide_matching import compiled, matches
from tests.support.keyword_cases import FROM_6, FROM_2019, UP_TO_7, Case, check, of_each

OTHERS: list[Any] = [None, True, 1, "a", []]
TWO = {"a": {"type": "integer"}, "b": {"type": "string"}}

CASES = [
    Case({"properties": TWO},
         [{}, {"a": 1}, {"b": "x"}, {"a": 1, "b": "x"}, {"c": []}, {"a": 1, "c": None}, *OTHERS],
         [{"a": "1"}, {"b": 2}, {"a": 1, "b": {}}, {"a": [], "b": "x"}]),
    Case({"properties": {"a\nb": {"type": "integer"}, 'a"b': {"type": "integer"},
                         "é\\": {"type": "integer"}, "": {"type": "integer"}}},
         [{"a\nb": 1}, {'a"b': 1}, {"é\\": 1}, {"": 1}], [{"a\nb": "x"}, {'a"b': "x"},
         {"é\\": "x"}, {"": "x"}]),
    Case({"properties": {"__proto__": {"type": "number"}, "toString": {"type": "string"}}},
         [{}, {"__proto__": 1}, {"toString": "x"}], [{"__proto__": "x"}, {"toString": 1}]),
    Case({"properties": {"$ref": {"type": "string"}, "type": {"type": "null"}}, "type": "object"},
         [{"$ref": "a"}, {"type": None}], [{"$ref": 2}, {"type": 1}]),
    # required
    Case({"properties": {"a": {}, "b": {}}, "required": ["a"]}, [{"a": 1}, {"a": 1, "b": 2}, 5],
         [{}, {"b": 1}]),
    Case({"required": ["a", "b"], "type": "object"}, [{"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}],
         [{}, {"a": 1}, {"b": 1}]),
    Case({"required": ['a"b', "é"], "type": "object"}, [{'a"b': 1, "é": 2}], [{}, {"é": 1}]),
    Case({"properties": {"a": {}}, "required": []}, [{}, {"a": 1}], drafts=FROM_6),
    Case({"properties": TWO, "required": ["b", "a"], "additionalProperties": False},
         [{"a": 1, "b": "x"}], [{"a": 1}, {"b": "x"}, {}, {"a": 1, "b": "x", "c": 1}]),
    # additional properties
    Case({"properties": TWO, "additionalProperties": False, "type": "object"},
         [{}, {"a": 1}, {"a": 1, "b": "x"}], [{"c": 1}, {"a": 1, "ab": 2}, {"a": 1, "": 0}]),
    Case({"properties": TWO, "additionalProperties": {"type": "boolean"}, "type": "object"},
         [{}, {"c": True}, {"a": 1, "c": True, "d": False}, {"aa": True}],
         [{"c": 1}, {"a": True}, {"a": 1, "c": "x"}]),
    Case({"properties": TWO, "additionalProperties": True, "type": "object"},
         [{"c": 1}, {"a": 1, "c": []}], [{"a": "x"}]),
    Case({"additionalProperties": {"type": "integer"}, "type": "object"},
         [{}, {"a": 1}, {"x": 1, "y": 2}], [{"a": "1"}, {"a": 1, "b": None}]),
    Case({"additionalProperties": False, "type": "object"}, [{}], [{"a": 1}]),
    Case({"properties": {"a": {}}, "required": ["c"], "additionalProperties": {"type": "integer"}},
         [{"c": 1}, {"a": "x", "c": 1}], [{"c": "x"}, {"a": 1}, {}]),
    # patterns of names
    Case({"patternProperties": {"f.*o": {"type": "integer"}}, "type": "object"},
         [{}, {"foo": 1}, {"bar": "x"}, {"foo": 1, "bar": []}], [{"foo": "x"}, {"xfooy": "a"}]),
    Case({"patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": False,
          "type": "object"}, [{}, {"x-a": "1"}, {"x-": "", "x-b": "2"}],
         [{"a": 1}, {"x-a": 1}, {"y": "1"}]),
    Case({"properties": {"a": {"type": "integer"}}, "patternProperties": {"^v": {"type": "null"}},
          "additionalProperties": {"type": "string"}},
         [{"a": 1}, {"va": None}, {"b": "x"}, {"a": 1, "v": None, "c": "y"}],
         [{"a": "x"}, {"va": "x"}, {"b": 1}]),
    Case({"properties": {"foo": {"type": "integer"}}, "patternProperties": {"^f": {"minimum": 5}}},
         [{"foo": 7}, {"fa": 6}, {"g": 1}], [{"foo": 1}, {"foo": "x"}, {"fa": 2}]),
    Case({"patternProperties": {"a*": {"type": "integer"}, "aaa*": {"maximum": 20}},
          "type": "object"}, [{"a": 21}, {"aaaa": 18}], [{"a": "x"}, {"aaaa": 31}]),
    Case({"patternProperties": {r"^[0-9]{2,}$": {"type": "boolean"}}, "type": "object"},
         [{"12": True}, {"1": 5}, {"a12": 5}], [{"12": 1}, {"345": "x"}]),
    # names
    Case({"propertyNames": {"maxLength": 3}, "type": "object"}, [{}, {"f": 1, "foo": 2}],
         [{"foobar": 1}, {"f": 1, "longer": 2}], drafts=FROM_6),
    Case({"propertyNames": {"pattern": "^[a-z]+$"}, "type": "object"}, [{}, {"ab": 1}],
         [{"A": 1}, {"a1": 1}, {"": 1}], drafts=FROM_6),
    Case({"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"},
          "type": "object"}, [{}, {"a": 1}, {"b": 2}], [{"c": 1}, {"a": "x"}], drafts=FROM_6),
    Case({"propertyNames": {"pattern": "^a"}, "properties": {"b": {}, "ab": {"type": "null"}}},
         [{}, {"ab": None}, {"ac": 1}], [{"b": 1}, {"ab": 1}], drafts=FROM_6),
    Case({"propertyNames": False, "type": "object"}, [{}], [{"a": 1}], drafts=FROM_6),
    # numbers of members
    Case({"minProperties": 1}, [{"a": 1}, {"a": 1, "b": 2}, *OTHERS], [{}]),
    Case({"maxProperties": 2, "type": "object"}, [{}, {"a": 1}, {"a": 1, "b": 2}],
         [{"a": 1, "b": 2, "c": 3}]),
    Case({"maxProperties": 0, "type": "object"}, [{}], [{"a": 1}]),
    Case({"minProperties": 1, "properties": TWO, "additionalProperties": False, "type": "object"},
         [{"a": 1}, {"b": "x"}, {"a": 1, "b": "x"}], [{}]),
    Case({"minProperties": 2, "properties": TWO, "additionalProperties": False, "type": "object"},
         [{"a": 1, "b": "x"}], [{}, {"a": 1}, {"b": "x"}]),
    Case({"maxProperties": 1, "properties": TWO, "additionalProperties": False, "type": "object"},
         [{}, {"a": 1}, {"b": "x"}], [{"a": 1, "b": "x"}]),
    Case({"minProperties": 1, "maxProperties": 1,
          "properties": {n: {"type": "null"} for n in "abc"}, "additionalProperties": False,
          "type": "object"}, [{"a": None}, {"b": None}, {"c": None}],
         [{}, {"a": None, "b": None}]),
    Case({"minProperties": 1, "additionalProperties": {"type": "string"}, "type": "object"},
         [{"a": "x"}, {"a": "x", "b": "y"}], [{}, {"a": 1}]),
    Case({"maxProperties": 2, "required": ["a"], "properties": {"a": {}, "b": {}, "c": {}},
          "type": "object"}, [{"a": 1}, {"a": 1, "b": 2}, {"a": 1, "c": 2}],
         [{"b": 1}, {"a": 1, "b": 2, "c": 3}]),
    # dependencies
    Case({"dependencies": {"b": ["a"]}, "properties": {"a": {}, "b": {}}, "type": "object"},
         [{}, {"a": 1}, {"a": 1, "b": 2}], [{"b": 2}], drafts=UP_TO_7),
    Case({"dependencies": {"a": ["b"]}, "properties": {"a": {}, "b": {}, "c": {}},
          "additionalProperties": False, "type": "object"},
         [{}, {"b": 1}, {"a": 1, "b": 2}, {"c": 1}], [{"a": 2}, {"a": 1, "c": 2}], drafts=UP_TO_7),
    Case({"dependencies": {"c": ["a", "b"]}, "properties": {n: {} for n in "abc"},
          "type": "object"}, [{}, {"a": 1}, {"a": 1, "b": 1, "c": 1}],
         [{"c": 1}, {"a": 1, "c": 1}, {"b": 1, "c": 1}], drafts=UP_TO_7),
    Case({"dependencies": {"a": {"properties": {"b": {"type": "integer"}}}},
          "properties": {"a": {}, "b": {}}, "type": "object"},
         [{}, {"b": "x"}, {"a": 1, "b": 2}, {"a": 1}], [{"a": 1, "b": "x"}], drafts=UP_TO_7),
    Case({"dependencies": {"a": {"required": ["b"]}}, "properties": {"a": {}, "b": {}},
          "additionalProperties": False, "type": "object"}, [{}, {"b": 1}, {"a": 1, "b": 2}],
         [{"a": 1}], drafts=UP_TO_7),
    Case({"dependentRequired": {"b": ["a"]}, "properties": {"a": {}, "b": {}}, "type": "object"},
         [{}, {"a": 1}, {"a": 1, "b": 2}], [{"b": 2}], drafts=FROM_2019),
    Case({"dependentSchemas": {"a": {"properties": {"b": {"type": "integer"}}}},
          "properties": {"a": {}, "b": {}}, "type": "object"},
         [{}, {"b": "x"}, {"a": 1, "b": 2}], [{"a": 1, "b": "x"}], drafts=FROM_2019),
    # unevaluated properties
    Case({"properties": TWO, "unevaluatedProperties": False, "type": "object"},
         refused="unevaluatedProperties", drafts=FROM_2019),
    # so many properties that are not named would have to be told apart
    Case({"minProperties": 2, "type": "object"}, refused="minProperties"),
]  # fmt: skip


@of_each(CASES)
def test_objects(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        ({"properties": {"a": {"type": "integer"}}}, ['{"\\u0061":"x"}', '{"a":1,"a":"x"}',
         '{"a":"x","a":1}', '{"a":1,"\\u0061":"x"}']),
        ({"minProperties": 1, "type": "object"}, ["{}"]),
        ({"patternProperties": {"^a": {"type": "integer"}}}, ['{"\\u0061b":"x"}']),
        ({"propertyNames": {"maxLength": 1}, "type": "object"}, ['{"\\u0061\\u0062":1}']),
        ({"required": ["a"], "additionalProperties": {"type": "integer"}, "type": "object"},
         ['{"a":1,"a":"x"}', '{"b":1,"b":2}']),
        ({"type": "object"}, ["{,}", '{"a":1,}', '{"a"}', "{a:1}", "{'a':1}", "{"]),
    ],
)  # fmt: skip
def test_no_name_in_disguise(schema: object, texts: list[str]) -> None:
    """Members of one name twice, and names written in escapes, get round no keyword."""
    grammar = compiled("json_schema", json.dumps(schema))
    assert [text for text in texts if matches(grammar, text)] == []
