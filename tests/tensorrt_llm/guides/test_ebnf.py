"""Guides that are grammars in EBNF, against plain definitions of their languages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import product
from random import Random

import pytest
from token_engine.openvino_runtime.guide_grammar.ebnf import parse_ebnf
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf

from tests.support.guide_matching import compiled, matches, write

ARITHMETIC = """
root ::= sum                        # the rules may be in any order
sum  ::= term ([+-] term)*
term ::= [0-9]+ | "(" sum ")"
"""
BRACKETS = 'root ::= ("(" root ")" | "[" root "]")*'
CHOICE = 'root ::= "yes" | "yep"\n | "no" tail\ntail ::= "!"{1,2} |'
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x01-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


def is_balanced(text: str) -> bool:
    while (shorter := text.replace("()", "").replace("[]", "")) != text:
        text = shorter
    return not text


def is_sum(text: str) -> bool:
    term = "(?:[0-9]+|n)"  # n stands for what was in brackets
    terms = f"{term}(?:[+-]{term})*"
    while (shorter := re.sub(rf"\({terms}\)", "n", text)) != text:
        text = shorter
    return bool(re.fullmatch(terms, text))


@pytest.mark.parametrize(
    ("grammar", "letters", "most", "test"),
    [
        (BRACKETS, "()[]", 6, is_balanced),
        (ARITHMETIC, "1+(-)", 6, is_sum),
        (CHOICE, "yesnop!", 5, {"yes", "yep", "no", "no!", "no!!"}.__contains__),
        (
            'root ::= "a" root "b" | "ab"',
            "ab",
            8,
            lambda text: text == "a" * (len(text) // 2) + "b" * (len(text) // 2) and text,
        ),
        (
            'root ::= "x" rest\nrest ::= "y" root | ""',
            "xy",
            7,
            lambda t: ("xy" * 9)[: len(t)] == t and len(t) % 2 == 1,
        ),
        (
            'root ::= [^\\]\\-[^] "\\\\" | [\\U0001F600-\\U0001F64F]',
            "]-[^\\😀a",
            2,
            lambda text: (
                text == "😀" or (len(text) == 2 and text[0] in "\\😀a" and text[1] == "\\")
            ),
        ),
    ],
)
def test_the_plain_definition(
    grammar: str, letters: str, most: int, test: Callable[[str], object]
) -> None:
    automata = compiled("ebnf_grammar", grammar)
    for length in range(most + 1):
        for characters in product(letters, repeat=length):
            text = "".join(characters)
            assert matches(automata, text) == bool(test(text)), text


def test_the_grammar_of_json_that_others_ship() -> None:
    """llama.cpp's json.gbnf: recursion through two rules, and white space that may be absent."""
    automata = compiled("ebnf_grammar", JSON)
    for seed in range(200):
        text = write(automata, Random(seed))
        assert isinstance(json.loads(text), dict)
        assert matches(automata, text)
        assert not matches(automata, text[:-1].rstrip("} \n\t"))
    assert matches(automata, '{"a": [1, -2.5e+3, {"b": null}], "\\u00e9": ""}')
    assert not matches(automata, '{"a": 1,}')


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('rule ::= "a"', "has no rule 'root'"),
        ("# nothing", "has no rule 'root'"),
        ("root ::= other", "calls the rule 'other' in line 1"),
        ('root ::= "a"\nroot ::= "b"', "defines the rule 'root' again in line 2"),
        ('root ::= "a', "has '\"' in line 1"),
        ('root ::= "a\n"', "has '\"' in line 1"),
        ('root ::= ("a"', "has 'the end' in line 1"),
        ('root ::= "a")', r"has '\)' in line 1"),
        ('root = "a"', "has '=' in line 1"),
        ('"a" ::= root', "has '\"a\"' in line 1"),
        ('root ::= "a" (="b")', r"has '\(=' in line 1"),
        ('root ::= TagDispatch(("a", root))', "has ',' in line 1"),
        ('root ::= "a"{2,1}', r"the count \{2,1\}"),
        ('root ::= "a"{10001}', r"the count \{10001\}"),
        ('root ::= "a"{,2}', r"the count \{,2\}"),
        ("root ::= *", r"has '\*' in line 1"),
        ('root ::= "a"**', r"has '\*' in line 1"),
        (r'root ::= "\q"', r"the escape \\q"),
        (r'root ::= "\ud800"', r"has \\ud800"),
        (r'root ::= "\x00"', r"has \\x00"),
        ("root ::= []", "in line 1 has a class that does not end or is empty"),
        ("root ::= [z-a]", "in line 1 has a range"),
        (r"root ::= [\U00110000]", r"in line 1 has U\+110000"),
        ("root ::= " + "(" * 65 + '"a"' + ")" * 65, "nests parentheses more than 64 deep"),
    ],
)
def test_refused(grammar: str, message: str) -> None:
    with pytest.raises(GuideError, match=message) as error:
        parse_ebnf(grammar)
    assert "must " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('root ::= s\ns ::= s "a" | "a"', r"begins the rule 's' with itself \(s -> s\)"),
        ('root ::= a\na ::= b "x" | "y"\nb ::= "z"? a', "begins the rule 'a' with itself"),
        ('root ::= s "!"\ns ::= [a-z] s s | [a-z]', "a rule 's' that 'a' may go on or follow"),
        ('root ::= s "!"\ns ::= [a-z] s [a-z] | [a-z]', "may go on or follow"),
        ('root ::= "(" root ")" | "((x"', "alternatives to 'root' that begin with"),
        ("root ::= root", "with itself|matches no text"),
        ('root ::= "a" b\nb ::= "b" b', "matches no text at all"),
        ("root ::= " + " ".join(f"a{i}" for i in range(2)) + "\n" + "\n".join(
            f"a{i} ::= a{i + 1} a{i + 1}" for i in range(40)) + '\na40 ::= "x"', "points"),
        ("root ::= a0\n" + "\n".join(
            f"a{i} ::= a{i + 1}" for i in range(400)) + '\na400 ::= "x"', "more than 300 deep"),
        ("root ::= " + " | ".join(f"a{i}" for i in range(201)) + "\n" + "\n".join(
            f'a{i} ::= "{i}," a{i} | "{i}."' for i in range(201)), "has 201 recurring rules"),
    ],
)  # fmt: skip
def test_what_only_the_automaton_shows(grammar: str, message: str) -> None:
    with pytest.raises(GuideError, match=message) as error:
        guide_to_ebnf("ebnf_grammar", grammar)
    assert "must " in str(error.value)


def test_a_nullable_root_that_recurs() -> None:
    automata = compiled("ebnf_grammar", 'root ::= ("(" root ")")?')
    assert [text for text in ("", "()", "(())", "(", "())") if matches(automata, text)] == [
        "",
        "()",
        "(())",
    ]
