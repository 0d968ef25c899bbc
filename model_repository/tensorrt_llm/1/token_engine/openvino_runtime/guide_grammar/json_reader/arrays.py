"""A case of arrays as a graph: items by their place, then any number of one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from token_engine.openvino_runtime.guide_grammar.grammar import (
    EMPTY,
    Graph,
    GuideError,
    Node,
    single,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.cases import (
    IMPOSSIBLE,
    Case,
    Key,
    Literal,
    key_of,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.document import TRUE
from token_engine.openvino_runtime.guide_grammar.json_reader.values import COMMA

MAX_LEAST = 500  # items that minItems may ask for
LATEST_END = 200  # items: an array that may be longer ends here at the latest


class ArrayWriter:
    """Writes one case; `kinds` says of a key's values which differ, in an order."""

    def __init__(
        self,
        value: Callable[[Key], Node],
        kinds: Callable[[Key], list[Node]],
        case: Case,
    ) -> None:
        self._value = value
        self._kinds = kinds
        self._case = case
        self._prefix = max(
            [len(one.prefix) for one in case.elements]
            + [at for at, _ in case.rest]
            + [at + 1 for at in case.beside],
            default=0,
        )
        self._least, self._most = case.least, case.most
        if self._least > MAX_LEAST:
            raise GuideError(
                f"has minItems {str(self._least)[:40]}; it must be at most {MAX_LEAST}"
            )
        if self._most is not None:
            self._most = min(self._most, max(self._least, LATEST_END))

    def key_at(self, index: int) -> Key:
        """What the item of an index must match."""
        literals: list[Literal] = [literal for at, literal in self._case.rest if index >= at]
        for one in self._case.elements:
            number = one.prefix[index] if index < len(one.prefix) else one.rest
            if number != TRUE:
                literals.append((number, True))
        return key_of(literals + self._case.beside.get(index, []))

    def node(self) -> Node:
        """The arrays of the case."""
        if self._case.is_unique:
            return self._unique()
        keys: list[Key] = []
        for index in range(self._prefix):
            key = self.key_at(index)
            if key == IMPOSSIBLE or index == self._most:
                return self._listed(keys, None)
            keys.append(key)
        further = self.key_at(self._prefix)
        return self._listed(keys, None if further == IMPOSSIBLE else further)

    def _listed(self, keys: list[Key], further: Key | None) -> Node:
        """Items of these keys, then any number of the other. Point 2 n: behind n items."""
        loop = None
        if further is not None:
            end = max(self._least, len(keys), 1) if self._most is None else self._most
            keys = keys + [further] * (end - len(keys))
            loop = end if self._most is None else None
        closed, opened = 2 * len(keys) + 1, 2 * len(keys) + 3
        edges: list[tuple[int, Node, int]] = [(0, single("["), opened)]
        for index, key in enumerate(keys):
            here = opened if index == 0 else 2 * index + 2 * len(keys) + 3
            if index:
                edges.append((2 * index, COMMA, here))
            edges.append((here, self._value(key), 2 * index + 2))
        if loop is not None and further is not None:
            here = 4 * len(keys) + 5
            edges += [(2 * loop, COMMA, here), (here, self._value(further), 2 * loop)]
        edges += [
            (2 * count if count else opened, single("]"), closed)
            for count in range(self._least, len(keys) + 1)
        ]
        return Graph(tuple(edges), frozenset((closed,)))

    def _unique(self) -> Node:
        """Items in the order of their kinds, each at most once."""
        steps = [self._kinds(self.key_at(index)) for index in range(self._prefix)]
        if any(len(step) for step in steps) and self._prefix:
            raise GuideError(
                "has uniqueItems beside items that differ by place; it must have one of them"
            )
        kinds = self._kinds(self.key_at(0))
        most = len(kinds) if self._most is None else min(self._most, len(kinds))
        if self._least > most:
            raise GuideError(
                f"has uniqueItems and minItems {str(self._least)[:40]}; it must be at most {most}, "
                "because only items that begin differently are known to differ"
            )
        return Graph(tuple(self._chosen(kinds, most)), frozenset((1,)))

    def _chosen(self, kinds: list[Node], most: int) -> Iterator[tuple[int, Node, int]]:
        """Points: (kinds passed, items so far), before an item or behind one."""
        counts = most if self._most is not None or self._least > 1 else 1
        width = (counts + 1) * 2

        def point(passed: int, count: int, is_behind: bool) -> int:
            return 2 + passed * width + count * 2 + is_behind

        yield 0, single("["), point(0, 0, False)
        if not self._least:
            yield point(0, 0, False), single("]"), 1
        for passed in range(len(kinds) + 1):
            for count in range(counts + 1):
                here, behind = point(passed, count, False), point(passed, count, True)
                if passed < len(kinds):
                    yield here, EMPTY, point(passed + 1, count, False)
                    if count < counts or (self._most is None and self._least <= 1):
                        after = point(passed + 1, min(count + 1, counts), True)
                        yield here, kinds[passed], after
                if count and count >= self._least:
                    yield behind, single("]"), 1
                if count:
                    yield behind, COMMA, here
