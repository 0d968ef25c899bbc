"""JSON's own texts as grammar rules: values, and the strings of a length, a format or a pattern.

A value stands on one line, with or without a space after a comma or colon, and its numbers have
bounded digits: so no model can go on with white space or zeros forever, as small ones tend to.
"""

from __future__ import annotations

import json
import math
from functools import cache, partial
from typing import Any

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    Alt,
    Call,
    Chars,
    GuideError,
    Later,
    Node,
    Ranges,
    Repeat,
    Seq,
    literal,
    one_of,
    optional,
    overlap,
    single,
    union,
    without,
)
from token_engine.openvino_runtime.guide_grammar.regex import MAX_COUNT, Regex, parse_regex

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
MAX_DIGITS = 20  # before the point, and after it
# Names of rules that no schema's rule can have: those begin with "#".
STRING, NUMBER, INTEGER, VALUE = "JSON string", "JSON number", "JSON integer", "JSON value"
SHARED = frozenset((STRING, NUMBER, INTEGER))
DIGIT = one_of("0123456789")
HEX = one_of("0123456789abcdefABCDEF")
SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
MUST_ESCAPE: Ranges = union([(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])
PLAIN = Chars(without(ALPHABET, MUST_ESCAPE))

DIGITS = Seq((DIGIT, Repeat(DIGIT, 0, MAX_DIGITS - 1)))
_POSITIVE = Seq((one_of("123456789"), Repeat(DIGIT, 0, MAX_DIGITS - 1)))
COMMA = Seq((literal(","), optional(literal(" "))))
COLON = Seq((literal(":"), optional(literal(" "))))


def json_rules() -> dict[str, Node]:
    """The rules named above."""
    constants = tuple(literal(word) for word in ("true", "false", "null"))
    return {
        STRING: quoted(Repeat(Alt((PLAIN, _escape())), 0, None)),
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


def quoted(node: Node) -> Node:
    """In quotation marks."""
    return Seq((single('"'), node, single('"')))


def json_literal(value: Any) -> Node:
    """One value, written in one way."""
    try:
        text = _ENCODER.encode(value)
    except ValueError:
        raise GuideError(
            "has a number that is not finite; it must be one that JSON can write"
        ) from None
    return literal(text)


def is_finite(value: object) -> bool:
    """Whether it is a number that JSON can write."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _number() -> Node:
    whole = Alt((literal("0"), _POSITIVE))
    fraction = Seq((literal("."), DIGITS))
    exponent = Seq((one_of("eE"), optional(one_of("+-")), DIGIT, optional(DIGIT)))
    return Seq((optional(literal("-")), whole, optional(fraction), optional(exponent)))


def _escape() -> Node:
    """What follows the backslash. Halves of surrogate pairs come only as a pair."""
    below_d, d = one_of("0123456789abcABCeEfF"), one_of("dD")
    single = Alt((Seq((below_d, HEX, HEX, HEX)), Seq((d, one_of("01234567"), HEX, HEX))))
    high = Seq((d, one_of("89abAB"), HEX, HEX))
    low = Seq((literal("\\u"), d, one_of("cdefCDEF"), HEX, HEX))
    unicode = Seq((literal("u"), Alt((single, Seq((high, low))))))
    return Seq((literal("\\"), Alt((one_of('"\\/bfnrt'), unicode))))


_DAY = (
    "((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)"
    "|02-(0[1-9]|1\\d|2[0-8]))"
)
_DATE = f"[1-9]\\d{{3}}-{_DAY}"
_ZONE = "(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
_TIME = f"([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{{1,6}})?{_ZONE}"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9\\-]{0,61}[A-Za-z0-9])?"
_BYTE = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": f"[A-Za-z0-9_+\\-]+(\\.[A-Za-z0-9_+\\-]+)*@{_LABEL}(\\.{_LABEL})+",
    "ipv4": f"{_BYTE}(\\.{_BYTE}){{3}}",
    "uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}


def string_of_length(least: int, most: int | None) -> Node:
    """So many characters, each written as itself or by a two-character escape."""
    if max(least, most or 0) > MAX_COUNT or (most is not None and most < least):
        raise GuideError(
            f"has strings of {str(least)[:40]} to {str(most)[:40]} characters; "
            f"it must be 0 <= minLength <= maxLength <= {MAX_COUNT}"
        )
    return quoted(Repeat(_encoded(Chars(ALPHABET)), least, most))


def string_of_pattern(pattern: str) -> Node:
    """A match anywhere in the string, as JSON schema has it, unless `^` and `$` are there."""
    return Later(partial(_matching, parse_regex(pattern)))


def _matching(regex: Regex) -> Node:
    return quoted(_encoded(regex.search(Repeat(Chars(ALPHABET), 0, None))))


def string_of_format(name: str) -> Node:
    """A string of one of `FORMATS`."""
    if name not in FORMATS:
        raise GuideError(f"has the format {name[:40]!r}; it must be one of {', '.join(FORMATS)}")
    return _of_format(name)


@cache
def _of_format(name: str) -> Node:
    return quoted(_encoded(parse_regex(FORMATS[name]).node))


def _encoded(node: Node) -> Node:
    """What `node` matches, as JSON writes it within quotation marks.

    Control characters that have no short escape are left out.
    """
    if isinstance(node, Chars):
        plain = Chars(without(node.ranges, MUST_ESCAPE))
        escapes = "".join(
            letter
            for character, letter in SHORT_ESCAPES.items()
            if overlap(node.ranges, ((ord(character), ord(character)),))
        )
        if not escapes:
            return plain
        return Alt((plain, Seq((literal("\\"), one_of(escapes)))))
    if isinstance(node, Seq):
        return Seq(tuple(_encoded(item) for item in node.items))
    if isinstance(node, Alt):
        return Alt(tuple(_encoded(item) for item in node.items))
    if isinstance(node, Repeat):
        return Repeat(_encoded(node.item), node.least, node.most)
    return node
