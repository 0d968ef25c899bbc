"""Keywords for any value: types, constants, schemas that are true or false, and annotations."""

from __future__ import annotations

from tests.support.keyword_cases import ALL, FROM_6, ONLY_2020, UP_TO_2019, Case, check, of_each

ONE_OF_EACH = [None, True, 1, 1.5, "a", [1], {"a": 1}]


def all_but(*taken: object) -> list[object]:
    return [value for value in ONE_OF_EACH if not any(value is one for one in taken)]


CASES = [
    # type
    Case({"type": "null"}, [None], [*all_but(None), 0, "", False, "null"]),
    Case({"type": "boolean"}, [True, False], [None, 0, 1, "", "true", [True]]),
    Case({"type": "integer"}, [0, -1, 12, 10**15], [None, True, 1.5, "1", [], {}]),
    Case({"type": "number"}, [0, -1, 1.5, -0.25, 1e-7, 10**15], [None, True, "1", [1], {}]),
    Case({"type": "string"}, ["", "a", "é\n\"\\/", "日本", "😀", "\u0001", "\x7f"],
         [None, True, 1, [], {}]),
    Case({"type": "array"}, [[], [1], [[], {}, "a", None]], [None, 1, "[]", {}, {"0": 1}]),
    Case({"type": "object"}, [{}, {"a": 1}, {"": {"b": []}}], [None, 1, "{}", [], [{}]]),
    Case({"type": ["integer", "null"]}, [1, None], [1.5, "null", True, [None]]),
    Case({"type": ["array", "object", "string"]}, [[], {}, ""], [None, 1, True]),
    Case({"type": ["number", "integer"]}, [1, 1.5], ["1", None]),
    Case({"type": ["string"]}, ["a"], [1]),
    # enum and const
    Case({"enum": [1, 2, 3]}, [1, 3], [0, 4, "1", None, [1], 1.5]),
    Case({"enum": [6, "a", [], True, {"b": 12}]}, [6, "a", [], True, {"b": 12}],
         [None, False, [True], {"b": 13}, {"b": 12, "c": 1}, {}]),
    Case({"enum": [None]}, [None], [0, False, ""]),
    Case({"enum": ["a\nb", "é", '"\\', "😀", ""]}, ["a\nb", "é", '"\\', "😀", ""],
         ["a", "a b", "e", '"']),
    Case({"enum": [0]}, [0], [False, None, "0", [0]]),
    Case({"enum": [False]}, [False], [0, None, ""]),
    Case({"enum": [[False]]}, [[False]], [[0], False, []]),
    Case({"enum": [1]}, [1], [True, 2]),
    Case({"enum": [{"a": [1, {"b": None}]}]}, [{"a": [1, {"b": None}]}], [{"a": [1, {}]}]),
    Case({"enum": ["a", "b"], "type": "string"}, ["a"], ["c", 1]),
    Case({"enum": ["a", 1, None], "type": "integer"}, [1], ["a", None]),
    Case({"enum": ["a", "abc"], "minLength": 2}, ["abc"], ["a"]),
    Case({"enum": ["ab", "b", 3], "pattern": "^a"}, ["ab", 3], ["b"]),
    Case({"enum": [1, 5, 10, "x"], "minimum": 3, "maximum": 7}, [5, "x"], [1, 10]),
    Case({"enum": [[1], [1, 2], "a"], "minItems": 2}, [[1, 2], "a"], [[1]]),
    Case({"enum": [{"a": 1}, {"b": 1}], "required": ["a"]}, [{"a": 1}], [{"b": 1}, {}]),
    Case({"enum": ["2024-02-29", "later"], "format": "date"}, ["2024-02-29"], ["later"]),
    Case({"enum": [1, 2], "const": 2}, [2], [1], drafts=FROM_6),
    Case({"const": 2}, [2], [5, "2", None], drafts=FROM_6),
    Case({"const": {"foo": "bar", "baz": "bax"}}, [{"foo": "bar", "baz": "bax"}],
         [{"foo": "bar"}, [1, 2], {"foo": "bar", "baz": 1}], drafts=FROM_6),
    Case({"const": [{"foo": "bar"}]}, [[{"foo": "bar"}]], [[2], [1, 2, 3], []], drafts=FROM_6),
    Case({"const": None}, [None], [0, False], drafts=FROM_6),
    Case({"const": False}, [False], [0, [], ""], drafts=FROM_6),
    Case({"const": -2.5}, [-2.5], [2.5, -2, "-2.5"], drafts=FROM_6),
    # In draft 4 `const` is no keyword; it is honoured all the same.
    Case({"const": 2, "type": "integer"}, [2], ["a"], [5], drafts=("4",)),
    # true and false
    Case({}, ONE_OF_EACH, []),
    Case(True, ONE_OF_EACH, [], drafts=ONLY_2020),
    Case({"type": "array", "items": True}, [[], [1, "a"]], [1], drafts=FROM_6),
    Case({"type": "array", "items": False}, [[]], [[1], [None]], drafts=FROM_6),
    Case({"properties": {"a": True, "b": False}}, [{}, {"a": 1}], [{"b": 2}, {"a": 1, "b": 2}],
         drafts=FROM_6),
    # annotations, and what the specification does not know
    Case({"title": "t", "description": "d", "default": [], "type": "integer"}, [1], ["a", []]),
    Case({"readOnly": True, "writeOnly": False, "deprecated": True, "$comment": "c",
          "type": "string"}, ["a"], [1]),
    Case({"x-order": {"type": 5}, "links": [{"rel": "self"}], "name": "n", "readonly": True,
          "nullable": True, "propertyOrder": 3, "example": {"a": 1}, "tsType": "X",
          "markdownDescription": "m", "enumNames": ["one"], "type": "integer"}, [1], ["a", None]),
    Case({"contentMediaType": "application/json", "contentEncoding": "base64", "type": "string"},
         ["", "{:}", "%"], [1]),
    Case({"requred": ["a"], "type": "object"}, [{}, {"a": 1}], [1]),
    # keywords of other drafts
    Case({"prefixItems": [{"type": "string"}], "type": "array"}, [["a"], []], ["a"], [[1]],
         drafts=UP_TO_2019),
    # keywords of other types are about other values
    Case({"maxLength": 1, "minimum": 5, "maxItems": 0, "required": ["a"]},
         ["a", 5, [], {"a": 1}, None, True], ["ab", 4, [1], {}], drafts=ALL),
]  # fmt: skip


@of_each(CASES)
def test_values(case: Case) -> None:
    check(case)
