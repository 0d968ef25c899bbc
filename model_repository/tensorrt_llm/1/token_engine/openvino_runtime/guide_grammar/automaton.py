"""Rules -> deterministic automata that call one another, or a sentence that says why not.

Rules that do not recur are copied to where they are used, so a rule may hold any regular
expression: subset construction makes it deterministic. A rule that recurs is copied into another
rule once at most; then it is called, and one character must decide what comes next: whether to
call and what, and whether a rule that could end goes on. So a matcher follows one reading only,
whatever the output is.

States from which the end cannot be reached are removed: a matcher never gets stuck.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ROOT,
    Grammar,
    GuideError,
    Ranges,
    overlap,
    shown,
    union,
)
from token_engine.openvino_runtime.guide_grammar.networks import Networks, kept_rules, split

MAX_STATES = 10_000
WIDE = 100_000  # characters
MAX_RECURRING = 200  # rules
START = ""  # a copy of the rule "root" that no rule calls
END_OF_OUTPUT = (0, 0)


@dataclass(slots=True)
class State:
    """Where a rule can be. `moves` are disjoint; a called rule matches at least one character."""

    accepts: bool
    moves: list[tuple[Ranges, int]] = field(default_factory=list)  # read one of these, then go on
    calls: dict[str, int] = field(default_factory=dict)  # what the rule matches, then go on


Automaton = list[State]  # the first state is the start


@dataclass(frozen=True, slots=True)
class Deterministic:
    """Automata by rule, `START` the first, and by rule what can come after it.

    Among the followers `END_OF_OUTPUT` stands for nothing more.
    """

    automata: dict[str, Automaton]
    followers: dict[str, Ranges]


Copies = set[tuple[str | None, str]]  # see `Networks`


class _Conflict(GuideError):
    """One character does not decide; the remedy may be `copies` of called rules."""

    def __init__(self, copies: Iterable[tuple[str | None, str]], message: str) -> None:
        super().__init__(message)
        self.copies = frozenset(copies)


def make_deterministic(grammar: Grammar, most_states: int = MAX_STATES) -> Deterministic:
    """Automata that together match the same language; raises `GuideError`."""
    grammar = Grammar({**grammar.rules, START: grammar.rules[ROOT]}, grammar.shared)
    kept = kept_rules(grammar, START)
    if len(kept) > MAX_RECURRING:
        raise GuideError(f"has {len(kept)} recurring rules; it must have at most {MAX_RECURRING}")
    copied: Copies = set()
    built: dict[tuple[str, frozenset[str]], Automaton] = {}
    while True:
        networks = Networks(grammar, kept | grammar.shared, copied)
        try:
            return _checked(_determinized(networks, copied, built, most_states))
        except _Conflict as conflict:
            if conflict.copies <= copied:
                raise
            copied |= conflict.copies


def wide_states(automata: Deterministic) -> int:
    """How many states go on with almost any character: they cost the library most."""
    return sum(
        sum(last - first for ranges, _ in state.moves for first, last in ranges) > WIDE
        for automaton in automata.automata.values()
        for state in automaton
    )


def _determinized(
    networks: Networks,
    copied: Copies,
    built: dict[tuple[str, frozenset[str]], Automaton],
    most_states: int,
) -> dict[str, Automaton]:
    """An automaton for each rule that is called; those in `built` need not be built again."""
    everywhere = {rule for caller, rule in copied if caller is None}
    copies: dict[str | None, set[str]] = {}
    for caller, rule in copied:
        copies.setdefault(caller, set()).add(rule)
    automata: dict[str, Automaton] = {}
    waiting, size = [START], 0
    while waiting:
        rule = waiting.pop()
        if rule not in automata:
            key = rule, frozenset(everywhere | copies.get(rule, set()))
            if key not in built:
                built[key] = _subsets(networks, rule, most_states - size)
            automata[rule] = built[key]
            size += len(built[key])
            if size > most_states:
                raise too_large(most_states)
            waiting += [called for state in automata[rule] for called in state.calls]
    return automata


def too_large(most_states: int) -> GuideError:
    """The refusal of a grammar of more states."""
    return GuideError(f"needs more than {most_states} states; it must be simpler")


def _subsets(networks: Networks, rule: str, most_states: int) -> Automaton:
    """Subset construction. The empty text is left out: whoever calls the rule may skip it."""
    start, end = networks.ends_of(rule)
    first = networks.after([start], end)
    # A separate state that nothing leads to: only there the empty text is left out.
    automaton = [State(rule == START and end in first)]
    numbers: dict[frozenset[int], int] = {}
    waiting = [(0, first)]

    def number_of(targets: Iterable[int]) -> int:
        subset = networks.after(targets, end)
        if subset not in numbers:
            if len(automaton) >= most_states:
                raise too_large(MAX_STATES)
            numbers[subset] = len(automaton)
            automaton.append(State(end in subset))
            waiting.append((numbers[subset], subset))
        return numbers[subset]

    while waiting:
        number, subset = waiting.pop()
        by_target: dict[int, list[tuple[int, int]]] = {}
        for span, targets in split(networks.moves_of(subset)):
            by_target.setdefault(number_of(targets), []).append(span)
        state = automaton[number]
        state.moves = [(union(spans), target) for target, spans in by_target.items()]
        for called, points in networks.calls_of(subset).items():
            state.calls[called] = number_of(points)
    return automaton


def _checked(automata: dict[str, Automaton]) -> Deterministic:
    _remove_dead_ends(automata)
    first = _first_characters(automata)
    conflicts = [
        conflict
        for rule, automaton in automata.items()
        for state in automaton
        if (conflict := _conflict_of_choice(rule, state, first))
    ]
    followers = _followers(automata, first)
    for rule, automaton in automata.items():
        for state in automaton:
            both = overlap(_beginnings(state, first), followers[rule]) if state.accepts else ()
            if both:
                message = (
                    f"has a rule {_named(rule)} that {shown(both[0][0])} may go on or follow; "
                    "a recurring rule's next character must say whether it ends"
                )
                conflicts.append(_Conflict([(None, rule)], message))
    if conflicts:
        copies = {copy for conflict in conflicts for copy in conflict.copies}
        raise _Conflict(copies, str(conflicts[0]))
    return Deterministic(automata, followers)


def _remove_dead_ends(automata: dict[str, Automaton]) -> None:
    alive: set[tuple[str, int]] = set()
    grown = True
    while grown:
        grown = False
        for rule, automaton in automata.items():
            for number in range(len(automaton) - 1, -1, -1):
                if (rule, number) not in alive and _can_end(rule, automaton[number], alive):
                    alive.add((rule, number))
                    grown = True
    for rule, automaton in automata.items():
        for state in automaton:
            state.moves = [move for move in state.moves if (rule, move[1]) in alive]
            state.calls = {
                called: target
                for called, target in state.calls.items()
                if (rule, target) in alive and (called, 0) in alive
            }
    if (START, 0) not in alive:
        raise GuideError("matches no text at all; it must match some")
    for rule in [rule for rule in automata if (rule, 0) not in alive]:
        del automata[rule]  # nothing calls it any more


def _can_end(rule: str, state: State, alive: set[tuple[str, int]]) -> bool:
    return (
        state.accepts
        or any((rule, target) in alive for _, target in state.moves)
        or any(
            (rule, target) in alive and (called, 0) in alive
            for called, target in state.calls.items()
        )
    )


def _first_characters(automata: dict[str, Automaton]) -> dict[str, Ranges]:
    """What each rule can begin with."""
    first: dict[str, Ranges] = {}
    begun: list[str] = []

    def visit(rule: str) -> None:
        if rule in begun:
            path = [*begun[begun.index(rule) :], rule]
            raise _Conflict(
                [(None, name) for name in path],
                f"begins the rule {_named(rule)} with itself ({' -> '.join(path)[:80]}); "
                "a rule must begin with a character before it recurs",
            )
        if rule not in first:
            begun.append(rule)
            for called in automata[rule][0].calls:
                visit(called)
            begun.pop()
            first[rule] = _beginnings(automata[rule][0], first)

    for rule in automata:
        visit(rule)
    return first


def _beginnings(state: State, first: dict[str, Ranges]) -> Ranges:
    spans = [span for ranges, _ in state.moves for span in ranges]
    return union(spans + [span for called in state.calls for span in first[called]])


def _conflict_of_choice(rule: str, state: State, first: dict[str, Ranges]) -> _Conflict | None:
    taken = union(span for ranges, _ in state.moves for span in ranges)
    for called in state.calls:
        both = overlap(taken, first[called])
        if both:
            return _Conflict(
                [(rule, other) for other in state.calls if overlap(first[other], both)],
                f"has, in the rule {_named(rule)}, alternatives to {_named(called)} that begin "
                f"with {shown(both[0][0])} too; the next character must tell a recurring "
                "rule from its alternatives",
            )
        taken = union([*taken, *first[called]])
    return None


def _named(rule: str) -> str:
    return repr((rule or ROOT)[:60])


def _followers(automata: dict[str, Automaton], first: dict[str, Ranges]) -> dict[str, Ranges]:
    """What can come after each rule."""
    followers: dict[str, Ranges] = dict.fromkeys(automata, ())
    followers[START] = (END_OF_OUTPUT,)
    grown = True
    while grown:
        grown = False
        for rule, automaton in automata.items():
            for state in automaton:
                for called, target in state.calls.items():
                    after = [*followers[called], *_beginnings(automaton[target], first)]
                    if automaton[target].accepts:
                        after += followers[rule]
                    if union(after) != followers[called]:
                        followers[called] = union(after)
                        grown = True
    return followers
