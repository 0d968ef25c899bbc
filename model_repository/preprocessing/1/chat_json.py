"""The JSON documents of a chat request, read within bounds.

A document is a request's own data: its size, depth, number of values and numbers are bounded
here, so that nothing after this has to fear a document that is small and costs much.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from typing import Any

MAX_CHARACTERS = 4 << 20
# A template may print JSON with an indent: each value then costs up to 4 * MAX_DEPTH spaces.
MAX_DEPTH = 32
MAX_VALUES = 32_768
MAX_DIGITS = 400  # as many as the largest float has before its point; int() takes quadratic time
SURROGATE = re.compile("[\ud800-\udfff]")
_BRIEF = reprlib.Repr()
_BRIEF.maxstring, _BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxdict = 60, 2, 3, 3


class InvalidMessages(ValueError):
    """The caller's messages or tools cannot be used; one sentence says what is wrong and what is
    allowed."""


def read_json(document: str, called: str) -> Any:
    """The value of a document, its size and numbers within the bounds."""
    if len(document) > MAX_CHARACTERS:
        raise InvalidMessages(
            f"{called} has {len(document)} characters, allowed are {MAX_CHARACTERS}"
        )
    try:
        return json.loads(
            document, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise InvalidMessages(f"{called} is not JSON ({error}), allowed is JSON") from None


def check_bounds(value: Any, called: str, most: int = MAX_DEPTH) -> None:
    """Refuse a value that is too deep, holds too many values or text that is not Unicode."""
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        if count > MAX_VALUES:
            raise InvalidMessages(f"{called} holds over {MAX_VALUES} values, allowed are that many")
        if depth > most:
            raise InvalidMessages(f"{called} is nested over {most} deep, allowed is that depth")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item, called)
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key, called)
                inner += item.values()
        level, depth = inner, depth + 1


def short(value: object) -> str:
    """A value as a sentence can hold it, at a cost that does not grow with the value's depth."""
    return _BRIEF.repr(value)


def _check_text(text: str, called: str) -> None:
    found = None if text.isascii() else SURROGATE.search(text)
    if found:
        raise InvalidMessages(
            f"{called} holds the lone surrogate {found[0]!r}, allowed is Unicode text"
        )


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits, allowed are {MAX_DIGITS}")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {short(text)} is too large")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
