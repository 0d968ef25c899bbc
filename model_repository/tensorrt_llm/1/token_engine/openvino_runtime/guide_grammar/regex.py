"""A regular expression, read into a grammar node.

The dialect is what Python's `re` (with `re.ASCII`) and JavaScript share and a finite automaton can
do: literals, `.`, classes, `\\d \\w \\s` and their complements, groups, `|`, the
repetitions `* + ? {m} {m,} {m,n}` (a lazy one matches the same texts), `^` at the beginning and `$`
at the end. Look-around, back references, `\\b`, flags and Unicode properties are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    Alt,
    Chars,
    GuideError,
    Node,
    Ranges,
    Repeat,
    sequence,
    shown,
    single,
    union,
    without,
)

MAX_DEPTH = 64  # groups within groups
MAX_COUNT = 10_000  # in {m,n}
DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
ANY = Chars(without(ALPHABET, LINE_ENDS))
CLASSES: dict[str, Ranges] = {
    "d": DIGITS, "D": without(ALPHABET, DIGITS), "w": WORD, "W": without(ALPHABET, WORD),
    "s": SPACE, "S": without(ALPHABET, SPACE),
}  # fmt: skip
CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
REPETITIONS = ("*", "+", "?", "{")
HEX_LENGTHS = {"x": 2, "u": 4}
HEX_LENGTHS_IN_EBNF = {**HEX_LENGTHS, "U": 8}
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
PUNCTUATION = frozenset("^$\\.*+?()[]{}|/-!\"#%&',:;<=>@_`~ ")


@dataclass(frozen=True, slots=True)
class Regex:
    """What it matches, and whether `^` and `$` stood at its ends."""

    node: Node
    anchored_start: bool
    anchored_end: bool


def parse_regex(pattern: str) -> Regex:
    """Read it; raises `GuideError`."""
    return _Parser(pattern).whole()


def parse_class_of_ebnf(text: str) -> Chars:
    """Read `[...]` as an EBNF grammar writes it: '[' needs no backslash, \\UHHHHHHHH is known."""
    return _Parser(text, in_ebnf=True).lone_class()


class _Parser:
    def __init__(self, pattern: str, in_ebnf: bool = False) -> None:
        self._text = pattern
        self._in_ebnf = in_ebnf
        self._hex_lengths = HEX_LENGTHS_IN_EBNF if in_ebnf else HEX_LENGTHS
        self._at = 0
        self._depth = 0
        self._parted = False  # whether a '|' stands outside of all groups

    def whole(self) -> Regex:
        text = self._text
        anchored_start = text.startswith("^")
        self._at = int(anchored_start)
        node = self._alternatives()
        anchored_end = self._peek() == "$" and self._at == len(text) - 1
        self._at += int(anchored_end)
        if self._at < len(text):
            raise self._error(f"has {text[self._at]!r} where it means nothing")
        if self._parted and (anchored_start or anchored_end):
            # The libraries read ^a|b$ as (^a)|(b$), which nobody means.
            raise self._error("has '|' beside '^' or '$'", "'^(...|...)$'")
        return Regex(node, anchored_start, anchored_end)

    def lone_class(self) -> Chars:
        self._at = 1
        return Chars(self._character_class())

    def _alternatives(self) -> Node:
        items = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            self._parted |= not self._depth
            items.append(self._sequence())
        return items[0] if len(items) == 1 else Alt(tuple(items))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while (character := self._peek()) not in ("", "|", ")"):
            if character == "$" and self._at == len(self._text) - 1 and not self._depth:
                break
            node = self._atom()
            items.append(self._repeated(node) if self._peek() in REPETITIONS else node)
        return sequence(items)

    def _repeated(self, node: Node) -> Node:
        character = self._peek()
        if character in ("*", "+", "?"):
            self._at += 1
            node = Repeat(node, int(character == "+"), 1 if character == "?" else None)
        else:
            node = Repeat(node, *self._counts())
        if self._peek() == "?":  # lazy: the same texts
            self._at += 1
        if self._peek() in REPETITIONS:
            raise self._error("repeats a repetition", "a group around the inner one")
        return node

    def _counts(self) -> tuple[int, int | None]:
        end = self._text.find("}", self._at)
        least, comma, most = self._text[self._at + 1 : max(end, self._at)].partition(",")
        if not is_digits(least) or not (most == "" or is_digits(most)):
            raise self._error("has a '{' that begins no count", "{m}, {m,}, {m,n}, or '\\{'")
        low = int(least)
        high = (int(most) if most else None) if comma else low
        if max(low, high or 0) > MAX_COUNT or (high is not None and high < low):
            raise self._error(
                f"has the count {self._text[self._at : end + 1]}", f"0 <= m <= n <= {MAX_COUNT}"
            )
        self._at = end + 1
        return low, high

    def _atom(self) -> Node:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return Chars(self._character_class())
        if character == ".":
            return ANY
        if character == "\\":
            return Chars(self._escape())
        if character in "^$*+?{}]":
            self._at -= 1
            raise self._error(f"has {character!r} where it means nothing", f"'\\{character}'")
        return single(character)

    def _group(self) -> Node:
        if self._peek() == "?":
            if not self._text.startswith("?:", self._at):
                raise self._error("has a group that begins with '(?'", "(...) or (?:...)")
            self._at += 2
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error("nests groups too deeply", f"at most {MAX_DEPTH} levels")
        node = self._alternatives()
        if self._next() != ")":
            raise self._error("has a '(' without ')'", "'\\('")
        self._depth -= 1
        return node

    def _character_class(self) -> Ranges:
        negated = self._peek() == "^"
        self._at += int(negated)
        ranges: set[tuple[int, int]] = set()
        while (character := self._next()) != "]" or not ranges:
            if character in ("", "]") or (character == "[" and not self._in_ebnf):
                raise self._error("has a class that does not end or is empty", "'\\[' or '\\]'")
            ranges.update(self._class_part(character))
        chosen = union(ranges)
        return without(ALPHABET, chosen) if negated else chosen

    def _class_part(self, character: str) -> Ranges:
        first = self._escape() if character == "\\" else _single(ord(character))
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return first
        self._at += 1
        character = self._next()
        last = self._escape() if character == "\\" else _single(ord(character))
        low, high = first[0][0], last[-1][1]
        if not (_is_single(first) and _is_single(last) and low <= high):
            raise self._error("has a range in a class that is none", "[a-z]")
        if low < 0xD800 and high > 0xDFFF:
            return ((low, 0xD7FF), (0xE000, high))
        return ((low, high),)

    def _escape(self) -> Ranges:
        character = self._next()
        if character in CLASSES:
            return CLASSES[character]
        if character in CONTROLS:
            return _single(CONTROLS[character])
        if character in self._hex_lengths:
            length = self._hex_lengths[character]
            digits = self._text[self._at : self._at + length]
            if len(digits) < length or not set(digits) <= HEX_DIGITS:
                raise self._error(f"has the unfinished escape '\\{character}'", "\\xHH or \\uHHHH")
            self._at += len(digits)
            return self._checked(int(digits, 16))
        if character in PUNCTUATION and character:
            return _single(ord(character))
        raise self._error(
            f"has the escape '\\{character}'", "\\d \\w \\s, \\t \\n \\r, \\uHHHH, punctuation"
        )

    def _checked(self, code_point: int) -> Ranges:
        if not any(first <= code_point <= last for first, last in ALPHABET):
            raise self._error(f"has {shown(code_point)}", "U+0001 on, without the surrogates")
        return _single(code_point)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _error(self, wrong: str, needed: str = "what Python and JavaScript share") -> GuideError:
        where = min(self._at, len(self._text))
        return GuideError(f"{wrong} at character {where}; it must be {needed}")


def _single(code_point: int) -> Ranges:
    return ((code_point, code_point),)


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def is_digits(text: str) -> bool:
    """Whether it is a number that takes no time to read."""
    return 0 < len(text) <= 9 and text.isascii() and text.isdigit()
