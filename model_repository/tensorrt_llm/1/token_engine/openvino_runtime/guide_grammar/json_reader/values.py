"""JSON's own texts as grammar rules: any value, string and number.

A value stands on one line, with or without a space after a comma or colon, and its numbers have
bounded digits: so no model can go on with white space or zeros forever, as small ones tend to.
"""

from __future__ import annotations

import json
from typing import Any

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    Alt,
    Call,
    Chars,
    GuideError,
    Node,
    Ranges,
    Repeat,
    Seq,
    literal,
    one_of,
    optional,
    single,
    union,
    without,
)

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
MAX_DIGITS = 20  # before the point, and after it
# Names of rules that no schema's rule can have: those begin with "#".
STRING, NUMBER, INTEGER, VALUE = "JSON string", "JSON number", "JSON integer", "JSON value"
REST = "rest of a JSON string"  # the closing quotation mark included
SHARED = frozenset((STRING, NUMBER, INTEGER, VALUE, REST))
DIGIT = one_of("0123456789")
DIGITS_OF_16 = "0123456789abcdefABCDEF"
HEX = one_of(DIGITS_OF_16)
SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
MUST_ESCAPE: Ranges = union([(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])
PLAIN = Chars(without(ALPHABET, MUST_ESCAPE))

DIGITS = Seq((DIGIT, Repeat(DIGIT, 0, MAX_DIGITS - 1)))
_POSITIVE = Seq((one_of("123456789"), Repeat(DIGIT, 0, MAX_DIGITS - 1)))
COMMA = Seq((literal(","), optional(literal(" "))))
COLON = Seq((literal(":"), optional(literal(" "))))


def json_rules() -> dict[str, Node]:
    """The rules named above."""
    rest = Seq((Repeat(Alt((PLAIN, _escape())), 0, None), single('"')))
    constants = tuple(literal(word) for word in ("true", "false", "null"))
    return {
        STRING: Seq((single('"'), rest)),
        REST: rest,
        NUMBER: _number(),
        INTEGER: Alt((literal("0"), Seq((optional(literal("-")), _POSITIVE)))),
        VALUE: Alt((Call(STRING), Call(NUMBER), *constants, object_or_array())),
    }


def object_or_array() -> Node:
    """Any JSON object or array; the values within it are calls of `VALUE`."""
    member = Seq((Call(STRING), COLON, Call(VALUE)))
    return Alt((braced("{", member, None, "}"), braced("[", Call(VALUE), None, "]")))


def braced(left: str, item: Node, most: int | None, right: str) -> Node:
    """At most `most` items between braces."""
    rest = Repeat(Seq((COMMA, item)), 0, None if most is None else most - 1)
    return Seq((single(left), optional(Seq((item, rest))), single(right)))


def json_text(value: Any) -> str:
    """One value, written in one way."""
    try:
        return _ENCODER.encode(value)
    except ValueError:
        raise GuideError(
            "has a number that is not finite; it must be one that JSON can write"
        ) from None


def _number() -> Node:
    whole = Alt((literal("0"), _POSITIVE))
    fraction = Seq((literal("."), DIGITS))
    exponent = Seq((one_of("eE"), optional(one_of("+-")), DIGIT, optional(DIGIT)))
    return Seq((optional(literal("-")), whole, optional(fraction), optional(exponent)))


def _escape() -> Node:
    """A backslash and what follows it. Halves of surrogate pairs come only as a pair.

    U+0000 is left out: a pattern that excludes it, `[^\\x00]`, is like any other text here.
    """
    not_0, not_0_or_d, d = one_of(DIGITS_OF_16[1:]), one_of("123456789abcABCeEfF"), one_of("dD")
    zeros = (Seq((literal("0" * n), not_0, *[HEX] * (3 - n))) for n in (1, 2, 3))
    single = Alt((Seq((not_0_or_d, HEX, HEX, HEX)), *zeros, Seq((d, one_of("01234567"), HEX, HEX))))
    high = Seq((d, one_of("89abAB"), HEX, HEX))
    low = Seq((literal("\\u"), d, one_of("cdefCDEF"), HEX, HEX))
    unicode = Seq((literal("u"), Alt((single, Seq((high, low))))))
    return Seq((literal("\\"), Alt((one_of('"\\/bfnrt'), unicode))))
