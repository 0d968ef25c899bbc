"""Random EBNF grammars: what the library gets matches the same texts as the guide itself says."""

from __future__ import annotations

from random import Random

import pytest
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError

from tests.support.guide_matching import Recognizer, compiled, matches, write

ATOMS = ['"a"', '"ab"', '"b"', '""', "[a-c]", "[^a]", "[b-]", '"\\n"', '"é"', "[\\u00e0-\\u00ff]"]
COUNTS = ["*", "+", "?", "{2}", "{1,3}", "{2,}", "{0,2}"]


def random_grammar(random: Random) -> str:
    """Some rules; each calls only rules behind it, or itself behind a character."""
    count = random.randint(1, 4)
    lines = [f"root ::= {_expression(random, 2, count, 0)}"]
    for number in range(1, count):
        tail = f' | "c" r{number}' if random.random() < 0.4 else ""
        lines.append(f"r{number} ::= {_expression(random, 2, count, number)}{tail}")
    return "\n".join(lines)


def _expression(random: Random, depth: int, count: int, number: int) -> str:
    kind = random.randrange(5) if depth else 0
    if kind == 0:
        later = [f"r{other}" for other in range(number + 1, count)]
        return random.choice([*ATOMS, *later, *later])
    parts = [_expression(random, depth - 1, count, number) for _ in range(random.randint(1, 3))]
    if kind <= 2:
        return " ".join(parts)
    return f"({' | '.join(parts)})" + (random.choice(COUNTS) if kind == 4 else "")


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_the_same_texts(first: int) -> None:
    served = 0
    for seed in range(first, first + 100):
        random = Random(seed)
        guide = random_grammar(random)
        said = Recognizer(guide)
        try:
            printed = compiled("ebnf_grammar", guide)
        except GuideError:
            continue
        served += 1
        for one in (said, printed):
            for _ in range(6):
                text = write(one, random, eager=12)
                place = random.randrange(len(text) + 1)
                other = text[:place] + random.choice("abcé\n") + text[place + 1 :]
                for tried in (text, text[:-1], text + "a", other):
                    assert matches(said, tried) == matches(printed, tried), (guide, tried)
        assert printed.readings <= 1, guide
    assert served > 80
