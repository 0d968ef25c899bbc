"""What a regex with `^` and `$` in it matches, wherever they stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from token_engine.openvino_runtime.guide_grammar.grammar import EMPTY, Alt, Node, Seq
from token_engine.openvino_runtime.guide_grammar.networks import is_nullable

# Whether it matches only where the text begins, and only where it ends.
Ends = tuple[bool, bool]


@dataclass(slots=True)
class Anchored:
    """Alternatives by where they match, each with whether it may match the empty text."""

    parts: dict[Ends, dict[int, tuple[Node, bool]]] = field(default_factory=dict)

    def add(self, ends: Ends, node: Node, nullable: bool) -> None:
        """One alternative more; the same node counts once."""
        self.parts.setdefault(ends, {})[id(node)] = (node, nullable)

    def joined(self) -> dict[Ends, tuple[Node, bool]]:
        """One node for each kind of place, and whether it may match the empty text."""
        return {ends: _joined(found) for ends, found in self.parts.items()}


Item = Node | Anchored
BEGIN = Anchored({(True, False): {id(EMPTY): (EMPTY, True)}})
END = Anchored({(False, True): {id(EMPTY): (EMPTY, True)}})


def anchored(item: Item) -> Anchored:
    """The same without a condition, if it has none."""
    if isinstance(item, Anchored):
        return item
    found = Anchored()
    found.add((False, False), item, is_nullable(item))
    return found


def either(items: list[Item]) -> Item:
    """One of them."""
    found = Anchored()
    for item in items:
        for ends, nodes in anchored(item).parts.items():
            for node, nullable in nodes.values():
                found.add(ends, node, nullable)
    return found


def one_after_the_other(items: list[Item]) -> Item:
    """All of them. Before a `^` and behind a `$` nothing may have been read, or nothing matches."""
    whole = anchored(EMPTY)
    for item in items:
        before, whole = whole.joined(), Anchored()
        following = anchored(item).joined()
        for (starts, stops), (left, left_nullable) in before.items():
            for (starts_2, stops_2), (right, right_nullable) in following.items():
                if (starts_2 and not left_nullable) or (stops and not right_nullable):
                    continue
                first = EMPTY if starts_2 else left
                second = EMPTY if stops else right
                node = (
                    first if second is EMPTY else second if first is EMPTY else Seq((left, right))
                )
                nullable = left_nullable and right_nullable
                whole.add((starts or starts_2, stops or stops_2), node, nullable)
    return whole


def optional(item: Anchored) -> Anchored:
    """Once or not at all."""
    found = Anchored({ends: dict(nodes) for ends, nodes in item.parts.items()})
    found.add((False, False), EMPTY, True)
    return found


def _joined(found: dict[int, tuple[Node, bool]]) -> tuple[Node, bool]:
    nodes = [node for node, _ in found.values()]
    nullable = any(nullable for _, nullable in found.values())
    return (nodes[0] if len(nodes) == 1 else Alt(tuple(nodes))), nullable
