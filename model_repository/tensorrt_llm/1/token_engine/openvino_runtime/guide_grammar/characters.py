"""Characters in an EBNF grammar, in forms that xgrammar 0.1 (in OpenVINO GenAI 2026.4) gets right.

It prints every grammar and reads it again before it compiles it, and in doing so changes some:
what it prints as a backslash, x and two digits swallows a hexadecimal digit behind it ("éA"
becomes U+0E9A), and a class that begins with "^" becomes its complement. Of a range over several
lengths in UTF-8 it admits overlong forms. Of one that ends within a block of 0x1000 characters
and begins before it, it loses the end, and leaves the matcher stuck behind a first byte
(AddSameLengthCharacterRange takes 0x0080 for 0x8080).
"""

from __future__ import annotations

from token_engine.openvino_runtime.guide_grammar.grammar import Ranges

UTF8_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF))
NAMED = frozenset(map(ord, "\a\b\f\n\r\t\v\x1b"))  # printed as a backslash and a letter
HEX_DIGITS = frozenset(map(ord, "0123456789abcdefABCDEF"))
CARET = ord("^")


def print_text(text: list[int]) -> list[str]:
    """Strings that together are the text."""
    strings: list[str] = []
    last = 0
    for character in text:
        if not strings or (_swallows(last) and character in HEX_DIGITS):
            strings.append("")
        strings[-1] += _escaped(character)
        last = character
    return [f'"{string}"' for string in strings]


def print_class(ranges: Ranges) -> str:
    """One character of the set."""
    spans = [span for whole in ranges for span in _cut(*whole)]
    if len(spans) == 1 and spans[0][0] == spans[0][1]:
        return print_text([spans[0][0]])[0]
    # "^" is last, before it what swallows a digit, and of that first what begins with one: there
    # is one at most, as only one can end at U+007F.
    spans.sort(key=lambda s: (s[0] == CARET, _swallows(s[1]), s[0] not in HEX_DIGITS))
    printed = [_escaped(a) if a == b else f"{_escaped(a)}-{_escaped(b)}" for a, b in spans]
    return f"[{''.join(printed)}]"


def _cut(first: int, last: int) -> list[tuple[int, int]]:
    """A range in parts of one length, each within a block of 0x1000 or up to the end of one."""
    parts = []
    for low, high in UTF8_LENGTHS:
        begin, end = max(first, low), min(last, high)
        block = end & ~0xFFF
        if end >= 0x800 and begin < block and end & 0xFFF != 0xFFF:
            parts.append((begin, block - 1))
            begin = block
        if begin == CARET < end:  # never at the beginning: there is a part before it now
            parts.append((CARET + 1, end))
            end = CARET
        if begin <= end:
            parts.append((begin, end))
    return parts


def _swallows(character: int) -> bool:
    """Whether the library prints it as a backslash, x and two digits."""
    return (character < 0x20 and character not in NAMED) or 0x7F <= character <= 0xFF


def _escaped(code_point: int) -> str:
    character = chr(code_point)
    if character.isascii() and character.isalnum():
        return character
    return f"\\u{code_point:04X}" if code_point <= 0xFFFF else f"\\U{code_point:08X}"
