"""Which rules recur, and so have to stay rules."""

from __future__ import annotations

from collections.abc import Iterator

from token_engine.openvino_runtime.guide_grammar.grammar import (
    Alt,
    Call,
    Grammar,
    Joined,
    Node,
    Repeat,
    Seq,
)


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
    elif isinstance(node, Joined):
        yield from calls_of(node.separator)
        for part, _ in node.parts:
            yield from calls_of(part)
    elif isinstance(node, Seq | Alt):
        for item in node.items:
            yield from calls_of(item)


def nullable_rules(grammar: Grammar) -> set[str]:
    """The rules that match the empty text."""
    nullable: set[str] = set()
    while True:
        more = {rule for rule, node in grammar.rules.items() if _is_nullable(node, nullable)}
        if more == nullable:
            return nullable
        nullable = more


def _is_nullable(node: Node, nullable: set[str]) -> bool:
    if isinstance(node, Call):
        return node.rule in nullable
    if isinstance(node, Repeat):
        return node.least == 0 or _is_nullable(node.item, nullable)
    if isinstance(node, Seq):
        return all(_is_nullable(item, nullable) for item in node.items)
    # Joined and Later count as reading something: all that is joined or put off here does.
    return isinstance(node, Alt) and any(_is_nullable(item, nullable) for item in node.items)
