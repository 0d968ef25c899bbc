"""Guides that are regular expressions, against Python's `re`."""

from __future__ import annotations

import re
import time
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf
from token_engine.openvino_runtime.guide_grammar.regex import parse_regex

from tests.support.guide_matching import compiled, matches, write

PATTERNS = [
    "a", "", "ab|cd", "(ab|cd)*", "a?b+c*", "a{2}b{1,3}c{2,}", "[a-c]{3,5}", "[^a-c]x", ".b",
    "a(b(c|d)?)*e", r"\d{4}-\d{2}-\d{2}", r"\w+@\w+\.[a-z]{2,3}", r"\S+\s\S+", "(a|ab)(c|bcd)",
    "(a+)+b", "(a|a)*b", "((a*)*)*", "(.*)(.*)(.*)!", r"\$\^\.\[\]", r"[\]\-\\^]+", "[a\\-z]",
    "é|日本|[ж-я]{2}", r"\u00e9\x41", "(?:ab)+", "a*?b??", "^ab$", "^(a|b)$", "(|a)b", "[-a]+",
    r"[\w.-]+", "x{0}y", "(a{0,2}){0,2}", r"\t\n", "[^\\W\\d]+",
]  # fmt: skip


def test_the_same_texts_as_python() -> None:
    """All short texts over a small alphabet, and random ones that the automaton writes."""
    for pattern in PATTERNS:
        grammar = compiled("regex", pattern)
        expected = re.compile(pattern, re.ASCII)
        for length in range(5):
            for letters in product("abc!é", repeat=length):
                text = "".join(letters)
                assert matches(grammar, text) == bool(expected.fullmatch(text)), (pattern, text)
        for seed in range(50):
            text = write(grammar, Random(seed))
            assert expected.fullmatch(text), (pattern, text)
            assert matches(grammar, text)


atoms = st.sampled_from(["a", "b", "c", "[ab]", "[^a]", ".", r"\w", "é"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}"])),
    ),
    max_leaves=12,
)


@given(patterns, st.lists(st.text("abcé\n", max_size=6), max_size=8), st.integers(0, 9))
def test_random_patterns_match_as_in_python(pattern: str, texts: list[str], seed: int) -> None:
    grammar = compiled("regex", pattern)
    written = write(grammar, Random(seed), eager=20)
    # JavaScript's "." leaves out more line ends than Python's; here it leaves out all of them.
    expected = re.compile(pattern.replace(".", r"[^\n\r\u2028\u2029]"), re.ASCII)
    assert expected.fullmatch(written)
    for text in [*texts, written, written[:-1], written + "a"]:
        assert matches(grammar, text) == bool(expected.fullmatch(text))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a(?=b)", r"a group that begins with '\(\?' at character 2"),
        ("(?<=a)b", "begins with"),
        ("(?P<x>a)", "begins with"),
        (r"(a)\1", r"the escape '\\1'"),
        (r"\bword", r"the escape '\\b'"),
        (r"\p{L}", r"the escape '\\p'"),
        ("a**", "repeats a repetition"),
        ("a*+", "repeats a repetition"),
        ("*a", r"'\*' where it means nothing"),
        ("a{3,2}", r"the count \{3,2\}"),
        ("a{10001}", r"the count \{10001\}"),
        ("a{x}", "begins no count"),
        ("a{", "begins no count"),
        ("(a", r"'\(' without '\)'"),
        ("a)", r"'\)' where it means nothing"),
        ("[a", "does not end"),
        ("[]", "does not end or is empty"),
        ("[z-a]", "a range in a class that is none"),
        (r"[\d-z]", "a range in a class that is none"),
        ("a^b", r"'\^' where it means nothing"),
        ("a$b", r"'\$' where it means nothing"),
        ("^a|b", "beside"),
        ("\\", "the escape"),
        (r"\u12", "unfinished escape"),
        (r"\ud83d", r"U\+D83D"),
        (r"\x00", r"U\+0000"),
        ("(" * 65 + "a" + ")" * 65, "nests groups too deeply"),
    ],
)
def test_refused(pattern: str, message: str) -> None:
    with pytest.raises(GuideError, match=message) as error:
        parse_regex(pattern)
    assert "must " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a|b)*a(a|b){20}", "needs more than 10000 states"),
        ("((a{1,100}){1,100}){1,100}", "needs more than 100000 points"),
        (r"[^\u0001-\uD7FF\uE000-\uFFFF]", None),
        (r"[^\s\S]", "matches no text at all"),
        (r"a[^\s\S]b|[^\d\D]", "matches no text at all"),
    ],
)
def test_what_only_the_automaton_shows(pattern: str, message: str | None) -> None:
    started = time.process_time()
    if message is None:
        assert matches(compiled("regex", pattern), "\U0001f600")
    else:
        with pytest.raises(GuideError, match=message):
            guide_to_ebnf("regex", pattern)
    assert time.process_time() - started < 10


def test_no_class_holds_a_surrogate() -> None:
    for pattern in (r"[a-\uffff]", "[^a]", ".", r"\D"):
        grammar = compiled("regex", pattern)
        assert not any(matches(grammar, chr(c)) for c in (0xD800, 0xDBFF, 0xDC00, 0xDFFF))
        assert all(matches(grammar, chr(c)) for c in (0xD7FF, 0xE000))


def test_a_branch_that_cannot_end_is_left_out() -> None:
    """A matcher that entered it would be stuck there."""
    printed = guide_to_ebnf("regex", r"ab|ac[^\s\S]d")
    assert printed == 'root ::= r0s0\nr0s0 ::= "ab"\n'
