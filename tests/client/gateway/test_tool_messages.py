"""Events of an answer as a chat's message, whole and in deltas."""

from __future__ import annotations

from typing import Any

import pytest
from llama_fp4.gateway.tool_calls import ToolCallParser
from llama_fp4.gateway.tool_calls.messages import deltas_of, message_of

from tests.support.parsed_calls import CALL, CITY, NAMES, OTHER, QUERY


def joined(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """As a client joins them: texts are added up, calls by their index."""
    content, calls = "", dict[int, dict[str, Any]]()
    for delta in deltas:
        content += delta.get("content", "")
        for piece in delta.get("tool_calls", ()):
            call = calls.setdefault(piece["index"], {"function": {"name": "", "arguments": ""}})
            call.update({key: piece[key] for key in ("id", "type") if key in piece})
            for key, text in piece["function"].items():
                call["function"][key] += text
    return {"content": content, "calls": list(calls.values())}


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Hello", "Hello", []),
        ("", "", []),
        (CALL, None, [("weather", CITY)]),
        (f"I see. {CALL}; {OTHER} Done.", "I see.  Done.", [("weather", CITY), ("search", QUERY)]),
    ],
)
def test_a_message_whole_and_in_deltas(text: str, content: str | None, calls: Any) -> None:
    """The same content and calls, with ids."""
    parser = ToolCallParser(NAMES)
    events = [event for piece in text for event in parser.feed(piece)] + parser.finish()
    message = message_of(events)
    assert message["content"] == content
    made = message.get("tool_calls", [])
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in made] == calls
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in made)
    streamed = joined(list(deltas_of(events)))
    assert streamed["content"] == (content or "")
    assert streamed["calls"] == made


def test_a_broken_call_is_in_the_content_of_both() -> None:
    """In the stream its first arguments have gone out too, which no client can take for JSON."""
    text = '{"name": "weather", "parameters": {"city": "Pa'
    parser = ToolCallParser(NAMES)
    events = [*parser.feed(text), *parser.finish()]
    assert message_of(events) == {"content": text}
    streamed = joined(list(deltas_of(events)))
    assert streamed["content"] == text
    assert streamed["calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Pa'}
