"""Several calls in one message, for templates that take one: as if they had been made in turn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_messages import parse_messages
from single_calls import with_single_calls

from tests.preprocessing.test_chat_corpus import LLAMA_31, Conversation
from tests.preprocessing.test_chat_equality import encode, load, theirs

USER: dict[str, Any] = {"role": "user", "content": "x"}
SEVERAL = (
    "{{ bos_token }}{% for m in messages %}{{ m | tojson }}{{ (m.tool_calls or []) | length }}"
    "{% endfor %}"
)


def call(name: str, identity: str | None = "", arguments: Any = '{"a": 1}') -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    given = {"id": name if identity == "" else identity, "type": "function", "function": function}
    return {key: value for key, value in given.items() if value is not None}


def calling(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", **more, "tool_calls": list(calls)}


def result(identity: str | None, content: str) -> dict[str, Any]:
    given = {"role": "tool", "tool_call_id": identity, "content": content}
    return {key: value for key, value in given.items() if value is not None}


F, G, H = call("f"), call("g"), call("h")
CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "in order": (
        [USER, calling(F, G), result("f", "1"), result("g", "2"), USER],
        [USER, calling(F), result("f", "1"), calling(G), result("g", "2"), USER],
    ),
    "out of order": (
        [calling(F, G, H), result("h", "3"), result("f", "1"), result("g", "2")],
        [calling(F), result("f", "1"), calling(G), result("g", "2"), calling(H), result("h", "3")],
    ),
    "with words": (
        [calling(F, G, content="I ask both."), result("f", "1"), result("g", "2")],
        [calling(F, content="I ask both."), result("f", "1"), calling(G), result("g", "2")],
    ),
    "a result is missing": (
        [calling(F, G), result("g", "2"), USER],
        [calling(F), calling(G), result("g", "2"), USER],
    ),
    "no results": ([calling(F, G)], [calling(F), calling(G)]),
    "a result of no call": (
        [calling(F, G), result("z", "9"), result("f", "1"), result("g", "2")],
        [calling(F), result("f", "1"), calling(G), result("g", "2"), result("z", "9")],
    ),
    "two results of one call": (
        [calling(F, G), result("f", "1"), result("f", "2")],
        [calling(F), result("f", "1"), calling(G), result("f", "2")],
    ),
    "without ids": (
        [calling(call("f", None), call("g", None)), result(None, "1"), result(None, "2")],
        [calling(call("f", None)), result(None, "1"), calling(call("g", None)), result(None, "2")],
    ),
    "without ids, too few": (
        [calling(call("f", None), call("g", None)), result(None, "1")],
        [calling(call("f", None)), calling(call("g", None)), result(None, "1")],
    ),
    "twice": (
        [calling(F, G), result("f", "1"), result("g", "2"), calling(G, H), result("g", "3")],
        [
            calling(F),
            result("f", "1"),
            calling(G),
            result("g", "2"),
            calling(G),
            result("g", "3"),
            calling(H),
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_call_gets_a_message_and_its_result(name: str) -> None:
    """Llama 3.1's template renders them to the same prompt as transformers does."""
    messages, single = CASES[name]
    assert with_single_calls(messages) == single
    if messages[0] is not USER:
        messages, single = [USER, *messages], [USER, *single]
    as_objects = parse_messages(json.dumps(single))
    expected = theirs(LLAMA_31, Conversation(as_objects, None))
    assert encode(load(LLAMA_31), json.dumps(messages)) == expected


def test_arguments_of_any_form() -> None:
    """A string, an object, no arguments, and a string that is not JSON."""
    for arguments in ('{"a": 1}', {"a": 1}, None, "", '{"a": '):
        calls = [call("f", arguments=arguments), call("g", arguments=arguments)]
        document = json.dumps([USER, calling(*calls), result("f", "1"), result("g", "2")])
        prompt = load(LLAMA_31).render(parse_messages(document))
        assert str(prompt).count('"parameters": ') == 2


def test_a_template_that_takes_several_gets_them() -> None:
    """In one message, as they were sent."""
    messages = [USER, calling(F, G), result("f", "1"), result("g", "2")]
    ids = encode(load(SEVERAL), json.dumps(messages))
    assert ids == theirs(SEVERAL, Conversation(parse_messages(json.dumps(messages)), None))
