"""A plain matcher and a random text generator for the grammars of guides."""

from __future__ import annotations

import re
from random import Random
from typing import cast

from request_inputs.guide_bounds import check_bounds
from token_engine.interface import Guide, GuideKind
from token_engine.openvino_runtime.guide_grammar.automaton import (
    START,
    Deterministic,
    State,
    make_deterministic,
)
from token_engine.openvino_runtime.guide_grammar.ebnf import parse_ebnf
from token_engine.openvino_runtime.guide_grammar.grammar import Grammar
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf, read_guide
from token_engine.registry import RUNTIMES


def compiled(kind: str, text: str) -> Deterministic:
    """The automata of a guide."""
    return make_deterministic(read_guide(kind, text))


def read_again(kind: str, text: str) -> Deterministic:
    """The same, read back from the printed grammar without its hints.

    Raises GuideError where that takes too many states: of two printed alternatives that begin
    alike, such as two schemas for arrays, both are copied.
    """
    printed = re.sub(r" \(= [^)]*\)", "", guide_to_ebnf(kind, text))
    rules = parse_ebnf(printed).rules
    return make_deterministic(Grammar(rules, frozenset(rules)))


def matches(grammar: Deterministic, text: str) -> bool:
    """Whether the whole text is in the language."""
    stack = _after(grammar, text)
    return stack is not None and all(_state(grammar, place).accepts for place in stack)


def begins(grammar: Deterministic, text: str) -> bool:
    """Whether some text of the language begins like this."""
    return _after(grammar, text) is not None


def _after(grammar: Deterministic, text: str) -> list[tuple[str, int]] | None:
    """The state of each open rule, the innermost last; None if no text begins like this."""
    stack = [(START, 0)]
    for character in text:
        if not _read(grammar, stack, ord(character)):
            return None
    return stack


def _read(grammar: Deterministic, stack: list[tuple[str, int]], code_point: int) -> bool:
    while stack:
        rule, number = stack.pop()
        state = grammar.automata[rule][number]
        for ranges, target in state.moves:
            if any(first <= code_point <= last for first, last in ranges):
                stack.append((rule, target))
                return True
        for called, target in state.calls.items():
            inner = [(rule, target), (called, 0)]
            depth = len(stack)
            if _read_start(grammar, stack, inner, code_point):
                return True
            del stack[depth:]
        if not state.accepts:
            return False
    return False


def _read_start(
    grammar: Deterministic,
    stack: list[tuple[str, int]],
    inner: list[tuple[str, int]],
    code_point: int,
) -> bool:
    """Try a call; a called rule reads at least one character, so nothing returns here."""
    rule, number = inner[-1]
    state = grammar.automata[rule][number]
    for ranges, target in state.moves:
        if any(first <= code_point <= last for first, last in ranges):
            stack += [*inner[:-1], (rule, target)]
            return True
    return any(
        _read_start(grammar, stack, [*inner[:-1], (rule, target), (called, 0)], code_point)
        for called, target in state.calls.items()
    )


def write(grammar: Deterministic, random: Random, eager: int = 60) -> str:
    """A random text of the language. After `eager` characters it takes the nearest way out."""
    ways_out = _ways_out(grammar)
    stack, text = [(START, 0)], ""
    while stack:
        rule, number = stack.pop()
        state = grammar.automata[rule][number]
        choice = ways_out[rule, number] if len(text) > eager else random.choice(_choices(state))
        if choice is None:
            continue
        name, place, target = choice
        stack.append((rule, target))
        if name is not None:
            stack.append((name, 0))
        else:
            first, last = random.choice(state.moves[place][0])
            text += chr(random.choice((first, last, random.randint(first, last))))
    return text


Choice = tuple[str | None, int, int] | None  # a call or None for a move, its number, its target


def _choices(state: State) -> list[Choice]:
    choices: list[Choice] = [None] if state.accepts else []
    choices += [(None, place, target) for place, (_, target) in enumerate(state.moves)]
    choices += [(called, 0, target) for called, target in state.calls.items()]
    return choices


def _ways_out(grammar: Deterministic) -> dict[tuple[str, int], Choice]:
    """For every state the choice that leads to the end of its rule in the fewest steps."""
    found: dict[tuple[str, int], Choice] = {}
    grown = True
    while grown:
        grown = False
        now = dict(found)
        for rule, automaton in grammar.automata.items():
            for number, state in enumerate(automaton):
                if (rule, number) in found:
                    continue
                for choice in _choices(state):
                    if choice is None or (
                        (rule, choice[2]) in now and (choice[0] is None or (choice[0], 0) in now)
                    ):
                        found[rule, number] = choice
                        grown = True
                        break
    return found


def _state(grammar: Deterministic, place: tuple[str, int]) -> State:
    return grammar.automata[place[0]][place[1]]


def check_guide(kind: str, text: str) -> None:
    """As room 2 checks a guide for the OpenVINO runtime; raises `ValueError`."""
    guide = Guide(cast(GuideKind, kind), text)
    check_bounds(guide)
    check = RUNTIMES["openvino"].check_guide
    assert check is not None
    check(guide)
