"""Text and calls in the form of a chat completion: a whole message, or its deltas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from llama_fp4.gateway.tool_calls.events import (
    ArgumentsDelta,
    CallBegin,
    CallBroken,
    Event,
    TextDelta,
)


def message_of(events: Iterable[Event]) -> dict[str, Any]:
    """`content` and, if there are any, `tool_calls` of an assistant's message.

    A broken call is in its text alone. The content is null beside calls without words.
    """
    texts: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, CallBegin):
            calls[event.index] = _call(event)
        elif isinstance(event, ArgumentsDelta):
            calls[event.index]["function"]["arguments"] += event.text
        elif isinstance(event, TextDelta):
            texts.append(event.text)
        elif isinstance(event, CallBroken):
            texts.append(event.text)
            del calls[event.index]
    content = "".join(texts)
    if not calls:
        return {"content": content}
    return {"content": content or None, "tool_calls": list(calls.values())}


def deltas_of(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """The deltas of a streamed message."""
    for event in events:
        if isinstance(event, TextDelta | CallBroken):
            yield {"content": event.text}
        elif isinstance(event, CallBegin):
            yield {"tool_calls": [{"index": event.index, **_call(event)}]}
        elif isinstance(event, ArgumentsDelta):
            function = {"arguments": event.text}
            yield {"tool_calls": [{"index": event.index, "function": function}]}


def _call(event: CallBegin) -> dict[str, Any]:
    function = {"name": event.name, "arguments": ""}
    return {"id": event.id, "type": "function", "function": function}
