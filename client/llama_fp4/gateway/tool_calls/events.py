"""What a model's answer is made of: text and calls of functions, as they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """Call number `index` (from 0) calls the function `name`; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A piece of a call's arguments: joined they are the text of a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call is complete."""

    index: int


@dataclass(frozen=True, slots=True)
class CallBroken:
    """What was begun as a call is none: its JSON has a fault, or the answer ended inside it.

    `text` is all that the model wrote of it, and belongs to the answer's text. Arguments that went
    out before cannot be taken back; they are no JSON object, or not the whole call.
    """

    index: int
    text: str


Event: TypeAlias = TextDelta | CallBegin | ArgumentsDelta | CallEnd | CallBroken


class EventList:
    """The events of one piece of an answer; texts that follow each other are joined."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._index = -1  # of the call whose arguments the pieces are; -1 for text
        self._pieces: list[str] = []

    def add(self, event: Event) -> None:
        """Any event, after the pieces before it."""
        self._join()
        self._events.append(event)

    def add_text(self, text: str) -> None:
        """A piece of text."""
        self._add_piece(-1, text)

    def add_arguments(self, index: int, text: str) -> None:
        """A piece of a call's arguments."""
        self._add_piece(index, text)

    def take(self) -> list[Event]:
        """All of them; then it is empty."""
        self._join()
        events, self._events = self._events, []
        return events

    def _add_piece(self, index: int, text: str) -> None:
        if index != self._index:
            self._join()
            self._index = index
        self._pieces.append(text)

    def _join(self) -> None:
        text = "".join(self._pieces)
        self._pieces = []
        if text:
            index = self._index
            self._events.append(TextDelta(text) if index < 0 else ArgumentsDelta(index, text))
