"""Wraps an answer at the terminal's margin, word by word, as it streams.

A word is held back until it is complete, so that nothing on the screen moves. Text that does
not go to a terminal is not changed.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import TextIO

from llama_fp4.cli.output import shown

NARROWEST = 20  # columns; a narrower terminal, or one of unknown width, is not wrapped
TAB = 8
JOINER, EMOJI_STYLE = "\u200d", "\ufe0f"
SKIN_TONES = range(0x1F3FB, 0x1F400)
JOINED_JAMO = range(0x1160, 0x1200)  # vowels and finals, drawn into the syllable before them
NOT_FIRST = frozenset("、。，．：；！？）」』】》〉〕…ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ")  # noqa: RUF001


def char_width(character: str, before: str = "") -> int:
    """Columns that a character takes after the character before it (Unicode's UAX 11)."""
    if before == JOINER or ord(character) in SKIN_TONES or ord(character) in JOINED_JAMO:
        return 0
    if character == EMOJI_STYLE:  # makes a narrow character before it wide
        return 1 if before and char_width(before) == 1 else 0
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def text_width(text: str) -> int:
    """Columns of a text without tabs and newlines."""
    pairs = zip(("", *text), text, strict=False)
    return sum(char_width(character, before) for before, character in pairs)


class Wrapped:
    """Writes one answer; `flush` at its end writes what is held back."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._wraps = self._stream.isatty()
        self._column = 0  # where the terminal's cursor is
        self._blanks = self._word = ""  # not written yet, in this order

    def write(self, text: str) -> None:
        """Write a piece of the answer."""
        self._put(self.feed(text))

    def flush(self) -> None:
        """Write what is held back."""
        self._put(self.rest())

    def feed(self, text: str) -> str:
        """Add text; returns what can be written now."""
        text = shown(self._stream, text)
        limit = self._limit() if self._wraps else 0
        if not limit:
            return self.rest() + text
        return "".join(self._add(character, limit) for character in text)

    def rest(self) -> str:
        """What is held back."""
        text = self._word_out(self._limit()) + self._blanks
        self._blanks = ""
        return text

    def _put(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()

    def _limit(self) -> int:
        """Columns of a line, by the current size of the terminal; 0: no limit."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            return 0
        # The last column stays free, because terminals differ in where the cursor is after it.
        return columns - 1 if columns >= NARROWEST else 0

    def _add(self, character: str, limit: int) -> str:
        """Add a character; returns what can be written now."""
        if character == "\n":
            out = self._word_out(limit) + self._blanks + "\n"
            self._column, self._blanks = 0, ""
            return out
        if character in " \t":
            out = self._word_out(limit)
            self._blanks += character
            return out
        out = self._word_out(limit) if self._may_break_before(character) else ""
        self._word += character
        if text_width(self._word) >= limit:  # longer than a line: broken at the margin
            out += self._word_out(limit)
        return out

    def _may_break_before(self, character: str) -> bool:
        """Whether a line may end here without a blank: beside Chinese and Japanese characters."""
        if not self._word or character in NOT_FIRST or not char_width(character, self._word[-1]):
            return False
        return 2 in (char_width(character), text_width(self._word[-1]))

    def _word_out(self, limit: int) -> str:
        """The word after its blanks, or after a newline instead of them."""
        word, blanks = self._word, self._blanks
        if not word:
            return ""
        self._word = self._blanks = ""
        column, width = _after(blanks, self._column), text_width(word)
        if limit and self._column and column + width > limit:
            self._column = width
            return f"\n{word}"
        self._column = column + width
        return blanks + word


def wrapped(stream: TextIO, text: str) -> str:
    """A whole text, wrapped for the terminal of that stream."""
    lines = Wrapped(stream)
    return lines.feed(text) + lines.rest()


def _after(blanks: str, column: int) -> int:
    """The column after blanks."""
    for blank in blanks:
        column += TAB - column % TAB if blank == "\t" else 1
    return column
