"""Guides that are regular expressions, against Python's `re`."""

from __future__ import annotations

import contextlib
import importlib
import re
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from token_engine.openvino_runtime.guide_grammar.automaton import make_deterministic
from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    ROOT,
    Chars,
    Grammar,
    GuideError,
    Repeat,
)
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf
from token_engine.openvino_runtime.guide_grammar.printer import print_ebnf
from token_engine.openvino_runtime.guide_grammar.regex import parse_regex

from tests.support.everyday_regexes import EVERYDAY, OF_UNICODE
from tests.support.guide_matching import Recognizer, compiled, matches, write

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


def quietly(compile_pattern: Callable[..., Any], pattern: str, flags: int) -> Any:
    """Compile it, without the warning of a '[' in a class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return compile_pattern(pattern, flags)


def texts_of(pattern: str) -> st.SearchStrategy[tuple[str, str]]:
    """The pattern with a text that Hypothesis finds for it."""
    texts = st.from_regex(quietly(re.compile, pattern, re.ASCII), fullmatch=True)
    return texts.map(lambda text: (pattern, text))


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


def near(text: str, random: Random) -> Iterator[str]:
    """Texts that differ from it in one place."""
    for _ in range(6):
        at = random.randrange(len(text) + 1)
        other = random.choice('aZ0 -.,:\n"é日😀_' + text)
        yield random.choice(
            (
                text[:at] + text[at + 1 :],
                text[:at],
                text[:at] + other + text[at:],
                text[:at] + other + text[at + 1 :],
            )
        )


@pytest.mark.parametrize(
    ("patterns", "reference"),
    [(EVERYDAY, re), (OF_UNICODE, importlib.import_module("regex"))],
    ids=["re", "regex"],
)
def test_everyday_patterns_match_the_same_texts(patterns: list[str], reference: Any) -> None:
    for pattern in patterns:
        grammar = compiled("regex", pattern)
        flags = re.ASCII if reference is re else 0
        expected = quietly(reference.compile, pattern, flags)
        random = Random(pattern)
        for _ in range(12):
            text = write(grammar, random, eager=20)
            if any(unicodedata.category(character) == "Cn" for character in text):
                continue  # the package knows a newer Unicode than this Python
            assert expected.fullmatch(text), (pattern, text)
            for other in near(text, random):
                assert matches(grammar, other) == bool(expected.fullmatch(other)), (pattern, other)


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@given(st.sampled_from(EVERYDAY).flatmap(texts_of))
def test_no_text_of_an_everyday_pattern_is_left_out(example: tuple[str, str]) -> None:
    pattern, text = example
    assume(not set(text) & set("\0\r\u2028\u2029"))  # "." leaves them out, as in JavaScript
    assert matches(compiled("regex", pattern), text), pattern


anchored = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "^", "$", ""]),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("(?:{})?".format, inner),
    ),
    max_leaves=10,
)


@given(anchored)
def test_anchors_wherever_they_stand(pattern: str) -> None:
    expected = re.compile(pattern)
    texts = ["".join(text) for length in range(5) for text in product("ab", repeat=length)]
    anything = Repeat(Chars(ALPHABET), 0, None)
    for node, matched in (
        (parse_regex(pattern).node, [text for text in texts if expected.fullmatch(text)]),
        (parse_regex(pattern).search(anything), [text for text in texts if expected.search(text)]),
    ):
        found: list[str] = []
        with contextlib.suppress(GuideError):  # it matches no text at all
            grammar = Recognizer(print_ebnf(make_deterministic(Grammar({ROOT: node}))))
            found = [text for text in texts if matches(grammar, text)]
        assert found == matched


def test_a_letter_in_both_cases() -> None:
    for pattern in ("(?i)straße|[ж-ф]é", "(?i:[a-cк-м])É", "(?i)[^aé]b"):
        grammar, expected = compiled("regex", pattern), re.compile(pattern)
        random = Random(1)
        for _ in range(50):
            text = write(grammar, random)
            assert expected.fullmatch(text)
            for other in (text.upper(), text.lower(), text.swapcase()):
                assert matches(grammar, other) == bool(expected.fullmatch(other)), (pattern, other)
    assert not matches(compiled("regex", "(?i)k"), "\u212a")  # KELVIN SIGN, which nobody means


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a(?=b)", r"^has look-ahead '\(\?=' at character 2; it must be a pattern without it$"),
        ("a(?!b)", r"has look-ahead '\(\?!'"),
        ("(?<=a)b", r"has look-behind '\(\?<='"),
        ("(?<!a)b", r"has look-behind '\(\?<!'"),
        (r"(a)\1", r"has a back reference '\\1' at character 3"),
        (r"(?P<x>a)(?P=x)", r"has a back reference '\(\?P='"),
        (r"(?<x>a)\k<x>", r"has a back reference '\\k'"),
        (r"\bword", r"has a word boundary '\\b' at character 0"),
        (r"a\B", r"has a word boundary '\\B'"),
        ("(?>a+)", r"has an atomic group '\(\?>'"),
        ("a*+", "has a possessive repetition"),
        ("a{2,3}+", "has a possessive repetition"),
        ("(a)(?(1)b|c)", r"has a conditional group '\(\?\('"),
        ("a(?R)?", r"has recursion '\(\?R'"),
        ("(?#x)a", r"has a comment '\(\?#'"),
        ("(?m)^a$", r"has the flag 'm' at character 4; it must be \(\?i\), \(\?s\) or \(\?a\)"),
        ("(?x) a", "has the flag 'x'"),
        ("(?u:a)", "has the flag 'u'"),
        ("(?'x'a)", r"a group that begins with '\(\?'x'"),
        ("[[:alpha:]]", r"has a POSIX class '\[:'"),
        (r"\p{Han}", r"has the property '\{Han\}' .* must be a general category"),
        (r"\p", "has the property ''"),
        (r"\x{110000}", r"has U\+110000"),
        (r"\q", r"has the escape '\\q'"),
        ("a{,3}", r"has the count \{,3\} at character 1; it must be \{0,3\}"),
        ("(^a)*", r"repeats '\^' or '\$'"),
        ("(a$){2}", r"repeats '\^' or '\$'"),
        ("^" * 51, r"has more than 50 of '\^' and '\$'"),
        ("{3}", r"has '\{' where it means nothing"),
        ("|*", r"has '\*' where it means nothing"),
        ("(?i)" + "[ -\uffff]" * 30, "matches more than 50000 letters in both cases"),
        ("a**", "repeats a repetition"),
        ("a{2}{3}", "repeats a repetition"),
        ("*a", r"'\*' where it means nothing"),
        ("a{3,2}", r"the count \{3,2\}"),
        ("a{10001}", r"the count \{10001\}"),
        ("(a", r"'\(' without '\)'"),
        ("a)", r"'\)' where it means nothing"),
        ("[a", "does not end"),
        ("[]", "does not end or is empty"),
        ("[z-a]", "a range in a class that is none"),
        (r"[\d-z]", "a range in a class that is none"),
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
        ("((a{1,100}){1,100}){1,100}", "needs more than 200000 points"),
        (r"[^\u0001-\uD7FF\uE000-\uFFFF]", None),
        ("a^b|b$c", "matches no text at all"),
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
