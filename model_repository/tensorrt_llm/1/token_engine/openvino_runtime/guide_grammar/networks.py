"""Rules as networks of points: from each, characters, calls, or nothing at all lead on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import pairwise

from token_engine.openvino_runtime.guide_grammar.grammar import (
    EMPTY,
    Alt,
    Call,
    Chars,
    Grammar,
    Graph,
    GuideError,
    Node,
    Repeat,
    Seq,
)

MAX_POINTS = 200_000
MAX_DEPTH = 300  # of nesting, copied rules included


class Networks:
    """One network for each rule of `kept`, built when it is needed; the others are copied in.

    So is, of each pair in `copied`, the second rule into the first one's network, and into all if
    the first is None. A rule that recurs is called within its copy.
    """

    def __init__(
        self, grammar: Grammar, kept: set[str], copied: set[tuple[str | None, str]]
    ) -> None:
        self._rules = grammar.rules
        self._kept = kept
        self._copied = copied
        self._copying: list[str] = []
        self._nullable = nullable_rules(grammar)
        self._skips: list[list[int]] = []  # point -> points reached without reading
        self._moves: list[list[tuple[int, int, int]]] = []  # (first, last character, point)
        self._calls: list[list[tuple[str, int]]] = []  # (rule, point)
        self._depth = 0

    def ends_of(self, rule: str) -> tuple[int, int]:
        """Build the rule's network; returns its start and its end."""
        self._copying = [rule]
        start = self._point()
        return start, self._add(self._rules[rule], start)

    def after(self, points: Iterable[int], end: int) -> frozenset[int]:
        """The points that matter among `points` and those reached from them without reading."""
        found = set(points)
        waiting = list(found)
        while waiting:
            for point in self._skips[waiting.pop()]:
                if point not in found:
                    found.add(point)
                    waiting.append(point)
        return frozenset(p for p in found if self._moves[p] or self._calls[p] or p == end)

    def moves_of(self, points: frozenset[int]) -> list[tuple[int, int, int]]:
        """All ways to read a character."""
        return [move for point in points for move in self._moves[point]]

    def calls_of(self, points: frozenset[int]) -> dict[str, set[int]]:
        """All calls, with the points after them."""
        calls: dict[str, set[int]] = {}
        for point in points:
            for rule, target in self._calls[point]:
                calls.setdefault(rule, set()).add(target)
        return calls

    def _add(self, node: Node, start: int) -> int:
        """Add what `node` matches from `start` on; returns the point after it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise GuideError(f"nests more than {MAX_DEPTH} deep; it must nest less deep")
        end = self._add_one(node, start)
        self._depth -= 1
        return end

    def _add_one(self, node: Node, start: int) -> int:
        if isinstance(node, Chars):
            end = self._point()
            self._moves[start] += [(first, last, end) for first, last in node.ranges]
            return end
        if isinstance(node, Seq):
            for item in node.items:
                start = self._add(item, start)
            return start
        if isinstance(node, Alt):
            end = self._point()
            for item in node.items:
                self._skips[self._add(item, self._branch(start))].append(end)
            return end
        if isinstance(node, Repeat):
            return self._add_repeat(node, start)
        if isinstance(node, Graph):
            return self._add_graph(node, start)
        return self._add_call(node, start)

    def _add_repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self._add(node.item, start)
        end = self._point()
        if node.most is None:
            loop = self._branch(start)
            self._skips[self._add(node.item, loop)].append(loop)
            self._skips[loop].append(end)
            return end
        for _ in range(node.most - node.least):
            self._skips[start].append(end)
            start = self._add(node.item, self._branch(start))
        self._skips[start].append(end)
        return end

    def _add_graph(self, node: Graph, start: int) -> int:
        points: dict[int, int] = {0: self._branch(start)}
        for source, inner, target in node.edges:
            for number in (source, target):
                if number not in points:
                    points[number] = self._point()
            if isinstance(inner, Chars):
                self._moves[points[source]] += [
                    (first, last, points[target]) for first, last in inner.ranges
                ]
            elif inner == EMPTY:
                self._skips[points[source]].append(points[target])
            else:
                after = self._add(inner, self._branch(points[source]))
                self._skips[after].append(points[target])
        end = self._point()
        for number in node.ends & points.keys():
            self._skips[points[number]].append(end)
        return end

    def _add_call(self, node: Call, start: int) -> int:
        if node.rule not in self._kept or (
            node.rule not in self._copying
            and not self._copied.isdisjoint({(None, node.rule), (self._copying[0], node.rule)})
        ):
            self._copying.append(node.rule)
            end = self._add(self._rules[node.rule], start)
            self._copying.pop()
            return end
        end = self._point()
        self._calls[start].append((node.rule, end))
        if node.rule in self._nullable:
            self._skips[start].append(end)
        return end

    def _branch(self, start: int) -> int:
        """A separate point behind `start`, so that a loop back to it disturbs nothing else."""
        point = self._point()
        self._skips[start].append(point)
        return point

    def _point(self) -> int:
        if len(self._skips) >= MAX_POINTS:
            raise GuideError(
                f"needs more than {MAX_POINTS} points when its repetitions are written out; "
                "it must be simpler"
            )
        self._skips.append([])
        self._moves.append([])
        self._calls.append([])
        return len(self._skips) - 1


def kept_rules(grammar: Grammar, start: str) -> set[str]:
    """Rules such that every cycle of calls that `start` reaches goes through one of them."""
    kept: set[str] = set()
    done: set[str] = set()
    path: dict[str, Iterator[str]] = {start: calls_of(grammar.rules[start])}
    while path:
        rule = next(reversed(path))
        called = next(path[rule], None)
        if called is None:
            del path[rule]
            done.add(rule)
        elif called in path:
            kept.add(called)
        elif called not in done:
            path[called] = calls_of(grammar.rules[called])
    return kept


def calls_of(node: Node) -> Iterator[str]:
    """The rules that a node calls."""
    if isinstance(node, Call):
        yield node.rule
    elif isinstance(node, Repeat):
        yield from calls_of(node.item)
    elif isinstance(node, Graph):
        for _, inner, _ in node.edges:
            yield from calls_of(inner)
    elif isinstance(node, Seq | Alt):
        for item in node.items:
            yield from calls_of(item)


def nullable_rules(grammar: Grammar) -> set[str]:
    """The rules that match the empty text."""
    nullable: set[str] = set()
    while True:
        more = {rule for rule, node in grammar.rules.items() if is_nullable(node, nullable)}
        if more == nullable:
            return nullable
        nullable = more


def is_nullable(node: Node, nullable: Set[str] = frozenset()) -> bool:
    """Whether a node matches the empty text, where the rules in `nullable` do."""
    if isinstance(node, Call):
        return node.rule in nullable
    if isinstance(node, Repeat):
        return node.least == 0 or is_nullable(node.item, nullable)
    if isinstance(node, Seq):
        return all(is_nullable(item, nullable) for item in node.items)
    if isinstance(node, Graph):
        return _is_nullable_graph(node, nullable)
    return isinstance(node, Alt) and any(is_nullable(item, nullable) for item in node.items)


def _is_nullable_graph(node: Graph, nullable: Set[str]) -> bool:
    found = {0}
    grown = True
    while grown and not found & node.ends:
        reached = {
            to for at, inner, to in node.edges if at in found and is_nullable(inner, nullable)
        }
        grown = not reached <= found
        found |= reached
    return bool(found & node.ends)


def split(
    moves: list[tuple[int, int, int]],
) -> Iterable[tuple[tuple[int, int], frozenset[int]]]:
    """Overlapping `(first, last, target)` -> disjoint spans, each with all its targets."""
    opened: dict[int, list[int]] = {}
    closed: dict[int, list[int]] = {}
    for first, last, target in moves:
        opened.setdefault(first, []).append(target)
        closed.setdefault(last + 1, []).append(target)
    counts: dict[int, int] = {}
    cuts = sorted(opened.keys() | closed.keys())
    for cut, following in pairwise(cuts):
        for target in closed.get(cut, ()):
            counts[target] -= 1
            if not counts[target]:
                del counts[target]
        for target in opened.get(cut, ()):
            counts[target] = counts.get(target, 0) + 1
        if counts:
            yield (cut, following - 1), frozenset(counts)
