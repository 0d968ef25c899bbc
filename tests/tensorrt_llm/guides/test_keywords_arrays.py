"""Keywords for arrays."""

from __future__ import annotations

from typing import Any

from tests.support.keyword_cases import (
    FROM_6,
    FROM_2019,
    ONLY_2020,
    UP_TO_2019,
    Case,
    check,
    of_each,
)

OTHERS: list[Any] = [None, True, 1, "a", {}, {"0": 1, "length": 1}]

CASES = [
    Case({"items": {"type": "integer"}}, [[], [1], [1, 2, 3], *OTHERS], [["a"], [1, "x"], [None]]),
    Case({"items": {"type": "array", "items": {"type": "integer"}}, "type": "array"},
         [[], [[]], [[1], [2, 3]]], [[1], [["a"]], [[1], "a"], [[[1]]]]),
    Case({"items": {}, "type": "array"}, [[], [1, "a", {}, [None]]], [{}]),
    Case({"items": {"enum": ["a", "b"]}, "type": "array"}, [["a", "b", "a"]], [["a", "c"]]),
    # numbers of items
    Case({"minItems": 1}, [[1], [1, "a"], *OTHERS], [[]]),
    Case({"maxItems": 2}, [[], [1], [1, "a"], *OTHERS], [[1, 2, 3]]),
    Case({"minItems": 2, "maxItems": 3, "type": "array"}, [[1, 2], [1, 2, 3]], [[1], [1, 2, 3, 4]]),
    Case({"minItems": 1.0, "maxItems": 2.0, "type": "array"}, [[1], [1, 2]], [[], [1, 2, 3]],
         drafts=ONLY_2020),
    Case({"maxItems": 0, "type": "array"}, [[]], [[1], [[]]]),
    Case({"minItems": 0, "type": "array"}, [[], [1]]),
    Case({"minItems": 3, "items": {"type": "null"}, "type": "array"}, [[None] * 3, [None] * 9],
         [[None] * 2, [1, 2, 3]]),
    Case({"maxItems": 1000, "items": {"type": "boolean"}, "type": "array"}, [[], [True] * 40],
         [[1]]),
    # one schema for each place
    Case({"items": [{"type": "integer"}, {"type": "string"}]},
         [[1, "a"], [1], [], [1, "a", True], *OTHERS], [["a", 1], ["a"]], drafts=UP_TO_2019),
    Case({"items": [{"type": "integer"}], "additionalItems": {"type": "boolean"}},
         [[1], [], [1, True, False], *OTHERS], [[1, 2], [1, True, "a"], [True]], drafts=UP_TO_2019),
    Case({"items": [{}, {}], "additionalItems": False}, [[], [1], [1, 2], *OTHERS], [[1, 2, 3]],
         drafts=UP_TO_2019),
    Case({"items": [{"const": 1}, {"const": 2}], "minItems": 2, "additionalItems": False},
         [[1, 2]], [[1], [], [1, 2, 3], [2, 1]], drafts=("6", "7", "2019-09")),
    # without a list of items, additionalItems says nothing
    Case({"additionalItems": False, "items": {"type": "integer"}, "type": "array"}, [[1, 2, 3]],
         [["a"]], drafts=UP_TO_2019),
    Case({"additionalItems": False, "type": "array"}, [[], [1, "a"]], [1], drafts=UP_TO_2019),
    Case({"prefixItems": [{"type": "integer"}, {"type": "string"}]},
         [[1, "a"], [1], [], [1, "a", True], *OTHERS], [["a", 1], ["a"]], drafts=ONLY_2020),
    Case({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}},
         [[], ["a"], ["a", 1, 2], *OTHERS], [[1], ["a", "b"]], drafts=ONLY_2020),
    Case({"prefixItems": [{}, {}, {}], "items": False}, [[], [1], [1, "a", True]], [[1, 2, 3, 4]],
         drafts=ONLY_2020),
    Case({"prefixItems": [{"type": "null"}], "minItems": 2, "maxItems": 3, "type": "array"},
         [[None, 1], [None, "a", 2]], [[None], [1, 1], [None, 1, 2, 3]], drafts=ONLY_2020),
    Case({"prefixItems": [{"type": "integer"}], "maxItems": 1, "type": "array"}, [[], [5]],
         [[5, 6], ["a"]], drafts=ONLY_2020),
    # contains: in the first places only, for what comes before would have to be told apart
    Case({"contains": {"minimum": 5}}, [[5, 6], [5], *OTHERS], [[2, 3, 4], []], [[3, 4, 5]],
         drafts=FROM_6),
    Case({"contains": {"const": 5}, "type": "array"}, [[5, 5], [5]], [[1, 2], []], [[3, 4, 5]],
         drafts=FROM_6),
    Case({"contains": True, "type": "array"}, [["a"], [1, 2]], [[]], drafts=FROM_6),
    Case({"contains": {"type": "string"}, "items": {"type": ["string", "integer"]},
          "type": "array"}, [["a"], ["a", 1, "b"]], [[], [1, 2], ["a", None]], [[1, "a"]],
         drafts=FROM_6),
    Case({"contains": {"const": 1}, "minContains": 2, "type": "array"}, [[1, 1], [1, 1, 2]],
         [[], [1], [1, 2]], [[1, 2, 1]], drafts=FROM_2019),
    Case({"contains": {"const": 1}, "maxContains": 1, "type": "array"}, [[1], [1, 2]],
         [[], [1, 1], [2]], [[2, 1]], drafts=FROM_2019),
    Case({"contains": {"const": 1}, "minContains": 0, "type": "array"}, [[], [2], [1]],
         [1], drafts=FROM_2019),
    Case({"minContains": 2, "maxContains": 1, "type": "array"}, [[], [1]], [1], drafts=FROM_2019),
    # unique items
    Case({"uniqueItems": False, "type": "array"}, [[], [1, 1], [[], []]]),
    Case({"uniqueItems": True, "type": "array"}, [[], [1], ["a"], [{}]],
         [[1, 1], ["a", "a"], [[1], [1]], [{"a": 1}, {"a": 1}], [None, None], [1, 2, 1]]),
    Case({"uniqueItems": True, "items": {"enum": ["a", "b", "c"]}, "type": "array"},
         [[], ["a"], ["b"], ["a", "b"], ["a", "b", "c"]], [["a", "a"], ["a", "b", "a"], ["d"]]),
    Case({"uniqueItems": True, "items": {"type": "boolean"}, "type": "array"},
         [[], [True], [False]], [[True, True], [True, False, True]]),
    Case({"uniqueItems": True, "maxItems": 1, "type": "array"}, [[], [1], ["a"]], [[1, 2]]),
    Case({"items": [{"type": "boolean"}, {"type": "string"}], "uniqueItems": True,
          "additionalItems": False}, refused="uniqueItems", drafts=UP_TO_2019),
    # unevaluated items
    Case({"prefixItems": [{"type": "string"}], "unevaluatedItems": False, "type": "array"},
         refused="unevaluatedItems", drafts=ONLY_2020),
    Case({"unevaluatedItems": True, "type": "array"}, refused="unevaluatedItems",
         drafts=FROM_2019),
]  # fmt: skip


@of_each(CASES)
def test_arrays(case: Case) -> None:
    check(case)
