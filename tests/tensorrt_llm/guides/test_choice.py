"""Guides that are a list of strings, against the list itself and Python's `re`."""

from __future__ import annotations

import json
import re
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from request_inputs.guide_bounds import MAX_BYTES
from token_engine.choices import choice_as_regex
from token_engine.interface import Guide
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf

from tests.support.guide_matching import check_guide, compiled, matches, write

ODD = [
    *("q\"uo'te", "back\\slash", "new\nline", "\r", "\t", "\x01", "\x7f", "\x85", "\u2028", " "),
    *("é日本😀", "[a-z]+(x)", "a|b", "a/b", "-", "^$", "{2}", "a{2}", "#", "\\n", "\\d", ".", "a"),
]
characters = st.sampled_from('ab"\\\n[](){}|.*+?^$é😀-')
lists = st.lists(st.text(characters, max_size=5), min_size=1, max_size=8).filter(any)


@given(lists, st.lists(st.text(characters, max_size=5), max_size=8))
def test_one_of_them_and_nothing_else(choices: list[str], others: list[str]) -> None:
    guide = json.dumps(choices)
    grammar = compiled("choice", guide)
    pattern = re.compile(choice_as_regex(Guide("choice", guide)).text)
    near = [text[:-1] for text in choices] + [text + "a" for text in choices]
    for text in [*choices, *others, *near]:
        expected = text in choices
        assert matches(grammar, text) == expected
        assert bool(pattern.fullmatch(text)) == expected
    assert {write(grammar, Random(seed)) for seed in range(9)} <= {*choices}


def test_strings_that_look_like_something_else() -> None:
    guide = json.dumps([*ODD, *ODD, ""])
    check_guide("choice", guide)
    grammar = compiled("choice", guide)
    assert all(matches(grammar, text) for text in [*ODD, ""])
    assert not any(matches(grammar, text + "b") for text in ODD if text != "a")


def test_a_guide_full_of_strings_makes_a_small_grammar() -> None:
    numbers = [np.base_repr(number, 22) for number in range(10_000)]  # most have three digits
    guide = json.dumps(numbers, separators=(",", ":"))
    check_guide("choice", guide)
    assert len(guide_to_ebnf("choice", guide)) < 1000
    random = Random(1)
    words = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=4)) for _ in range(9_000)]
    full = json.dumps(words, separators=(",", ":"))
    check_guide("choice", full)
    assert len(guide_to_ebnf("choice", full)) < 4 * MAX_BYTES
    one = json.dumps(["x" * (MAX_BYTES - 4)])
    assert len(guide_to_ebnf("choice", one)) < MAX_BYTES + 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it must be a string with the type choice"),
        ("yes", "is not JSON .*; it must be a JSON list of strings"),
        ('"yes"', 'is "yes"; it must be a JSON list of strings, such as'),
        ('{"a": "b"}', 'is {"a": "b"}; it must be a JSON list'),
        ("[]", "has no string but empty ones; it must have at least one"),
        ('[""]', "has no string but empty ones"),
        ('["a", 1]', "has 1 at place 1 of the list; it must be a JSON list of strings"),
        ('["a", ["b"]]', r'has \["b"\] at place 1'),
        ('["a", null]', "has null at place 1"),
        ('["a\\u0000"]', r"has U\+0000 in the string at place 0 of the list"),
        ('["\\ud800"]', r"has U\+D800 in the string at place 0"),
        ("[" * 30_000, "nests 30000 deep"),
        ("[" + "1" * 5000 + "]", "is not JSON"),
        ('["' + "a" * MAX_BYTES + '"]', "has 65540 bytes"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^guided_decoding_guide {message}") as error:
        check_guide("choice", text)
    assert " must " in str(error.value)
    assert len(str(error.value)) < 400
