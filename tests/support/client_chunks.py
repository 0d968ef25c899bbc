"""Chunks of a made-up answer, for clients whose transport is a function."""

from __future__ import annotations

from collections.abc import Iterator

from llama_fp4 import Chunk, Request


def chunk(index: int, final: bool = False, text: str = "x") -> Chunk:
    """One token, whose id is its index; the final one ends a request of four prompt tokens."""
    return Chunk(text, (index,), index, final, "stop" if final else "", "", 1, 4 if final else 0)


def three(request: Request) -> Iterator[Chunk]:
    """A handler that answers every request with the same three chunks."""
    yield from (chunk(0), chunk(1), chunk(2, final=True))
