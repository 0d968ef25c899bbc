"""Schemas of schemas: allOf, anyOf, oneOf, not and if, and what stands beside them."""

from __future__ import annotations

from tests.support.keyword_cases import FROM_6, FROM_7, FROM_2019, Case, check, of_each

TAGGED = [
    {"properties": {"kind": {"enum": ["circle"]}, "r": {"type": "number"}},
     "required": ["kind", "r"]},
    {"properties": {"kind": {"enum": ["square"]}, "side": {"type": "integer"}},
     "required": ["kind", "side"]},
]  # fmt: skip

CASES = [
    # allOf
    Case({"allOf": [{"type": "string"}, {"maxLength": 2}]}, ["", "ab"], ["abc", 1, None]),
    Case({"allOf": [{"minimum": 3}, {"maximum": 5}], "type": "integer"}, [3, 4, 5], [2, 6]),
    Case({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    {"properties": {"b": {"type": "string"}}, "required": ["b"]}],
          "type": "object"}, [{"a": 1, "b": "x"}], [{"a": 1}, {"b": "x"}, {"a": "x", "b": "x"}]),
    Case({"properties": {"a": {"type": "integer"}}, "required": ["a"],
          "allOf": [{"properties": {"b": {"type": "string"}}, "required": ["b"]},
                    {"properties": {"c": {"type": "null"}}, "required": ["c"]}]},
         [{"a": 1, "b": "x", "c": None}, 5, "a"], [{"a": 1}, {"a": 1, "b": "x"}, {}]),
    Case({"allOf": [{"properties": {"a": {"minimum": 2}}}, {"properties": {"a": {"maximum": 5}}}],
          "properties": {"a": {"type": "integer"}}}, [{}, {"a": 2}, {"a": 5}],
         [{"a": 1}, {"a": 6}]),
    Case({"allOf": [{"type": ["string", "null"]}, {"type": ["null", "integer"]}]}, [None],
         ["a", 1]),
    Case({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]}, [2, 3], [1, 4]),
    Case({"allOf": [{"pattern": "^a"}, {"pattern": "b$"}], "type": "string"}, ["ab", "axxb"],
         ["a", "b", "ba"]),
    Case({"allOf": [{"items": {"type": "integer"}}, {"minItems": 1}, {"maxItems": 2}],
          "type": "array"}, [[1], [1, 2]], [[], ["a"], [1, 2, 3]]),
    Case({"allOf": [{}]}, [1, "a", None]),
    Case({"allOf": [{}, {"type": "number"}]}, [1, 1.5], ["a"]),
    Case({"allOf": [{"allOf": [{"type": "null"}]}]}, [None], [1]),
    Case({"allOf": [{"multipleOf": 2}, {"multipleOf": 3}], "type": "integer"}, [0, 6, 12, -6],
         [2, 3, 4, 9]),
    Case({"allOf": [{"required": ["a"]}, {"additionalProperties": False, "properties":
          {"a": {}, "b": {}}}], "type": "object"}, [{"a": 1}, {"a": 1, "b": 2}],
         [{}, {"b": 1}, {"a": 1, "c": 2}]),
    # anyOf
    Case({"anyOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, 3, "a", None], [1.5]),
    Case({"anyOf": [{"type": "string"}, {"type": "null"}]}, ["a", None], [1, []]),
    Case({"type": "string", "anyOf": [{"maxLength": 2}, {"minLength": 4}]}, ["ab", "abcd"],
         ["abc", 1]),
    Case({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
          "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
         [{"a": 1}, {"b": 2}, {"a": 1, "b": 2}], [{}, {"c": 1}, {"a": "x"}]),
    Case({"properties": {"a": {}}, "required": ["a"], "anyOf": [
          {"properties": {"b": {"type": "null"}}, "required": ["b"]},
          {"properties": {"c": {"type": "null"}}, "required": ["c"]}], "type": "object"},
         [{"a": 1, "b": None}, {"a": 1, "c": None}], [{"a": 1}, {"b": None}, {"a": 1, "b": 1}]),
    Case({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]},
         ["a", [], ["a", "b"]], [[1], 1]),
    Case({"anyOf": [{"enum": ["a", "b"]}, {"type": "string", "pattern": "^x"}]}, ["a", "xyz"],
         ["c", 1]),
    Case({"anyOf": [{"const": 1}, {"const": "a"}, {"const": {"b": 2}}]}, [1, "a", {"b": 2}],
         [2, "b", {}], drafts=FROM_6),
    Case({"anyOf": [True, {"type": "null"}]}, [1, None], drafts=FROM_6),
    Case({"anyOf": [False, {"type": "null"}]}, [None], [1], drafts=FROM_6),
    # oneOf
    Case({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [None, 1.5, []]),
    Case({"oneOf": [{"type": "integer"}, {"minimum": 2}], "type": "number"}, [1, 2.5], [3, 1.5]),
    Case({"type": "string", "oneOf": [{"minLength": 2}, {"maxLength": 4}]}, ["", "a", "abcde"],
         ["abc", 1]),
    Case({"oneOf": TAGGED, "type": "object"},
         [{"kind": "circle", "r": 1.5}, {"kind": "square", "side": 2}],
         [{"kind": "circle", "side": 2}, {"kind": "x", "r": 1}, {}]),
    Case({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
          "additionalProperties": False,
          "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
         [{"a": "x"}, {"b": "y"}], [{}, {"a": "x", "b": "y"}, {"a": 1}]),
    Case({"oneOf": [{"const": "a"}, {"const": "b"}], "type": "string"}, ["a", "b"], ["c"],
         drafts=FROM_6),
    Case({"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, ["a", "c"], ["b", "d"]),
    Case({"oneOf": [{"type": "null"}, {"type": "object", "required": ["a"]}]}, [None, {"a": 1}],
         [{}, 1]),
    Case({"oneOf": [{"type": "string", "format": "date"}, {"type": "integer"}]},
         ["2024-02-29", 3], ["later", None]),
    # not
    Case({"not": {"type": "integer"}}, ["a", 1.5, None, []], [1, 0, -7]),
    # From draft 6 on, a number with nothing but zeros behind the point is an integer.
    Case({"not": {"type": "integer"}}, [1.5, 0.25, -99.5], [1.0, -99.0, 0.0, 1000.0],
         drafts=FROM_6),
    Case({"oneOf": [{}, {"type": "integer"}]}, [0.5, "a"], [2.0, 2], drafts=FROM_6),
    Case({"not": {"type": ["integer", "boolean"]}}, ["a", None, {}], [1, True]),
    Case({"type": "string", "not": {"enum": ["a", "b"]}}, ["c", "", "ab"], ["a", "b", 1]),
    Case({"type": "integer", "not": {"minimum": 5}}, [4, 0, -3], [5, 6]),
    Case({"type": "string", "not": {"maxLength": 2}}, ["abc"], ["", "ab"]),
    Case({"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": False,
          "not": {"required": ["b"]}}, [{}, {"a": 1}], [{"b": 1}, {"a": 1, "b": 1}]),
    Case({"not": {"not": {"type": "null"}}}, [None], [1]),
    # if
    Case({"if": {"properties": {"kind": {"const": "a"}}, "required": ["kind"]},
          "then": {"required": ["x"]}, "else": {"required": ["y"]},
          "properties": {"kind": {"enum": ["a", "b"]}, "x": {"type": "null"},
                         "y": {"type": "null"}},
          "required": ["kind"], "type": "object", "additionalProperties": False},
         [{"kind": "a", "x": None}, {"kind": "b", "y": None}, {"kind": "a", "x": None, "y": None}],
         [{"kind": "a", "y": None}, {"kind": "b"}, {}], drafts=FROM_7),
    Case({"if": {"maximum": 0}, "then": {"minimum": -10}, "else": {"multipleOf": 2},
          "type": "integer"}, [-1, 0, -10, 4], [-11, 3], drafts=FROM_7),
    Case({"if": {"const": 0}, "type": "integer"}, [0, 5], ["a"], drafts=FROM_7),
    Case({"then": {"const": 0}, "else": False, "type": "integer"}, [5], ["a"], drafts=FROM_7),
    Case({"if": {"type": "string"}, "then": {"maxLength": 1}, "type": ["string", "null"]},
         ["a", None], ["ab"], drafts=FROM_7),
    Case({"if": True, "then": {"type": "null"}, "else": {"type": "string"}}, [None], ["a"],
         drafts=FROM_7),
    Case({"if": {"minimum": 5}, "then": False, "type": "integer"}, [4, -1], [5, 100],
         drafts=FROM_2019),
]  # fmt: skip


@of_each(CASES)
def test_combined(case: Case) -> None:
    check(case)
