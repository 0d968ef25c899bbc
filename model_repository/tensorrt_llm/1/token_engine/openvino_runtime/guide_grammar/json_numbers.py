"""Numbers of a JSON schema between bounds, written digit by digit, without exponents."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from token_engine.openvino_runtime.guide_grammar.grammar import (
    Alt,
    Chars,
    GuideError,
    Later,
    Node,
    Repeat,
    Seq,
    literal,
    one_of,
    optional,
)
from token_engine.openvino_runtime.guide_grammar.json_values import (
    DIGIT,
    DIGITS,
    MAX_DIGITS,
    is_finite,
)

LARGEST = 10**MAX_DIGITS - 1
FRACTION = Seq((literal("."), DIGITS))
# Not zero: at most half of the digits are leading zeros.
SOME_FRACTION = Seq(
    (
        literal("."),
        Repeat(literal("0"), 0, MAX_DIGITS // 2),
        one_of("123456789"),
        Repeat(DIGIT, 0, MAX_DIGITS // 2),
    )
)
NOTHING = Alt(())


def integers_between(schema: dict[str, Any]) -> Node:
    """The integers within `minimum`, `maximum`, `exclusiveMinimum` and `exclusiveMaximum`."""
    low, high = -LARGEST, LARGEST
    for name, bound in _bounds(schema):
        if name == "minimum":
            low = max(low, math.ceil(bound))
        elif name == "exclusiveMinimum":
            low = max(low, math.floor(bound) + 1)
        elif name == "maximum":
            high = min(high, math.floor(bound))
        else:
            high = min(high, math.ceil(bound) - 1)
    if low > high:
        raise GuideError("has bounds that no integer is between; one must be")
    return Later(partial(_integers, low, high))


def _integers(low: int, high: int) -> Node:
    return Alt((_negative(_whole(max(1, -high), -low)), _whole(max(0, low), high)))


def numbers_between(schema: dict[str, Any]) -> Node:
    """The numbers within the same bounds, which must be integers here."""
    low, high = -LARGEST, LARGEST
    low_open = high_open = False
    for name, bound in _bounds(schema):
        if bound != int(bound):
            raise GuideError(f"has {name} {bound!r}; it must be an integer")
        if name.endswith("inimum") and (int(bound), name != "minimum") > (low, low_open):
            low, low_open = int(bound), name != "minimum"
        elif name.endswith("aximum") and (-int(bound), name != "maximum") > (-high, high_open):
            high, high_open = int(bound), name != "maximum"
    if low > high or (low == high and (low_open or high_open)):
        raise GuideError("has bounds that no number is between; one must be")
    return Later(partial(_numbers, low, low_open, high, high_open))


def _numbers(low: int, low_open: bool, high: int, high_open: bool) -> Node:
    negative: Node = NOTHING
    positive: Node = NOTHING
    if low < 0:  # "-0" is left out
        above_zero = high >= 0
        negative = _negative(_magnitudes(max(0, -high), above_zero or high_open, -low, low_open))
    if high >= 0:
        positive = _magnitudes(max(0, low), low_open and low >= 0, high, high_open)
    return Alt((negative, positive))


def _bounds(schema: dict[str, Any]) -> list[tuple[str, float]]:
    bounds: list[tuple[str, float]] = []
    for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if name in schema:
            bound = schema[name]
            if not is_finite(bound) or abs(bound) > LARGEST:
                raise GuideError(
                    f"has {name} {str(bound)[:40]}; "
                    f"it must be a number of at most {MAX_DIGITS} digits"
                )
            bounds.append((name, bound))
    return bounds


def _magnitudes(low: int, low_open: bool, high: int, high_open: bool) -> Node:
    """The numbers from `low` >= 0 to `high`, without the ends that are open."""
    inner = _whole(low + 1 if low_open else low, high - 1)
    items: list[Node] = [Seq((inner, optional(FRACTION)))]
    if low_open and low < high:
        items.append(Seq((literal(str(low)), SOME_FRACTION)))
    if not high_open and not (low_open and low == high):
        items.append(literal(str(high)))
    return Alt(tuple(items))


def _negative(node: Node) -> Node:
    return Seq((literal("-"), node))


def _whole(low: int, high: int) -> Node:
    """The integers from `low` >= 0 to `high`."""
    items: list[Node] = []
    while low <= high:
        last = min(high, 10 ** len(str(low)) - 1)  # of as many digits
        items.append(_same_length(str(low), str(last)))
        low = last + 1
    return Alt(tuple(items))


def _same_length(low: str, high: str) -> Node:
    if not low.strip("0") and not high.strip("9"):
        return Repeat(DIGIT, len(low), len(low))
    rest = len(low) - 1
    if low[0] == high[0]:
        return Seq((literal(low[0]), _same_length(low[1:], high[1:])))
    items = [
        Seq((literal(low[0]), _same_length(low[1:], "9" * rest))),
        Seq((literal(high[0]), _same_length("0" * rest, high[1:]))),
    ]
    if ord(high[0]) - ord(low[0]) > 1:
        between = Chars(((ord(low[0]) + 1, ord(high[0]) - 1),))
        items.append(Seq((between, Repeat(DIGIT, rest, rest))))
    return Alt(tuple(items))
