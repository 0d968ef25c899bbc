"""Strings -> the smallest deterministic automaton that matches exactly one of them."""

from __future__ import annotations

from collections.abc import Iterable

from token_engine.openvino_runtime.guide_grammar.automaton import (
    END_OF_OUTPUT,
    START,
    Automaton,
    Deterministic,
    State,
)
from token_engine.openvino_runtime.guide_grammar.grammar import union


def one_of_strings(strings: Iterable[str]) -> Deterministic:
    """Takes time in proportion to their length: at most a second for 64 KiB."""
    return Deterministic({START: _smallest(_tree(strings))}, {START: (END_OF_OUTPUT,)})


class _Node:
    """What the strings go on with after one beginning."""

    __slots__ = ("accepts", "following")

    def __init__(self) -> None:
        self.accepts = False
        self.following: dict[str, int] = {}  # character -> number of a later node


def _tree(strings: Iterable[str]) -> list[_Node]:
    nodes = [_Node()]
    for string in strings:
        number = 0
        for character in string:
            following = nodes[number].following
            if character not in following:
                following[character] = len(nodes)
                nodes.append(_Node())
            number = following[character]
        nodes[number].accepts = True
    return nodes


def _smallest(nodes: list[_Node]) -> Automaton:
    """One state for all nodes that the same texts can follow; the first node's is the first."""
    automaton: Automaton = []
    states: dict[object, int] = {}  # by what can follow
    state_of = [0] * len(nodes)
    for number in range(len(nodes) - 1, -1, -1):  # those that can follow come first
        spans: dict[int, list[tuple[int, int]]] = {}
        for character, following in nodes[number].following.items():
            spans.setdefault(state_of[following], []).append((ord(character), ord(character)))
        state = State(
            nodes[number].accepts, [(union(them), target) for target, them in spans.items()]
        )
        key = (state.accepts, frozenset(state.moves))
        if key not in states:
            states[key] = len(automaton)
            automaton.append(state)
        state_of[number] = states[key]
    last = len(automaton) - 1  # the first node's: nothing that follows can be as long
    for state in automaton:
        state.moves = [(ranges, last - target) for ranges, target in state.moves]
    return automaton[::-1]
