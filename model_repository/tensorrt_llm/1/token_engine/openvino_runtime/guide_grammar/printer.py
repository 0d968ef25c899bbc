"""Deterministic automata -> the text of an EBNF grammar, in the few forms that are safe.

One rule for each state; a chain of single characters becomes one string. Safe means: xgrammar 0.1
(in OpenVINO GenAI 2026.4) gets it right. It prints every grammar and reads it again before it
compiles it, and changes some on the way: what it prints as a backslash, x and two digits swallows
a hexadecimal digit behind it ("éA" becomes U+0E9A), and a class that begins with "^" becomes its
complement. From a range over several lengths in UTF-8 it admits overlong forms. Of a range that
begins before a block of 0x1000 characters and ends within it, it loses the end, and leaves the
matcher stuck behind a first byte (AddSameLengthCharacterRange takes 0x0080 for 0x8080).
"""

from __future__ import annotations

from collections import Counter

from token_engine.openvino_runtime.guide_grammar.automaton import (
    END_OF_OUTPUT,
    START,
    Automaton,
    Deterministic,
    State,
)
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
    # "^" comes last, before it a range that swallows a digit, and among those first one that begins
    # with a digit: there is at most one, because only one can end at U+007F.
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


def print_ebnf(grammar: Deterministic) -> str:
    """The grammar whose rule "root" is `START`."""
    numbers = {rule: number for number, rule in enumerate(grammar.automata)}
    lines = [f"root ::= r{numbers[START]}s0"]
    for rule, automaton in grammar.automata.items():
        after = _look_ahead(grammar.followers[rule])
        lines += [line + after for line in _Printer(numbers, rule, automaton).lines()]
    return "\n".join(lines) + "\n"


class _Printer:
    def __init__(self, numbers: dict[str, int], rule: str, automaton: Automaton) -> None:
        self._numbers = numbers
        self._rule = rule
        self._automaton = automaton
        self._entries = Counter(
            target
            for state in automaton
            for target in [*(target for _, target in state.moves), *state.calls.values()]
        )

    def lines(self) -> list[str]:
        """The rules of all states that are reached other than inside of a string."""
        lines: list[str] = []
        written: set[int] = set()
        waiting = [0]
        while waiting:
            number = waiting.pop()
            if number not in written:
                written.add(number)
                alternatives = self._alternatives(self._automaton[number], waiting)
                lines.append(f"{self._name(number)} ::= {' | '.join(alternatives)}")
        return lines

    def _alternatives(self, state: State, waiting: list[int]) -> list[str]:
        found = ['""'] if state.accepts else []
        for ranges, target in state.moves:
            text: list[int] = []
            while (character := _single(ranges)) is not None and self._is_link(target):
                text.append(character)
                ranges, target = self._automaton[target].moves[0]
            if character is None:
                parts = [*print_text(text), print_class(ranges)]
            else:
                parts = print_text([*text, character])
            found.append(" ".join(parts) + self._then(target, waiting))
        for called, target in state.calls.items():
            found.append(f"r{self._numbers[called]}s0{self._then(target, waiting)}")
        return found

    def _is_link(self, number: int) -> bool:
        """Whether the state is entered from one place only and has one way on."""
        state = self._automaton[number]
        return (
            self._entries[number] == 1
            and len(state.moves) == 1
            and not state.calls
            and not state.accepts
        )

    def _then(self, target: int, waiting: list[int]) -> str:
        state = self._automaton[target]
        if not state.moves and not state.calls:
            return ""  # nothing follows; dead ends are removed, so it accepts
        waiting.append(target)
        return f" {self._name(target)}"

    def _name(self, state: int) -> str:
        return f"r{self._numbers[self._rule]}s{state}"


def _look_ahead(followers: Ranges) -> str:
    """What must follow a rule. It settles more of the tokens that end inside the next rule."""
    # A rule that may be the last has no such mark: none says "or the end".
    return "" if not followers or END_OF_OUTPUT in followers else f" (= {print_class(followers)})"


def _single(ranges: Ranges) -> int | None:
    """The only character of a set, if it has but one."""
    is_single = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
    return ranges[0][0] if is_single else None
