"""Numbers of a JSON schema: bounds, multiples and excluded values, all at once.

An automaton reads a number digit by digit, and compares it on the way with each constant that the
schema names. It has no exponent, and no minus sign before a zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from token_engine.openvino_runtime.guide_grammar.grammar import Chars, Graph, GuideError, Node
from token_engine.openvino_runtime.guide_grammar.json_reader.languages import (
    Language,
    both,
    explored,
    without,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.values import MAX_DIGITS

MOST_REMAINDERS = 1_000
FEWEST_DIGITS = 6  # of a multiple, however large the divisor
MOST_DIGITS = 15  # of a multiple: with more, the nearest float may be none
LESS, EQUAL, GREATER = -1, 0, 1


@dataclass(frozen=True, slots=True)
class Bound:
    """What a comparison with `value` must say: a subset of -1, 0 and 1."""

    value: Fraction
    allowed: frozenset[int]

    def holds(self, number: Fraction) -> bool:
        """Whether a number is within."""
        return (number > self.value) - (number < self.value) in self.allowed


@dataclass(frozen=True, slots=True)
class Multiple:
    """Whether the number must be a multiple of `divisor`, or must not."""

    divisor: Fraction
    wanted: bool

    def holds(self, number: Fraction) -> bool:
        """Whether it is as wanted."""
        return (number % self.divisor == 0) is self.wanted


Condition = Bound | Multiple


@dataclass(frozen=True, slots=True)
class _Constant:
    """The digits of a constant's magnitude, before and after the point."""

    whole: str
    rest: str


# Where the reader is: the part, whether it is negative, digits of this part so far, for each
# constant what the comparison said so far, for each divisor the remainder (None for no multiple),
# whether any digit was not zero.
_Place = tuple[str, bool, int, tuple[int, ...], tuple["int | None", ...], bool]


def numbers(conditions: Iterable[Condition], is_integer: bool) -> Language:
    """All numbers that meet the conditions; raises `GuideError`."""
    found = _one(None, is_integer)
    for condition in conditions:
        if isinstance(condition, Multiple) and not condition.wanted:
            multiple = Multiple(condition.divisor, True)
            # Only among numbers of so many digits are all multiples known.
            end = Fraction(10 ** _Reader([multiple], is_integer).digits)
            for bound in (Bound(end, frozenset((LESS,))), Bound(-end, frozenset((GREATER,)))):
                found = both(found, _one(bound, is_integer))
            found = without(found, _one(multiple, is_integer))
        else:
            found = both(found, _one(condition, is_integer))
    return found


@lru_cache(maxsize=512)
def _one(condition: Condition | None, is_integer: bool) -> Language:
    return _Reader([] if condition is None else [condition], is_integer).language()


def graph_of(language: Language) -> Node:
    """The language as a node."""
    edges = tuple(
        (state, Chars(ranges), target)
        for state, moves in enumerate(language.moves)
        for ranges, target in moves
    )
    ends = frozenset(state for state, accepts in enumerate(language.accepts) if accepts)
    return Graph(edges, ends)


class _Reader:
    def __init__(self, conditions: list[Condition], is_integer: bool) -> None:
        self._is_integer = is_integer
        self._bounds = [one for one in conditions if isinstance(one, Bound)]
        self._multiples = [one for one in conditions if isinstance(one, Multiple)]
        self._constants = [_constant(one.value) for one in self._bounds]
        self._scales = [_scale(one.divisor) for one in self._multiples]
        largest = max((divisor for _, divisor in self._scales), default=1)
        most = MOST_DIGITS if self._scales else MAX_DIGITS
        self.digits = max(FEWEST_DIGITS, min(most, 2 * MOST_REMAINDERS // largest))

    def language(self) -> Language:
        start: _Place = (
            "start", False, 0, (EQUAL,) * len(self._bounds), (0,) * len(self._multiples), False
        )  # fmt: skip
        return explored(start, self._moves, self._accepts)

    def _moves(self, place: _Place) -> Iterable[tuple[tuple[int, int], _Place]]:
        part, negative, count, compared, remainders, some = place
        if part == "start" and not negative:
            yield _span("-"), ("start", True, 0, compared, remainders, False)
        if part in ("whole", "zero") and not self._is_integer:
            ended = tuple(
                LESS if count < len(constant.whole) else said
                for constant, said in zip(self._constants, compared, strict=True)
            )
            yield _span("."), ("point", negative, 0, ended, remainders, some)
        if part == "zero" or count >= (MAX_DIGITS if part in ("point", "rest") else self.digits):
            return
        read = {"start": "whole", "point": "rest"}.get(part, part)
        for digit in "0123456789":
            after = tuple(
                _remainder(remainder, scale, read, count, int(digit))
                for scale, remainder in zip(self._scales, remainders, strict=True)
            )
            if None in after:
                continue
            said = tuple(
                _compared(said, constant, read, count, digit)
                for constant, said in zip(self._constants, compared, strict=True)
            )
            is_zero = part == "start" and digit == "0"
            yield (
                _span(digit),
                (
                    "zero" if is_zero else read,
                    negative,
                    count + 1,
                    said,
                    after,
                    some or digit != "0",
                ),
            )

    def _accepts(self, place: _Place) -> bool:
        part, negative, count, compared, remainders, some = place
        if part in ("start", "point") or (negative and not some):
            return False
        for bound, constant, said in zip(self._bounds, self._constants, compared, strict=True):
            if _ordered(bound, constant, part, negative, count, said) not in bound.allowed:
                return False
        return all(
            remainder is not None and _padded(remainder, scale, part, count) == 0
            for scale, remainder in zip(self._scales, remainders, strict=True)
        )


def _span(character: str) -> tuple[int, int]:
    return ord(character), ord(character)


def _constant(value: Fraction) -> _Constant:
    magnitude = abs(value)
    whole, rest = divmod(magnitude, 1)
    digits = ""
    while rest and len(digits) < 400:
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
    return _Constant(str(whole), digits)


def _compared(said: int, constant: _Constant, part: str, count: int, digit: str) -> int:
    """The comparison of the digits so far, when this one is read as number `count` of its part."""
    if part in ("whole", "zero"):
        if count >= len(constant.whole):
            return GREATER  # it has more digits
        other = constant.whole[count]
    else:
        other = constant.rest[count : count + 1] or "0"
    return said or (digit > other) - (digit < other)


def _ordered(
    bound: Bound, constant: _Constant, part: str, negative: bool, count: int, said: int
) -> int:
    """How the number that ends here compares with the bound's value."""
    if part in ("whole", "zero"):
        if count < len(constant.whole):
            said = LESS
        if said == EQUAL and constant.rest:
            said = LESS
    elif said == EQUAL and len(constant.rest) > count:
        said = LESS
    if negative:
        return -said if bound.value < 0 else LESS
    return said if bound.value >= 0 else GREATER


def _scale(divisor: Fraction) -> tuple[int, int]:
    """The digits behind the point that count, and the divisor times that power of ten."""
    if divisor <= 0:
        raise GuideError(f"has multipleOf {divisor}; it must be more than 0")
    decimals = 0
    while (divisor * 10**decimals).denominator > 1 and decimals <= MAX_DIGITS:
        decimals += 1
    scaled = divisor * 10**decimals
    if scaled.denominator > 1 or scaled.numerator > MOST_REMAINDERS:
        raise GuideError(
            f"has multipleOf {str(float(divisor))[:40]}; "
            f"it must have a remainder of less than {MOST_REMAINDERS} in its last digit"
        )
    return decimals, scaled.numerator


def _remainder(
    remainder: int | None, scale: tuple[int, int], part: str, count: int, digit: int
) -> int | None:
    decimals, divisor = scale
    if remainder is None or (part == "rest" and count >= decimals):
        return remainder if not digit else None
    return (remainder * 10 + digit) % divisor


def _padded(remainder: int, scale: tuple[int, int], part: str, count: int) -> int:
    decimals, divisor = scale
    missing = decimals - min(count, decimals) if part == "rest" else decimals
    return int(remainder * 10**missing % divisor)
