"""Follows one JSON value while its text comes, in any pieces, and finds its end or its first fault.

`json` of the standard library reads only whole documents. Here each character is read once, and no
text is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_DEPTH = 128  # Python's own reader and others recurse
_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_LITERALS = {"t": "rue", "f": "alse", "n": "ull"}
_CLOSING = {"{": "}", "[": "]"}
_DIGITS = dict.fromkeys("0123456789", "")
# A number: for each place in it, what the next character leads to.
_NUMBER: dict[str, dict[str, str]] = {
    "minus": {**dict.fromkeys("123456789", "whole"), "0": "zero"},
    "zero": {".": "point", "e": "e", "E": "e"},
    "whole": {**dict.fromkeys(_DIGITS, "whole"), ".": "point", "e": "e", "E": "e"},
    "point": dict.fromkeys(_DIGITS, "fraction"),
    "fraction": {**dict.fromkeys(_DIGITS, "fraction"), "e": "e", "E": "e"},
    "e": {**dict.fromkeys(_DIGITS, "exponent"), "+": "sign", "-": "sign"},
    "sign": dict.fromkeys(_DIGITS, "exponent"),
    "exponent": dict.fromkeys(_DIGITS, "exponent"),
}
_NUMBER_ENDS = ("zero", "whole", "fraction", "exponent")
_NUMBER_BEGINS = {**dict.fromkeys("123456789", "whole"), "0": "zero", "-": "minus"}

_Step = Callable[[str, int], int]


class JsonScanner:
    """Feed it text until it is `done` or `broken`."""

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self._open: list[str] = []  # brackets
        self._step: _Step = self._value
        self._in_key = False
        self._rest = ""  # of a literal
        self._place = ""  # in a number
        self._digits = 0  # of a \u escape, still to come

    def feed(self, text: str, at: int = 0) -> int:
        """Read on at `text[at]`; return where the value, its fault or the text ends."""
        while at < len(text) and not (self.done or self.broken):
            at = self._step(text, at)
        return at

    def _next(self, step: _Step, at: int) -> int:
        self._step = step
        return at

    def _fault(self, at: int) -> int:
        self.broken = True
        return at

    def _ended(self, at: int) -> int:
        """One value is complete."""
        self.done = not self._open
        return self._next(self._after_value, at)

    def _opened(self, bracket: str, at: int) -> int:
        if len(self._open) == MAX_DEPTH:
            return self._fault(at)
        self._open.append(bracket)
        return self._next(self._first_key if bracket == "{" else self._first_item, at + 1)

    def _closed(self, at: int) -> int:
        self._open.pop()
        return self._ended(at + 1)

    def _value(self, text: str, at: int) -> int:
        at = _skip(text, at)
        if at == len(text):
            return at
        character = text[at]
        if character in _CLOSING:
            return self._opened(character, at)
        if character == '"':
            return self._next(self._string, at + 1)
        if character in _LITERALS:
            self._rest = _LITERALS[character]
            return self._next(self._literal, at + 1)
        if character in _NUMBER_BEGINS:
            self._place = _NUMBER_BEGINS[character]
            return self._next(self._number, at + 1)
        return self._fault(at)

    def _first_item(self, text: str, at: int) -> int:
        at = _skip(text, at)
        if at == len(text):
            return at
        return self._closed(at) if text[at] == "]" else self._value(text, at)

    def _first_key(self, text: str, at: int) -> int:
        at = _skip(text, at)
        if at == len(text):
            return at
        return self._closed(at) if text[at] == "}" else self._key(text, at)

    def _key(self, text: str, at: int) -> int:
        at = _skip(text, at)
        if at == len(text):
            return at
        if text[at] != '"':
            return self._fault(at)
        self._in_key = True
        return self._next(self._string, at + 1)

    def _colon(self, text: str, at: int) -> int:
        at = _skip(text, at)
        if at == len(text):
            return at
        return self._next(self._value, at + 1) if text[at] == ":" else self._fault(at)

    def _after_value(self, text: str, at: int) -> int:
        at = _skip(text, at)
        if at == len(text):
            return at
        bracket = self._open[-1]
        if text[at] == _CLOSING[bracket]:
            return self._closed(at)
        if text[at] != ",":
            return self._fault(at)
        return self._next(self._key if bracket == "{" else self._value, at + 1)

    def _string(self, text: str, at: int) -> int:
        found = _PLAIN.match(text, at)
        at = found.end() if found else at
        if at == len(text):
            return at
        if text[at] == "\\":
            return self._next(self._escape, at + 1)
        if text[at] != '"':
            return self._fault(at)
        if self._in_key:
            self._in_key = False
            return self._next(self._colon, at + 1)
        return self._ended(at + 1)

    def _escape(self, text: str, at: int) -> int:
        if text[at] == "u":
            self._digits = 4
            return self._next(self._hexadecimal, at + 1)
        return self._next(self._string, at + 1) if text[at] in '"\\/bfnrt' else self._fault(at)

    def _hexadecimal(self, text: str, at: int) -> int:
        if text[at] not in "0123456789abcdefABCDEF":
            return self._fault(at)
        self._digits -= 1
        return self._next(self._hexadecimal if self._digits else self._string, at + 1)

    def _literal(self, text: str, at: int) -> int:
        if text[at] != self._rest[0]:
            return self._fault(at)
        self._rest = self._rest[1:]
        return at + 1 if self._rest else self._ended(at + 1)

    def _number(self, text: str, at: int) -> int:
        place = _NUMBER[self._place].get(text[at])
        if place is not None:
            self._place = place
            return at + 1
        return self._ended(at) if self._place in _NUMBER_ENDS else self._fault(at)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
