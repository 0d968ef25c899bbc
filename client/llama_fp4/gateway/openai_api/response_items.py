"""Text and calls -> the items of a response, and the events that tell of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from llama_fp4.gateway.tool_calls import (
    ArgumentsDelta,
    CallBegin,
    CallBroken,
    CallEnd,
    Event,
    TextDelta,
)

Item = dict[str, Any]


class ResponseItems:
    """`add` returns the events of what has come; `items` is the output so far."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._open: Item | None = None  # the last item, while it grows
        self._pieces: list[str] = []  # of its text or arguments

    def add(self, events: Iterable[Event]) -> list[Item]:
        """The API's events for the parser's."""
        told: list[Item] = []
        for event in events:
            if isinstance(event, TextDelta):
                told += self.add_text(event.text)
            elif isinstance(event, CallBegin):
                told += [*self.close(), *self._begin_call(event)]
            elif isinstance(event, ArgumentsDelta):
                told += self._delta("response.function_call_arguments.delta", event.text)
            elif isinstance(event, CallEnd):
                told += self.close()
            elif isinstance(event, CallBroken):
                told += [*self.close("incomplete"), *self.add_text(event.text)]
        return told

    def add_text(self, text: str) -> list[Item]:
        """The API's events for a piece of text."""
        if not text:
            return []
        told: list[Item] = []
        if self._open is None or self._open["type"] != "message":
            told += [*self.close(), *self._begin_message()]
        return told + self._delta("response.output_text.delta", text)

    def close(self, status: str = "completed") -> list[Item]:
        """The last item is complete."""
        item, self._open = self._open, None
        if item is None:
            return []
        text, self._pieces = "".join(self._pieces), []
        item["status"] = status
        where = self._where(item)
        if item["type"] == "function_call":
            item["arguments"] = text
            kind = "response.function_call_arguments.done"
            told = [{"type": kind, **where, "name": item["name"], "arguments": text}]
        else:
            part = _part(text)
            item["content"] = [part]
            place = {**where, "content_index": 0}
            told = [
                {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
                {"type": "response.content_part.done", **place, "part": part},
            ]
        index = where["output_index"]
        told.append({"type": "response.output_item.done", "output_index": index, "item": item})
        return told

    def finish(self, status: str) -> list[Item]:
        """The answer has ended; a response without any words has an empty message."""
        told = [] if self.items else self._begin_message()
        return [*told, *self.close(status)]

    def _begin_message(self) -> list[Item]:
        item: Item = {"type": "message", "role": "assistant", "content": []}
        told = self._begin({"id": f"msg_{uuid.uuid4().hex}", **item})
        assert self._open is not None
        place = {**self._where(self._open), "content_index": 0}
        return [*told, {"type": "response.content_part.added", **place, "part": _part("")}]

    def _begin_call(self, event: CallBegin) -> list[Item]:
        named = {"call_id": event.id, "name": event.name, "arguments": ""}
        return self._begin({"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", **named})

    def _begin(self, item: Item) -> list[Item]:
        item["status"] = "in_progress"
        self.items.append(item)
        self._open = item
        index = len(self.items) - 1
        told = {"type": "response.output_item.added", "output_index": index, "item": dict(item)}
        return [told]

    def _delta(self, kind: str, text: str) -> list[Item]:
        assert self._open is not None
        self._pieces.append(text)
        told = {"type": kind, **self._where(self._open), "delta": text}
        if self._open["type"] == "message":
            told |= {"content_index": 0, "logprobs": []}
        return [told]

    def _where(self, item: Item) -> Item:
        return {"item_id": item["id"], "output_index": len(self.items) - 1}


def is_broken_call(item: Item) -> bool:
    """Whether an item of a whole output is a call that turned out to be none."""
    return bool(item["type"] == "function_call" and item["status"] == "incomplete")


def _part(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
