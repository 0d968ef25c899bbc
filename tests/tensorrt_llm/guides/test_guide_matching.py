"""The tests' own matcher says of every text what the library says under the same grammar."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf

from tests.support.guide_matching import Recognizer, compiled, matches, write
from tests.support.library_matching import LibraryMatcher
from tests.tensorrt_llm.guides.test_ebnf import ARITHMETIC, BRACKETS
from tests.tensorrt_llm.guides.test_json_schema import SCHEMAS
from tests.tensorrt_llm.guides.test_regex import PATTERNS

GUIDES = [
    ("json", ""),
    *(("regex", pattern) for pattern in PATTERNS),
    *(("json_schema", json.dumps(schema)) for schema in SCHEMAS),
    *(("ebnf_grammar", text) for text in (ARITHMETIC, BRACKETS)),
]
PLAIN = {
    'root ::= "abc"': {"abc"},
    'root ::= "a"{2,3} | "b"+ "c"?': {"aa", "aaa", "b", "bbb", "bc", "bbbc"},
    'root ::= ("ab")* [^a-c] (= "x")': {"d", "abd", "ababé", "\n"},
    'root ::= ([x-z-] root)? "" | "\\u20ac\\x41"': {"", "x", "z-", "€A", "-€A"},
}
OTHERS = ["a", "aaaa", "c", "ab", "abcabc", "abab", "éa", "x\n"]


def changed(text: str, random: Random) -> str:
    """The text with one character less, more or another."""
    place = random.randrange(len(text) + 1)
    put = str(random.choice(["", *'",:{}[]\\ 019-.aez', "é"]))
    return text[:place] + put + text[place + random.randrange(2) :]


def test_plain_grammars(tmp_path: Path) -> None:
    texts = sorted({*OTHERS, *(text for accepted in PLAIN.values() for text in accepted)})
    library = LibraryMatcher(texts, tmp_path)
    for grammar, accepted in PLAIN.items():
        ours = Recognizer(grammar)
        found = {text for text in texts if matches(ours, text)}
        assert found == {t for n, t in enumerate(texts) if library.matches(grammar, n)}
        assert found >= accepted
        assert "abcabc" not in found


@pytest.mark.parametrize("kind", ["json", "regex", "json_schema", "ebnf_grammar"])
def test_the_printed_grammars_of_guides(kind: str, tmp_path: Path) -> None:
    random = Random(1)
    guides = [text for one, text in GUIDES if one == kind]
    cases = [
        (guide, text)
        for guide in guides
        for written in (write(compiled(kind, guide), random, eager=30) for _ in range(6))
        for text in (written, changed(written, random), changed(written, random))
    ]
    library = LibraryMatcher([text for _, text in cases], tmp_path)
    agreed = []
    for number, (guide, text) in enumerate(cases):
        ours = matches(compiled(kind, guide), text)
        assert library.matches(guide_to_ebnf(kind, guide), number) == ours, (guide, text)
        agreed.append(ours)
    assert 0.2 < sum(agreed) / len(agreed) < 0.95
