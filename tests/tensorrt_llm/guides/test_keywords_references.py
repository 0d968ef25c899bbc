"""References: pointers, names, anchors, recursion, and what stands beside them."""

from __future__ import annotations

from tests.support.keyword_cases import FROM_6, FROM_2019, ONLY_2020, UP_TO_7, Case, check, of_each

LIST = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}},
        "required": ["v"], "additionalProperties": False}  # fmt: skip
NODE = {"type": "object", "properties": {"name": {"type": "string"}, "kids":
        {"type": "array", "items": {"$ref": "#/definitions/node"}}},
        "required": ["name"]}  # fmt: skip

CASES = [
    Case(LIST, [{"v": 1}, {"v": 1, "next": {"v": 2, "next": {"v": 3}}}],
         [{}, {"v": 1, "next": {}}, {"v": 1, "next": {"v": "x"}}, {"v": 1, "nxt": {}}]),
    Case({"properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}}},
         [{"b": 3}, {"a": 1, "b": 2}], [{"b": "x"}]),
    Case({"definitions": {"c": {"type": "integer"}}, "allOf": [{"$ref": "#/definitions/c"}]}, [1],
         ["a"]),
    Case({"definitions": {"a": {"$ref": "#/definitions/b"}, "b": {"$ref": "#/definitions/c"},
                          "c": {"type": "null"}}, "items": {"$ref": "#/definitions/a"},
          "type": "array"}, [[], [None, None]], [[1]]),
    Case({"definitions": {"tilde~field": {"type": "integer"}, "slash/field": {"type": "integer"},
                          "percent%field": {"type": "integer"}, 'quote"field': {"type": "integer"},
                          "é": {"type": "integer"}},
          "properties": {"a": {"$ref": "#/definitions/tilde~0field"},
                         "b": {"$ref": "#/definitions/slash~1field"},
                         "c": {"$ref": "#/definitions/percent%25field"},
                         "d": {"$ref": "#/definitions/quote%22field"},
                         "e": {"$ref": "#/definitions/%C3%A9"}}},
         [{name: 1} for name in "abcde"], [{name: "x"} for name in "abcde"]),
    Case({"definitions": {"node": NODE}, "allOf": [{"$ref": "#/definitions/node"}]},
         [{"name": "a"}, {"name": "a", "kids": [{"name": "b", "kids": []}, {"name": "c"}]}],
         [{}, {"name": "a", "kids": [{}]}, {"name": 1}]),
    Case({"definitions": {"even": {"type": "array", "maxItems": 1,
                                   "items": {"$ref": "#/definitions/odd"}},
                          "odd": {"type": "object", "properties": {"x":
                                  {"$ref": "#/definitions/even"}}, "additionalProperties": False}},
          "allOf": [{"$ref": "#/definitions/even"}]},
         [[], [{}], [{"x": [{}]}]], [{}, [[]], [{"x": {}}]]),
    Case({"items": {"$ref": "#"}, "type": "array"}, [[], [[], [[]]]], [[1], {}]),
    Case({"additionalProperties": {"$ref": "#"}, "type": "object"}, [{}, {"a": {"b": {}}}],
         [{"a": 1}]),
    Case({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]},
         [1, [], [1, [2, [3]]]], ["a", [None], [[{}]]]),
    # a member of that name, no reference
    Case({"properties": {"$ref": {"type": "string"}}, "type": "object"}, [{"$ref": "#/x"}],
         [{"$ref": 1}]),
    # up to draft 7 what stands beside a reference does not count
    Case({"definitions": {"a": {"type": "array"}}, "properties": {"p": {
          "$ref": "#/definitions/a", "title": "t", "description": "d", "default": []}}},
         [{"p": []}, {"p": [1]}], [{"p": 1}]),
    Case({"definitions": {"a": {"type": "array"}}, "properties": {"p": {
          "$ref": "#/definitions/a", "maxItems": 1}}, "type": "object"}, [{"p": []}, {"p": [1]}],
         [{"p": 1}]),
    Case({"$defs": {"a": {"type": "array"}}, "properties": {"p": {
          "$ref": "#/$defs/a", "maxItems": 1}}, "type": "object"}, [{"p": []}, {"p": [1]}],
         [{"p": 1}, {"p": [1, 2]}], drafts=FROM_2019),
    Case({"$defs": {"base": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}},
          "$ref": "#/$defs/base", "properties": {"b": {"type": "string"}}, "type": "object"},
         # A schema's own properties come before those that a reference brings.
         [{"a": 1}, {"b": "x", "a": 1}], [{}, {"b": "x"}, {"a": 1, "b": 2}],
         [{"a": 1, "b": "x"}], drafts=FROM_2019),
    Case({"$defs": {"s": {"type": "string"}}, "$ref": "#/$defs/s", "enum": ["a", 1]}, ["a"],
         [1, "b"], drafts=FROM_2019),
    # true and false
    Case({"$defs": {"yes": True, "no": False}, "properties": {"a": {"$ref": "#/$defs/yes"},
          "b": {"$ref": "#/$defs/no"}}, "type": "object"}, [{}, {"a": 1}], [{"b": 1}],
         drafts=FROM_2019),
    # names of schemas, without a network
    Case({"$id": "http://example.com/root.json", "definitions": {"a": {"type": "integer"}},
          "properties": {"x": {"$ref": "#/definitions/a"},
                         "y": {"$ref": "http://example.com/root.json#/definitions/a"},
                         "z": {"$ref": "root.json#/definitions/a"}}},
         [{"x": 1}, {"y": 1}, {"z": 1}], [{"x": "a"}, {"y": "a"}, {"z": "a"}], drafts=FROM_6),
    Case({"id": "http://example.com/root.json", "definitions": {"a": {"type": "integer"}},
          "properties": {"y": {"$ref": "http://example.com/root.json#/definitions/a"}}},
         [{"y": 1}], [{"y": "a"}], drafts=("4",)),
    Case({"$id": "http://example.com/root.json", "definitions": {"a": {"$id": "item.json",
          "type": "integer"}}, "properties": {"x": {"$ref": "item.json"},
          "y": {"$ref": "http://example.com/item.json"}}}, [{"x": 1}, {"y": 1}],
         [{"x": "a"}, {"y": "a"}], drafts=FROM_6),
    Case({"definitions": {"a": {"$id": "#foo", "type": "integer"}},
          "properties": {"x": {"$ref": "#foo"}}}, [{"x": 1}], [{"x": "a"}], drafts=("6", "7")),
    Case({"definitions": {"a": {"id": "#foo", "type": "integer"}},
          "properties": {"x": {"$ref": "#foo"}}}, [{"x": 1}], [{"x": "a"}], drafts=("4",)),
    Case({"$defs": {"a": {"$anchor": "foo", "type": "integer"}},
          "properties": {"x": {"$ref": "#foo"}}}, [{"x": 1}], [{"x": "a"}], drafts=FROM_2019),
    Case({"$id": "http://example.com/root", "$defs": {"a": {"$id": "nested.json", "$defs": {
          "b": {"$anchor": "foo", "type": "integer"}}}}, "properties": {
          "x": {"$ref": "nested.json#foo"}}}, [{"x": 1}], [{"x": "a"}], drafts=FROM_2019),
    Case({"$defs": {"a": {"$dynamicAnchor": "foo", "type": "integer"}},
          "properties": {"x": {"$dynamicRef": "#foo"}}}, refused="dynamicRef", drafts=ONLY_2020),
    Case({"$recursiveAnchor": True, "properties": {"x": {"$recursiveRef": "#"}},
          "additionalProperties": False, "type": "object"}, refused="recursiveRef",
         drafts=("2019-09",)),
    # what is named like a keyword where no schema stands is none
    Case({"enum": [{"$ref": "#/definitions/a"}], "definitions": {"a": {"type": "null"}}},
         [{"$ref": "#/definitions/a"}], [None], drafts=UP_TO_7),
]  # fmt: skip


@of_each(CASES)
def test_references(case: Case) -> None:
    check(case)
