"""Sets of characters that a regex names: \\d \\w \\s, Unicode's general categories, both cases."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache

from token_engine.openvino_runtime.guide_grammar.grammar import ALPHABET, Ranges, union, without

# Of ASCII, as xgrammar reads them, the default backend of the other runtimes.
DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
CLASSES: dict[str, Ranges] = {
    "d": DIGITS, "D": without(ALPHABET, DIGITS), "w": WORD, "W": without(ALPHABET, WORD),
    "s": SPACE, "S": without(ALPHABET, SPACE),
}  # fmt: skip
# In a pattern of a JSON schema, which is JavaScript's: all of Unicode's spaces and line ends.
SPACES: Ranges = (
    *SPACE, (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
CLASSES_OF_PATTERNS = {**CLASSES, "s": SPACES, "S": without(ALPHABET, SPACES)}
LONG_NAMES = {
    "Letter": "L", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll", "Mark": "M", "Number": "N",
    "Decimal_Number": "Nd", "Punctuation": "P", "Symbol": "S", "Separator": "Z", "Other": "C",
}  # fmt: skip
# fmt: off
CATEGORIES = frozenset((
    "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc",
    "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C",
    "Cc", "Cf", "Cn", "Co",
))
# fmt: on
# Everything beyond these is private use or not assigned (Unicode 16).
ASSIGNED = (range(0x1, 0x323B0), range(0xE0000, 0xE01F0))
PRIVATE: Ranges = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
LAST_CASED = 0x1E943


def category(name: str) -> Ranges | None:
    """The characters of a general category, as this Python's Unicode has them; None for no such."""
    short = LONG_NAMES.get(name, name)
    return _category(short) if short in CATEGORIES else None


@lru_cache(maxsize=64)
def _category(name: str) -> Ranges:
    assigned = _assigned()
    if name == "Cn":
        every = union(span for ranges in assigned.values() for span in ranges)
        return without(ALPHABET, every)
    if name == "C":
        return union([*(span for one in ("Cc", "Cf", "Co") for span in assigned[one]),
                      *_category("Cn")])  # fmt: skip
    return union(
        span for one, ranges in assigned.items() if one.startswith(name) for span in ranges
    )


@lru_cache(maxsize=1)
def _assigned() -> dict[str, Ranges]:
    """By category, without those of surrogates and of no character."""
    spans: dict[str, list[tuple[int, int]]] = {"Co": [*PRIVATE]}
    category_of = unicodedata.category
    for numbers in ASSIGNED:
        for number in numbers:
            spans.setdefault(category_of(chr(number)), []).append((number, number))
    return {name: union(them) for name, them in spans.items() if name not in ("Cs", "Cn")}


def in_both_cases(ranges: Ranges) -> Ranges:
    """With the upper and lower case of each of its letters, where that is one character."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _both_cases(chr(ranges[0][0]))
    return union([*ranges, *(span for letter in _cased_in(ranges) for span in _both_cases(letter))])


def count_cased(ranges: Ranges) -> int:
    """How many of its characters have two cases."""
    cased = _cased()
    return sum(bisect_left(cased, last + 1) - bisect_left(cased, first) for first, last in ranges)


def _cased_in(ranges: Ranges) -> Iterator[str]:
    cased = _cased()
    for first, last in ranges:
        for number in cased[bisect_left(cased, first) : bisect_left(cased, last + 1)]:
            yield chr(number)


@lru_cache(maxsize=4096)
def _both_cases(letter: str) -> Ranges:
    cases = (letter, letter.lower(), letter.upper())
    return union((ord(case), ord(case)) for case in cases if len(case) == 1)


@lru_cache(maxsize=1)
def _cased() -> list[int]:
    letters = map(chr, range(1, LAST_CASED + 1))
    return [ord(letter) for letter in letters if letter.lower() != letter.upper()]
