"""Whether the grammar that the library gets for a guide matches a text, and texts that it matches.

Both go by the printed grammar alone (`ebnf_text.py`), and follow every reading of it at once, as
the definition of a grammar says. `library_matching.py` holds them against the library.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from random import Random
from typing import cast

from request_inputs.guide_bounds import check_bounds
from token_engine.interface import Guide, GuideKind
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf
from token_engine.registry import RUNTIMES

from tests.support.ebnf_text import ROOT, Alternative, Element, Ranges, parse_rules

MOST_READINGS = 1000
MOST_STEPS = 100_000  # between two characters
ENDLESS = 10**9


class Place:
    """What is still to be read: the rest of an alternative, and what comes after it."""

    __slots__ = ("after", "items", "number")

    def __init__(self, items: Alternative, number: int, after: Place | None) -> None:
        self.items, self.number, self.after = items, number, after

    def holds(self, character: int) -> bool:
        """Whether it reads this character first; only for a place before one."""
        ranges = cast(Ranges, self.items[self.number])
        return any(first <= character <= last for first, last in ranges)


class Recognizer:
    """A grammar; `readings` is the most that one character of all texts went on in."""

    def __init__(self, ebnf: str) -> None:
        self.rules = parse_rules(ebnf)
        self.readings = 0
        self._cost = _shortest(self.rules)
        self._used: Counter[tuple[str, int]] = Counter()
        self._start: Alternative = (ROOT,)
        self._places: dict[tuple[int, int, int], Place] = {}

    def after(self, text: str) -> list[Place | None]:
        """The open readings behind a text; None among them is the end of the output."""
        self._places.clear()
        places = self._ready([self._place(self._start, 0, None)])
        for character in map(ord, text):
            holding = [place for place in places if place and place.holds(character)]
            self.readings = max(self.readings, len(holding))
            assert self.readings < MOST_READINGS, "the grammar has too many readings"
            places = self._ready([self._next(place) for place in holding])
        return places

    def _ready(self, waiting: list[Place | None]) -> list[Place | None]:
        """The places before a character to which these lead without reading, each once."""
        found: list[Place | None] = []
        seen: set[Place | None] = set()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            if place is None or not isinstance(name := place.items[place.number], str):
                found.append(place)
            else:
                after = self._next(place)
                waiting += [
                    self._place(one, 0, after) if one else after for one in self.rules[name]
                ]
            assert len(seen) < MOST_STEPS, "the grammar begins a rule with itself"
        return found

    def _next(self, place: Place) -> Place | None:
        """Behind the first item; nothing is kept of an alternative that is read to its end."""
        if place.number + 1 < len(place.items):
            return self._place(place.items, place.number + 1, place.after)
        return place.after

    def _place(self, items: Alternative, number: int, after: Place | None) -> Place:
        """One object for all that are alike."""
        key = id(items), number, id(after)
        return self._places.setdefault(key, Place(items, number, after))

    def write(self, random: Random, eager: int) -> str:
        """A random text, rather by ways not taken before; short ones after `eager` characters."""
        waiting: list[Element] = [ROOT]
        text: list[str] = []
        while waiting:
            element = waiting.pop()
            if isinstance(element, str):
                chosen = self._chosen(element, random, len(text) > eager)
                waiting += self.rules[element][chosen][::-1]
            else:
                text.append(chr(_any_of(element, random)))
        return "".join(text)

    def _chosen(self, name: str, random: Random, is_late: bool) -> int:
        costs = [self._sum(one) for one in self.rules[name]]
        if is_late:
            return min(range(len(costs)), key=lambda n: (costs[n], random.random()))
        able = [n for n, cost in enumerate(costs) if cost < ENDLESS]
        chosen = random.choices(able, [1 / (1 + self._used[name, n]) for n in able])[0]
        self._used[name, chosen] += 1
        return chosen

    def _sum(self, items: Alternative) -> int:
        return sum(self._cost[item] if isinstance(item, str) else 1 for item in items)


def _any_of(ranges: Ranges, random: Random) -> int:
    first, last = random.choice(ranges)
    chosen = random.choice((first, last, random.randint(first, last)))
    return chosen if not 0xD800 <= chosen <= 0xDFFF else first


def _shortest(rules: dict[str, list[Alternative]]) -> dict[str, int]:
    """The length of each rule's shortest text, `ENDLESS` if it has none."""
    cost = dict.fromkeys(rules, ENDLESS)
    callers: dict[str, set[str]] = {name: set() for name in rules}
    for name, alternatives in rules.items():
        for item in (item for one in alternatives for item in one if isinstance(item, str)):
            callers[item].add(name)
    waiting = set(rules)
    while waiting:
        name = waiting.pop()
        found = min(
            (
                sum(cost[item] if isinstance(item, str) else 1 for item in one)
                for one in rules[name]
            ),
            default=ENDLESS,
        )
        if found < cost[name]:
            cost[name] = found
            waiting |= callers[name]
    return cost


@lru_cache(maxsize=64)
def compiled(kind: str, text: str) -> Recognizer:
    """The grammar of a guide; raises `GuideError`."""
    return Recognizer(guide_to_ebnf(kind, text))


def matches(grammar: Recognizer, text: str) -> bool:
    """Whether the whole text is in the language."""
    return None in grammar.after(text)


def begins(grammar: Recognizer, text: str) -> bool:
    """Whether some text of the language begins like this."""
    return bool(grammar.after(text))


def write(grammar: Recognizer, random: Random, eager: int = 60) -> str:
    """A random text of the language. After `eager` characters it takes the nearest way out."""
    return grammar.write(random, eager)


def check_guide(kind: str, text: str) -> None:
    """As room 2 checks a guide for the OpenVINO runtime; raises `ValueError`."""
    guide = Guide(cast(GuideKind, kind), text)
    check_bounds(guide)
    check = RUNTIMES["openvino"].check_guide
    assert check is not None
    check(guide)
