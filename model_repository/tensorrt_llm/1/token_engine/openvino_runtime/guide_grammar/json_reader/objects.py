"""A case of objects as a graph: members in a fixed order, others where the schema allows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    EMPTY,
    Call,
    Graph,
    GuideError,
    Node,
    Ranges,
    Seq,
    literal,
    single,
    union,
    without,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.cases import (
    IMPOSSIBLE,
    Case,
    Cases,
    Key,
    key_of,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.document import TRUE
from token_engine.openvino_runtime.guide_grammar.json_reader.languages import (
    ANYTHING,
    Language,
    Moves,
    both,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.languages import without as other_than
from token_engine.openvino_runtime.guide_grammar.json_reader.strings import matching, quoted
from token_engine.openvino_runtime.guide_grammar.json_reader.values import (
    COLON,
    COMMA,
    STRING,
    json_text,
)

MAX_KINDS = 16  # of names that patterns tell apart
MAX_COUNT = 100  # of properties that are counted


@dataclass(frozen=True, slots=True)
class Member:
    """A property that is named."""

    name: str
    value: Node
    is_required: bool


Point = tuple[
    str, int, int, bool
]  # a kind, members passed, properties counted, any other among them


class ObjectWriter:
    """Writes one case. `spare` states may be spent on names that the schema does not name."""

    def __init__(
        self,
        cases: Cases,
        value: Callable[[Key], Node],
        name_language: Callable[[Key], Language],
        case: Case,
        spare: int,
    ) -> None:
        self._cases = cases
        self._value = value
        self._case = case
        self._names = ANYTHING
        if case.names:
            self._names = name_language(key_of(case.names))
        self._named = self._all_names()
        self._members = list(self._allowed_members())
        self._others = list(self._other_members(spare))
        size = sum(map(len, self._named))
        self._anywhere = (len(self._named) + 1) * size <= spare
        self._at_front = 2 * size <= spare
        self._last_required = max(
            (at for at, member in enumerate(self._members) if member.is_required), default=-1
        )
        self._points: dict[Point, int] = {}
        self._edges: list[tuple[int, Node, int]] = []

    def node(self) -> Node:
        """The objects of the case."""
        least, most = self._counts()
        opened = self._point(("opened", 0, 0, False))
        closed = self._point(("closed", 0, 0, False))
        start: Point = ("first", 0, 0, False)  # as a key, but not reached behind a comma
        inside = self._point(start)
        self._edges += [(opened, single("{"), inside)]
        if self._last_required < 0 and least == 0:
            self._edges.append((inside, single("}"), closed))
        waiting = [start]
        done: set[Point] = set()
        while waiting:
            point = waiting.pop()
            if point not in done:
                done.add(point)
                waiting += self._edges_from(point, least, most, closed)
        return Graph(tuple(self._edges), frozenset((closed,)))

    def _edges_from(self, point: Point, least: int, most: int | None, closed: int) -> list[Point]:
        kind, passed, count, other = point
        here = self._point(point)
        if kind == "after":
            if passed > self._last_required and count >= least:
                self._edges.append((here, single("}"), closed))
            following: Point = ("key", passed, count, other)
            self._edges.append((here, COMMA, self._point(following)))
            return [following]
        found: list[Point] = []
        may_count = most is None or count < most
        is_entry = kind in ("first", "key")
        if may_count and passed < len(self._members):
            member = self._members[passed]
            node = Seq((literal(json_text(member.name)), COLON, member.value))
            found.append(self._counted(passed + 1, count + 1, other, least, most))
            self._edges.append((here, node, self._point(found[-1])))
        if passed < len(self._members) and not self._members[passed].is_required:
            skipped: Point = ("skipped", passed + 1, count, other)
            self._edges.append((here, EMPTY, self._point(skipped)))
            found.append(skipped)
        # Two of one name would be counted twice: where both bounds matter, only one other comes.
        may_come = may_count and not (other and least and most is not None)
        is_place = is_entry and (self._anywhere or (self._at_front and passed == 0))
        if may_come and (is_place or (passed == len(self._members) and not self._anywhere)):
            counted = count + 1 if most is not None or not other else count
            found.append(self._counted(passed, counted, True, least, most))
            self._edges += [(here, node, self._point(found[-1])) for node in self._others]
        return found

    def _counted(self, passed: int, count: int, other: bool, least: int, most: int | None) -> Point:
        if most is None:
            count = min(count, least)
        # Names may be the same: for the least number, others count once.
        return "after", passed, count, other and least > 0

    def _point(self, point: Point) -> int:
        return self._points.setdefault(point, len(self._points))

    def _counts(self) -> tuple[int, int | None]:
        """The least and the most number of properties, as far as they need counting."""
        case, required = self._case, sum(member.is_required for member in self._members)
        least = 0 if case.least <= required else case.least
        most = case.most
        if most is not None and not self._others and most >= len(self._members):
            most = None
        if least > len(self._members) + bool(self._others):
            raise GuideError(
                f"has minProperties {str(case.least)[:40]}; it must be at most one more than the "
                "properties that are named"
            )
        return least, None if most is None else min(most, MAX_COUNT)

    def _all_names(self) -> list[str]:
        """In the order in which they come."""
        case = self._case
        names = [name for members in case.members for name in members.properties]
        names += [*case.required, *(name for name in case.beside if isinstance(name, str))]
        return list(dict.fromkeys([*names, *sorted(case.forbidden)]))

    def _allowed_members(self) -> Iterator[Member]:
        for name in self._named:
            key = self._cases.key_of_member(self._case, name)
            if key != IMPOSSIBLE and (self._names == ANYTHING or name in self._names):
                yield Member(name, self._value(key), name in self._case.required)
            elif name in self._case.required:
                yield Member(name, self._value(IMPOSSIBLE), True)

    def _other_members(self, spare: int) -> Iterator[Node]:
        """A node for each kind of names that the schema does not name."""
        kinds: list[tuple[Language, frozenset[str]]] = [
            (both(names_apart(self._named, spare), self._names), frozenset())
        ]
        patterns = {pattern for members in self._case.members for pattern, _ in members.patterns}
        if not patterns and self._is_closed(frozenset()):
            return
        for pattern in sorted(patterns):
            language = matching(pattern)
            kinds = [
                kind
                for names, matched in kinds
                for kind in (
                    (both(names, language), matched | {pattern}),
                    (other_than(names, language), matched),
                )
                if not kind[0].is_empty
            ][:MAX_KINDS]
        for names, matched in kinds:
            if not self._is_closed(matched) and not names.is_empty:
                name = Call(STRING) if names == ANYTHING else quoted(names)
                yield Seq((name, COLON, self._value(self._key_of_others(matched))))

    def _is_closed(self, matched: frozenset[str]) -> bool:
        return self._key_of_others(matched) == IMPOSSIBLE

    def _key_of_others(self, matched: frozenset[str]) -> Key:
        literals = []
        for members in self._case.members:
            numbers = [number for pattern, number in members.patterns if pattern in matched]
            literals += [(number, True) for number in numbers or [members.additional]]
        return key_of([one for one in literals if one != (TRUE, True)])


def names_apart(names: list[str], spare: int) -> Language:
    """The texts that are none of `names`; of those that begin like one, as many as `spare` allows.

    Each state costs the library as much as a whole string does.
    """
    if not names:
        return ANYTHING
    prefixes = [""]  # in the order of their length, so that the shortest are kept
    for prefix in prefixes:  # grows on the way
        inner = {name[: len(prefix) + 1] for name in names if name.startswith(prefix)} - {prefix}
        prefixes += sorted(inner)
    kept = {prefix: number for number, prefix in enumerate(prefixes[: max(1, spare)])}
    moves: list[Moves] = []
    for prefix in kept:
        known = {name[len(prefix)] for name in names if name.startswith(prefix) and name != prefix}
        taken: Ranges = union((ord(character), ord(character)) for character in known)
        further = [
            (((ord(c), ord(c)),), kept[prefix + c]) for c in sorted(known) if prefix + c in kept
        ]
        moves.append(((without(ALPHABET, taken), len(kept)), *further))
    moves.append(((ALPHABET, len(kept)),))
    accepts = [prefix not in names for prefix in kept]
    return Language(tuple(moves), (*accepts, True))
