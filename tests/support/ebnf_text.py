"""The text of an EBNF grammar, as the library reads it, in plain rules: no reader of ours is used.

The syntax is that of xgrammar (its documentation, "EBNF grammar"): rules, strings, classes, groups,
alternatives, counts, and the mark `(= ...)`, which promises what follows and changes no language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count, pairwise

ROOT = "root"
Ranges = tuple[tuple[int, int], ...]
Element = str | Ranges  # the name of a rule, or one character
Alternative = tuple[Element, ...]
LAST = 0x10FFFF  # the first is U+0001: no text holds U+0000
TOKEN = re.compile(
    r"""\s*(?:(?P<mark>\(=)|(?P<name>[A-Za-z_.-][\w.-]*)(?P<is>\s*::=)?
    |(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<class>\[(?:[^\]\\\n]|\\.)*\])
    |(?P<count>\{\s*\d+\s*(?:,\s*\d*\s*)?\})|(?P<sign>[()|*+?]))""",
    re.VERBOSE,
)
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))|(.)", re.S)
LETTERS = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}
COUNTS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(slots=True)
class Rules:
    """Alternatives of each rule; what a group or a count needs is a rule too."""

    rules: dict[str, list[Alternative]] = field(default_factory=dict)
    fresh: count[int] = field(default_factory=count)

    def add(self, alternatives: list[Alternative]) -> str:
        """A new rule's name."""
        name = f"({next(self.fresh)})"
        self.rules[name] = alternatives
        return name


def parse_rules(text: str) -> dict[str, list[Alternative]]:
    """The rules of a grammar; fails on what it does not know."""
    found = Rules()
    tokens = _tokens(text)
    while tokens:
        kind, name = tokens.pop(0)
        assert kind == "rule", name
        assert name not in found.rules, name
        end = next((n for n, (kind, _) in enumerate(tokens) if kind == "rule"), len(tokens))
        body, tokens = tokens[:end][::-1], tokens[end:]
        found.rules[name] = _alternatives(found, body)
        assert not body, body
    called = {e for rule in found.rules.values() for a in rule for e in a if isinstance(e, str)}
    assert called <= found.rules.keys(), called - found.rules.keys()
    return found.rules


def _tokens(text: str) -> list[tuple[str, str]]:
    found, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = TOKEN.match(text, place)
        assert match, text[place : place + 60]
        kind = str(match.lastgroup)
        place = match.end()
        found.append(("rule", match["name"]) if kind == "is" else (kind, match[kind]))
    return found


def _alternatives(found: Rules, tokens: list[tuple[str, str]]) -> list[Alternative]:
    """Up to the end or the bracket that closes the group; `tokens` begin with the last."""
    alternatives: list[list[Element]] = [[]]
    while tokens and tokens[-1] != ("sign", ")"):
        kind, word = tokens.pop()
        if (kind, word) == ("sign", "|"):
            alternatives.append([])
        elif kind == "mark":
            _alternatives(found, tokens)
            assert tokens.pop() == ("sign", ")")
        elif kind == "count" or word in COUNTS:
            least, most = COUNTS.get(word) or _count(word)
            alternatives[-1][-1:] = [_repeated(found, alternatives[-1][-1], least, most)]
        else:
            alternatives[-1] += _element(found, kind, word, tokens)
    return [tuple(one) for one in alternatives]


def _element(
    found: Rules, kind: str, word: str, tokens: list[tuple[str, str]]
) -> tuple[Element, ...]:
    if kind == "name":
        return (word,)
    if kind == "class":
        return (_class(word[1:-1]),)
    if kind == "string":
        inner = tuple(((c, c),) for c, _ in _characters(word[1:-1]))
        # A count behind a string repeats all of it.
        counted = bool(tokens) and (tokens[-1][0] == "count" or tokens[-1][1] in COUNTS)
        return (found.add([inner]),) if counted and len(inner) != 1 else inner
    assert (kind, word) == ("sign", "("), word
    inside = _alternatives(found, tokens)
    assert tokens.pop() == ("sign", ")")
    return (found.add(inside),)


def _count(word: str) -> tuple[int, int | None]:
    least, comma, most = word.strip("{}").partition(",")
    if not comma:
        return int(least), int(least)
    return int(least), int(most) if most.strip() else None


def _repeated(found: Rules, element: Element, least: int, most: int | None) -> str:
    if most is None:
        loop = found.add([])
        found.rules[loop] = [(), (element, loop)]
        return found.add([(*[element] * least, loop)])
    rest = found.add([()])
    for _ in range(most - least):
        rest = found.add([(), (element, rest)])
    return found.add([(*[element] * least, rest)])


def _characters(text: str) -> list[tuple[int, bool]]:
    """Code points, and whether each was escaped."""
    found = []
    for two, four, eight, letter, plain in ESCAPE.findall(text):
        if two or four or eight:
            found.append((int(two or four or eight, 16), True))
        else:
            found.append((ord(LETTERS.get(letter, letter) or plain), bool(letter)))
    return found


def _class(text: str) -> Ranges:
    is_negated = text.startswith("^")
    characters = _characters(text[is_negated:])
    spans, place = [], 0
    while place < len(characters):
        first = last = characters[place][0]
        if characters[place + 1 : place + 2] == [(ord("-"), False)] and place + 2 < len(characters):
            last = characters[place + 2][0]
            place += 2
        assert first <= last
        spans.append((first, last))
        place += 1
    if not is_negated:
        return tuple(sorted(spans))
    edges = [0, *(edge for span in _merged(spans) for edge in span), LAST + 1]
    gaps = [(low + 1, high - 1) for low, high in list(pairwise(edges))[::2]]
    return tuple(gap for gap in gaps if gap[0] <= gap[1])


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
