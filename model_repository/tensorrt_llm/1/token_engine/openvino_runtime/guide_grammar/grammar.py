"""The form into which every kind of guide is read: rules over Unicode characters.

A character is a code point; U+0000 and the surrogates do not count. Character sets are sorted,
disjoint and not adjacent ranges `(first, last)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

Ranges = tuple[tuple[int, int], ...]

ALPHABET: Ranges = ((0x01, 0xD7FF), (0xE000, 0x10FFFF))
ROOT = "root"


class GuideError(ValueError):
    """A guide that cannot be served.

    The message is two clauses, without the input's name: "has no rule root; it must have one".
    """


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Seq:
    """One after the other; nothing at all if it is empty."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """One of them."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`least` to `most` times; `most` None is without end."""

    item: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Graph:
    """What is read along the edges `(from, node, to)`, from point 0 to one of `ends`.

    An edge between two points without reading has the node `EMPTY`.
    """

    edges: tuple[tuple[int, Node, int], ...]
    ends: frozenset[int]


@dataclass(frozen=True, slots=True)
class Call:
    """A match of the rule of that name."""

    rule: str


Node = Chars | Seq | Alt | Repeat | Graph | Call
EMPTY = Seq(())


@dataclass(frozen=True, slots=True)
class Grammar:
    """Rules by name; the output matches the rule "root".

    `shared` names rules that are better called than copied to where they are used.
    """

    rules: dict[str, Node]
    shared: frozenset[str] = field(default_factory=frozenset)


@lru_cache(maxsize=4096)
def single(character: str) -> Chars:
    """This character alone."""
    return Chars(((ord(character), ord(character)),))


def literal(text: str) -> Node:
    """Exactly this text."""
    return Seq(tuple(map(single, text)))


def sequence(items: list[Node]) -> Node:
    """One after the other."""
    if not items:
        return EMPTY
    return items[0] if len(items) == 1 else Seq(tuple(items))


def one_of(characters: str) -> Chars:
    """Any of these characters."""
    return Chars(union((ord(character), ord(character)) for character in characters))


def optional(node: Node) -> Node:
    """Once or not at all."""
    return Repeat(node, 0, 1)


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The set of all characters in any of `ranges`, which may overlap."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def overlap(left: Ranges, right: Ranges) -> Ranges:
    """The characters in both sets."""
    found, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        first, last = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first <= last:
            found.append((first, last))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def without(ranges: Ranges, removed: Ranges) -> Ranges:
    """The characters in the first set and not in the second."""
    kept = []
    for first, last in ranges:
        for low, high in removed:
            if high < first or low > last:
                continue
            if low > first:
                kept.append((first, low - 1))
            first = high + 1
        if first <= last:
            kept.append((first, last))
    return tuple(kept)


def shown(code_point: int) -> str:
    """A character as a message names it."""
    is_shown = code_point <= 0x10FFFF and chr(code_point).isprintable()
    return repr(chr(code_point)) if is_shown else f"U+{code_point:04X}"
