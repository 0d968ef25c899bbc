"""Keywords for numbers: bounds and multiples."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError

from tests.support.guide_matching import compiled, matches, write
from tests.support.keyword_cases import FROM_6, Case, check, of_each

OTHERS: list[Any] = ["a", "10", [], {}, None, True]

CASES = [
    Case({"minimum": 3}, [3, 4, 3.5, 1e9, *OTHERS], [2, 2.9, 0, -3]),
    Case({"minimum": 1.1}, [1.1, 1.2, 2, 30, *OTHERS], [1, 1.05, 0.6, 0, -5]),
    Case({"minimum": -2, "type": "number"}, [-2, -1.9, -1, 0, 12, -0.001], [-2.1, -3, -100, "a"]),
    Case({"minimum": -0.5, "type": "number"}, [-0.5, -0.25, 0, 7], [-0.51, -1]),
    Case({"maximum": 3, "type": "number"}, [3, 2.9, 0, -7, -0.5], [3.1, 4, 30]),
    Case({"maximum": 300.5}, [300.5, 300, 299.99, -1000, *OTHERS], [300.51, 301, 1000]),
    Case({"maximum": 300, "type": "integer"}, [300, 299, 0, -12345], [301, 1000, 300.5]),
    Case({"minimum": 0, "maximum": 0}, [0], [0.1, -0.1, 1]),
    Case({"minimum": 0.5, "maximum": 0.75, "type": "number"}, [0.5, 0.6, 0.75], [0.4, 0.751, 1]),
    Case({"minimum": -0.25, "maximum": 1.5, "type": "number"}, [-0.25, -0.1, 0, 1, 1.5],
         [-0.3, 1.51, 2]),
    Case({"minimum": 98.6, "maximum": 101, "type": "integer"}, [99, 100, 101], [98, 102, 99.5]),
    Case({"minimum": -1000, "maximum": -8, "type": "integer"}, [-1000, -999, -10, -9, -8],
         [-1001, -7, 8, 0]),
    Case({"minimum": 1, "maximum": 65535, "type": "integer"}, [1, 9, 10, 65535, 9999, 60000],
         [0, 65536, 70000, 100000, -1]),
    Case({"minimum": 0, "type": "integer"}, [0, 1, 10**15], [-1, 0.5]),
    Case({"minimum": 1e3, "type": "integer"}, [1000, 1001], [999, 100]),
    Case({"maximum": 1e20, "type": "integer"}, [10**15, 0, -5], [10**20 + 1, 10**21]),
    Case({"minimum": -9223372036854775808, "maximum": 9223372036854775807, "type": "integer"},
         [0, 2**63 - 1, -(2**63)], [2**63, -(2**63) - 1]),
    # exclusive bounds: a number from draft 6 on, a flag beside the bound in draft 4
    Case({"exclusiveMinimum": 1.1, "type": "number"}, [1.2, 1.11, 2], [1.1, 1, 0.6],
         drafts=FROM_6),
    Case({"exclusiveMaximum": 3, "type": "number"}, [2.9, 2, -4], [3, 3.5, 4], drafts=FROM_6),
    Case({"exclusiveMinimum": 0, "exclusiveMaximum": 10, "type": "integer"}, [1, 9], [0, 10],
         drafts=FROM_6),
    Case({"exclusiveMinimum": 0, "minimum": 5, "type": "integer"}, [5, 6], [1, 4, 0],
         drafts=FROM_6),
    Case({"exclusiveMinimum": 5, "minimum": 5, "type": "integer"}, [6], [5], drafts=FROM_6),
    Case({"exclusiveMinimum": 0.5, "maximum": 2, "type": "integer"}, [1, 2], [0, 3],
         drafts=FROM_6),
    Case({"minimum": 1, "exclusiveMinimum": True, "type": "integer"}, [2, 3], [1, 0],
         drafts=("4",)),
    Case({"minimum": 1, "exclusiveMinimum": False, "type": "integer"}, [1, 2], [0],
         drafts=("4",)),
    Case({"maximum": 3, "exclusiveMaximum": True, "type": "number"}, [2, 2.5], [3, 3.1],
         drafts=("4",)),
    # multiples
    Case({"multipleOf": 2, "type": "integer"}, [0, 2, 4, -6, 10, 1234], [1, 7, -3, 2.5, "2"]),
    Case({"multipleOf": 2}, [4, 10, *OTHERS], [7, 1.5]),
    Case({"multipleOf": 1, "type": "number"}, [0, 5, -12], [0.5, 1.25]),
    Case({"multipleOf": 7, "type": "integer"}, [0, 7, 14, 70, -21, 700, 2401], [1, 6, 8, 71]),
    Case({"multipleOf": 100, "type": "integer"}, [0, 100, 1200, -300], [1, 10, 110, 101]),
    Case({"multipleOf": 0.01, "type": "number"}, [0, 0.01, 4.02, 19.99, 3, -0.5], [0.001, 4.025]),
    Case({"multipleOf": 0.5, "type": "number"}, [0, 0.5, 1, 1.5, -2.5], [0.25, 1.1]),
    Case({"multipleOf": 1e-4, "type": "number"}, [0.0075, 1, 2.5], [0.00751]),
    Case({"multipleOf": 1.5, "type": "integer"}, [0, 3, 6, -9], [1, 2, 4]),
    Case({"multipleOf": 5, "minimum": 0, "maximum": 100, "type": "integer"}, [0, 5, 50, 95, 100],
         [-5, 1, 99, 105]),
    Case({"multipleOf": 3, "minimum": -7, "maximum": 7, "type": "integer"}, [-6, -3, 0, 3, 6],
         [-9, 9, 1, -7]),
    Case({"multipleOf": 10, "exclusiveMinimum": 0, "type": "integer"}, [10, 20, 1000], [0, 5, -10],
         drafts=FROM_6),
]  # fmt: skip


@of_each(CASES)
def test_numbers(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("schema", "matched", "others"),
    [
        ({"type": "number"}, ["0", "-0.5", "1e5", "2.5E-3", "1e+7"], ["01", ".5", "1.", "+1", "-"]),
        ({"type": "integer"}, ["0", "-1", "120"], ["1.5", "00", "-01", "1e-1", "0x1", "\u0661"]),
        ({"type": "number", "maximum": 5}, ["5", "4.9", "-3"], ["5.0001", "1e1", "50e0", "1e400"]),
        ({"type": "number", "minimum": 5}, ["5", "5.1", "10"], ["4.999", "1e-5", "-1e10"]),
        ({"type": "integer", "maximum": 99}, ["99", "-100"], ["100", "1e2", "9.9e2"]),
        ({"type": "integer", "multipleOf": 4}, ["4", "100"], ["1e-1", "6", "4.5", "2e0"]),
    ],
)
def test_how_numbers_are_written(schema: object, matched: list[str], others: list[str]) -> None:
    grammar = compiled("json_schema", json.dumps(schema))
    assert [text for text in matched if not matches(grammar, text)] == []
    assert [text for text in others if matches(grammar, text)] == []


BOUNDS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]
HOLDS: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "minimum": lambda number, bound: number >= bound,
    "maximum": lambda number, bound: number <= bound,
    "exclusiveMinimum": lambda number, bound: number > bound,
    "exclusiveMaximum": lambda number, bound: number < bound,
    "multipleOf": lambda number, divisor: number % divisor == 0,
}


def some_number(random: Random) -> str:
    """In plain digits, with few of them more often."""
    whole = random.choice([0, 1, 9, 10, 12, 99, 100, 1234, 10**12])
    rest = random.choice(["", "", "", ".5", ".25", ".05", ".999", ".0001"])
    return random.choice(["", "-"] if whole or rest else [""]) + str(whole) + rest


@pytest.mark.parametrize("part", range(4))
def test_random_bounds(part: int) -> None:
    """Exact, by fractions: what is written holds, and plain numbers that hold are matched."""
    served = 0
    for seed in range(part * 30, part * 30 + 30):
        random = Random(seed)
        bounds = {
            name: some_number(random) if name != "multipleOf" else random.choice(DIVISORS)
            for name in random.sample(BOUNDS, random.randint(1, 3))
        }
        kind = random.choice(["integer", "number"])
        members = "".join(f', "{name}": {text}' for name, text in bounds.items())
        try:
            grammar = compiled("json_schema", f'{{"type": "{kind}"{members}}}')
        except GuideError:  # no number is between
            continue
        served += 1

        def holds(text: str, bounds: dict[str, str] = bounds, kind: str = kind) -> bool:
            number = Fraction(text)
            is_right = kind == "number" or number.denominator == 1
            return is_right and all(HOLDS[n](number, Fraction(b)) for n, b in bounds.items())

        for _ in range(20):
            written = write(grammar, random, eager=random.randrange(12))
            assert holds(written), (kind, bounds, written)
        for text in [*bounds.values(), *(some_number(random) for _ in range(20))]:
            if kind == "number" or "." not in text:
                assert matches(grammar, text) == holds(text), (kind, bounds, text)
    assert served > 15


DIVISORS = ["1", "2", "7", "10", "0.5", "0.01", "0.25", "3", "100", "0.1"]
