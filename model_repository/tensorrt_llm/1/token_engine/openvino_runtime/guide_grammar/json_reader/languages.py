"""Regular languages as deterministic automata: what strings and numbers of a schema may be.

Unlike the rules of a grammar, they can be intersected and complemented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    ROOT,
    Grammar,
    GuideError,
    Node,
    Ranges,
    union,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.work import WORK
from token_engine.openvino_runtime.guide_grammar.networks import Networks, split

MAX_STATES = 12_000
MAX_MINIMIZED = 8_000  # more states are left as they are
MAX_TEXTS = 60
FIRST_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
Moves = tuple[tuple[Ranges, int], ...]


@dataclass(frozen=True, slots=True)
class Language:
    """An automaton over characters; state 0 is the start, and `moves` of a state are disjoint."""

    moves: tuple[Moves, ...]
    accepts: tuple[bool, ...]

    @property
    def is_empty(self) -> bool:
        """Whether it has no text."""
        return not any(self.accepts)

    def __contains__(self, text: str) -> bool:
        state = 0
        for character in map(ord, text):
            for ranges, target in self.moves[state]:
                if any(first <= character <= last for first, last in ranges):
                    state = target
                    break
            else:
                return False
        return self.accepts[state]

    def is_universal(self, state: int) -> bool:
        """Whether every text may follow."""
        return self.accepts[state] and self.moves[state] == ((ALPHABET, state),)


ANYTHING = Language((((ALPHABET, 0),),), (True,))
NOTHING = Language(((),), (False,))


def language_of(node: Node) -> Language:
    """What a node matches that calls no rule; raises `GuideError` if it needs too many states."""
    networks = Networks(Grammar({ROOT: node}), set(), set())
    start, end = networks.ends_of(ROOT)

    def moves_of(subset: frozenset[int]) -> Iterable[tuple[tuple[int, int], frozenset[int]]]:
        for span, targets in split(networks.moves_of(subset)):
            yield span, networks.after(targets, end)

    return explored(networks.after([start], end), moves_of, lambda subset: end in subset)


def explored(
    start: object,
    moves_of: Callable[..., Iterable[tuple[tuple[int, int], object]]],
    accepts: Callable[..., bool],
) -> Language:
    """The automaton of all states that are reached from `start`, as small as it can be."""
    numbers = {start: 0}
    states = [start]
    moves: list[Moves] = []
    for state in states:  # grows on the way
        WORK.spend(1)
        by_target: dict[int, list[tuple[int, int]]] = {}
        for span, target in moves_of(state):
            if target not in numbers:
                if len(states) >= MAX_STATES:
                    raise GuideError(
                        f"has a string or number that needs more than {MAX_STATES} states; "
                        "it must be simpler"
                    )
                numbers[target] = len(states)
                states.append(target)
            by_target.setdefault(numbers[target], []).append(span)
        moves.append(tuple((union(spans), target) for target, spans in by_target.items()))
    return _minimized(Language(tuple(moves), tuple(map(accepts, states))))


def combined(left: Language, right: Language, accepts: Callable[[bool, bool], bool]) -> Language:
    """The texts for which `accepts` is true of being in `left` and in `right`."""
    needs_left, needs_right = not accepts(False, True), not accepts(True, False)

    def moves_of(pair: tuple[int, int]) -> Iterable[tuple[tuple[int, int], object]]:
        a, b = pair
        moves = (
            [(f, t, 2 * to) for ranges, to in left.moves[a] for f, t in ranges] if a >= 0 else []
        )
        if b >= 0:
            moves += [(f, t, 2 * to + 1) for ranges, to in right.moves[b] for f, t in ranges]
        for span, targets in split(moves):
            a = next((t // 2 for t in targets if t % 2 == 0), -1)
            b = next((t // 2 for t in targets if t % 2), -1)
            if not ((needs_left and a < 0) or (needs_right and b < 0)):
                yield span, (a, b)

    def is_in(pair: tuple[int, int]) -> bool:
        a, b = pair
        return accepts(a >= 0 and left.accepts[a], b >= 0 and right.accepts[b])

    return explored((0, 0), moves_of, is_in)


def both(left: Language, right: Language) -> Language:
    """The texts in both."""
    if ANYTHING in (left, right):
        return right if left == ANYTHING else left
    return combined(left, right, lambda a, b: a and b)


def either(left: Language, right: Language) -> Language:
    """The texts in one or both."""
    return combined(left, right, lambda a, b: a or b)


def either_of(languages: Iterable[Language]) -> Language:
    """The texts in any of them."""
    found = NOTHING
    for language in languages:
        found = language if found.is_empty else either(found, language)
    return found


def parts_of(language: Language) -> list[Language]:
    """Disjoint parts: its texts if they are few, else those of each first character (of a few)."""
    texts = _few_texts(language)
    if texts is not None:
        return [of_texts([text]) for text in texts]
    firsts = [
        both(language, Language((((((ord(c), ord(c)),), 1),), ((ALPHABET, 1),)), (False, True)))
        for c in FIRST_CHARACTERS
    ]
    return [one for one in firsts if not one.is_empty]


def _few_texts(language: Language) -> list[str] | None:
    """All of its texts, in order; None if they are more than `MAX_TEXTS`."""
    texts: list[str] = []
    waiting = [(0, "")]
    while waiting:
        state, text = waiting.pop()
        if len(texts) + len(waiting) > MAX_TEXTS or len(text) > len(language.moves):
            return None
        if language.accepts[state]:
            texts.append(text)
        for ranges, target in reversed(language.moves[state]):
            if sum(last - first for first, last in ranges) > MAX_TEXTS:
                return None
            for first, last in reversed(ranges):
                waiting += [(target, text + chr(c)) for c in range(last, first - 1, -1)]
    return texts


def without(left: Language, right: Language) -> Language:
    """The texts of `left` that are not in `right`."""
    return combined(left, right, lambda a, b: a and not b)


def of_texts(texts: Iterable[str]) -> Language:
    """Exactly these texts."""
    tries: list[dict[str, int]] = [{}]
    ends: set[int] = set()
    for text in texts:
        state = 0
        for character in text:
            if character not in tries[state]:
                tries[state][character] = len(tries)
                tries.append({})
            state = tries[state][character]
        ends.add(state)
    moves = tuple(
        tuple((((ord(character), ord(character)),), target) for character, target in one.items())
        for one in tries
    )
    return Language(moves, tuple(number in ends for number in range(len(tries))))


def of_length(least: int, most: int | None) -> Language:
    """The texts of so many characters."""
    last = least if most is None else most
    moves: list[Moves] = [((ALPHABET, number + 1),) for number in range(last)]
    moves.append(((ALPHABET, last),) if most is None else ())
    return Language(tuple(moves), tuple(number >= least for number in range(last + 1)))


def _minimized(language: Language) -> Language:
    """Without states that lead to no end; states that accept the same become one."""
    alive = _alive(language)
    if 0 not in alive:
        return NOTHING
    classes = {state: int(language.accepts[state]) for state in alive}
    count = 0
    while len(alive) <= MAX_MINIMIZED and len(set(classes.values())) > count:
        count = len(set(classes.values()))
        WORK.spend(len(alive) // 4)
        signatures = {state: _signature(language, state, classes) for state in alive}
        order: dict[object, int] = {}
        classes = {s: order.setdefault(signatures[s], len(order)) for s in alive}
    if len(alive) > MAX_MINIMIZED:
        classes = {state: number for number, state in enumerate(alive)}
    return _rebuilt(language, alive, classes)


def _alive(language: Language) -> list[int]:
    """The states from which some text ends, in order."""
    sources: dict[int, list[int]] = {}
    for state, moves in enumerate(language.moves):
        for _, target in moves:
            sources.setdefault(target, []).append(state)
    waiting = [state for state, accepts in enumerate(language.accepts) if accepts]
    found = set(waiting)
    while waiting:
        for source in sources.get(waiting.pop(), ()):
            if source not in found:
                found.add(source)
                waiting.append(source)
    return sorted(found)


def _signature(language: Language, state: int, classes: dict[int, int]) -> object:
    spans: dict[int, list[tuple[int, int]]] = {}
    for ranges, target in language.moves[state]:
        if target in classes:
            spans.setdefault(classes[target], []).extend(ranges)
    return (classes[state], frozenset((to, union(ranges)) for to, ranges in spans.items()))


def _rebuilt(language: Language, alive: list[int], classes: dict[int, int]) -> Language:
    """One state for each class; the first of `alive` is the start."""
    numbers: dict[int, int] = {}
    chosen: list[int] = []
    for state in alive:
        if classes[state] not in numbers:
            numbers[classes[state]] = len(chosen)
            chosen.append(state)
    moves = []
    for state in chosen:
        spans: dict[int, list[tuple[int, int]]] = {}
        for ranges, target in language.moves[state]:
            if target in classes:
                spans.setdefault(numbers[classes[target]], []).extend(ranges)
        moves.append(tuple((union(ranges), to) for to, ranges in spans.items()))
    return Language(tuple(moves), tuple(language.accepts[state] for state in chosen))
