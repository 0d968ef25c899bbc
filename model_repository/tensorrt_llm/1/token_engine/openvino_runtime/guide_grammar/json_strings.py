"""Strings of a JSON schema: their length, pattern or format."""

from __future__ import annotations

from functools import cache, partial

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    Alt,
    Chars,
    GuideError,
    Later,
    Node,
    Repeat,
    Seq,
    literal,
    one_of,
    overlap,
    without,
)
from token_engine.openvino_runtime.guide_grammar.json_values import (
    MUST_ESCAPE,
    SHORT_ESCAPES,
    quoted,
)
from token_engine.openvino_runtime.guide_grammar.regex import MAX_COUNT, Regex, parse_regex

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
            f"has strings of {str(least)[:40]} to {str(most)[:40]} characters, "
            f"allowed is 0 <= minLength <= maxLength <= {MAX_COUNT}"
        )
    return quoted(Repeat(_encoded(Chars(ALPHABET)), least, most))


def string_of_pattern(pattern: str) -> Node:
    """A match anywhere in the string, as JSON schema has it, unless `^` and `$` are there."""
    return Later(partial(_matching, parse_regex(pattern)))


def _matching(regex: Regex) -> Node:
    anything = Repeat(_encoded(Chars(ALPHABET)), 0, None)
    items: list[Node] = [anything] * (not regex.anchored_start)
    items += [_encoded(regex.node)]
    items += [anything] * (not regex.anchored_end)
    return quoted(Seq(tuple(items)))


def string_of_format(name: str) -> Node:
    """A string of one of `FORMATS`."""
    if name not in FORMATS:
        raise GuideError(f"has the format {name[:40]!r}, allowed is one of {', '.join(FORMATS)}")
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
