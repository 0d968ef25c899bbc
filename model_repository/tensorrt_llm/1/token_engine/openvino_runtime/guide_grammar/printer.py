"""Deterministic automata -> the text of an EBNF grammar, in the few forms that all libraries read.

One rule for each state; a chain of single characters becomes one string.
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
from token_engine.openvino_runtime.guide_grammar.characters import print_class, print_text
from token_engine.openvino_runtime.guide_grammar.grammar import Ranges


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
    """What must follow a rule: with it, fewer tokens that end inside of the next are in doubt."""
    # A rule that may be the last has no such mark: none says "or the end".
    return "" if not followers or END_OF_OUTPUT in followers else f" (= {print_class(followers)})"


def _single(ranges: Ranges) -> int | None:
    """The only character of a set, if it has but one."""
    is_single = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
    return ranges[0][0] if is_single else None
