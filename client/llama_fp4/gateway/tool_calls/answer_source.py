"""The text of an answer as it comes, read by generators that wait for more of it.

A reader is a generator: it yields when it has read all that came, and goes on when more is there.
So a grammar can be written as if the whole text were known.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Reading: TypeAlias = Generator[None, None, T]

# Characters that may wait for what follows, and that a call may have: as many as any answer's.
MAX_HELD = 1 << 20
SPACE = " \t\r\n"


class NotACall(Exception):
    """What was read is no call."""


class AnswerSource:
    """`chunk[at:]` is what has come and is not read yet; "" from `peek` is the answer's end."""

    def __init__(self) -> None:
        self.chunk = ""
        self.at = 0
        self.ended = False
        self._held: list[str] | None = None
        self._held_size = 0
        self._held_from = 0  # in the chunk

    def put(self, chunk: str) -> None:
        """More of the answer, when all of the chunk before it is read."""
        if self._held is not None:
            self._held.append(self.chunk[self._held_from :])
            self._held_size += len(self.chunk) - self._held_from
        self.chunk, self.at, self._held_from = chunk, 0, 0

    def hold(self) -> None:
        """Keep what is read from here on, for `release`."""
        self._held, self._held_size, self._held_from = [], 0, self.at

    def release(self) -> str:
        """What was read since `hold`."""
        held = "".join((*(self._held or ()), self.chunk[self._held_from : self.at]))
        self._held = None
        return held

    def peek(self) -> Reading[str]:
        """The next character; raises `NotACall` if too much is held."""
        while self.at == len(self.chunk):
            if self.ended:
                return ""
            if self._held is not None and self._held_size + self.at > MAX_HELD:
                raise NotACall
            yield
        return self.chunk[self.at]

    def take(self) -> Reading[str]:
        """Read the next character."""
        character = yield from self.peek()
        self.at += len(character)
        return character

    def expect(self, text: str) -> Reading[None]:
        """Read exactly this, or raise `NotACall`."""
        for wanted in text:
            if (yield from self.peek()) != wanted:
                raise NotACall
            self.at += 1

    def one_of(self, *texts: str) -> Reading[str]:
        """Read one of the texts, none of which begins another, or raise `NotACall`."""
        read = ""
        while read not in texts:
            character = yield from self.peek()
            longer = read + character
            if not character or not any(text.startswith(longer) for text in texts):
                raise NotACall
            read = longer
            self.at += 1
        return read

    def skipped(self, text: str) -> Reading[bool]:
        """Read this text if it comes; while nothing is held."""
        read = ""
        while read != text and (yield from self.peek()) == text[len(read)]:
            read += text[len(read)]
            self.at += 1
        if read != text:
            self.chunk, self.at = read + self.chunk[self.at :], 0
        return read == text

    def word(self, characters: frozenset[str], most: int) -> Reading[str]:
        """Read as many of these characters as come."""
        read = ""
        while len(read) < most and (yield from self.peek()) in characters:
            read += self.chunk[self.at]
            self.at += 1
        return read

    def space(self, most: int = MAX_HELD) -> Reading[str]:
        """Read white space."""
        pieces, size = [], 0
        while size < most:
            character = yield from self.peek()
            if not character or character not in SPACE:
                break
            pieces.append(character)
            size += 1
            self.at += 1
        return "".join(pieces)
