"""What a parser of tool calls makes of an answer, in a form that tests compare."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llama_fp4.gateway.tool_calls import (
    ArgumentsDelta,
    CallBegin,
    CallBroken,
    CallEnd,
    TextDelta,
    ToolCallParser,
)

NAMES = ("weather", "search", "brave_search")
CITY = '{"city": "Paris"}'
CALL = '{"name": "weather", "parameters": {"city": "Paris"}}'
OTHER = '{"name": "search", "parameters": {"query": "x"}}'
QUERY = '{"query": "x"}'
Parsed = list[tuple[str, ...]]


def parse(pieces: Iterable[str], parallel: bool = True) -> Parsed:
    """Text as ("text", ...) and calls as (name, arguments), in order, and broken calls as text."""
    parser = ToolCallParser(NAMES, parallel)
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    parsed: Parsed = []
    ids: list[str] = []
    name, arguments, ended = "", "", True
    for event in events:
        if isinstance(event, CallBegin):
            assert ended
            assert event.index == len(ids)
            ids.append(event.id)
            name, arguments, ended = event.name, "", False
        elif isinstance(event, ArgumentsDelta):
            assert event.text
            assert event.index == len(ids) - 1
            arguments += event.text
        elif isinstance(event, CallEnd):
            assert isinstance(json.loads(arguments), dict)
            parsed.append((name, arguments))
            ended = True
        else:
            assert isinstance(event, TextDelta | CallBroken)
            assert ended or isinstance(event, CallBroken)
            assert event.text
            ended = True
            if parsed and parsed[-1][0] == "text":
                parsed[-1] = ("text", parsed[-1][1] + event.text)
            else:
                parsed.append(("text", event.text))
    assert ended
    assert len(set(ids)) == len(ids)
    assert parser.made_calls == any(kind != "text" for kind, *_ in parsed)
    return parsed
