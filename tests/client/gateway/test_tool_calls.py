"""What Llama 3.1 generates -> text and calls: every form, every cut, nothing lost."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
from llama_fp4.gateway.tool_calls import (
    ArgumentsDelta,
    CallBegin,
    CallBroken,
    CallEnd,
    TextDelta,
    ToolCallParser,
)
from llama_fp4.gateway.tool_calls.answer_source import MAX_HELD
from llama_fp4.gateway.tool_calls.json_scanner import MAX_DEPTH

from tests.support.parsed_calls import CALL, CITY, NAMES, OTHER, QUERY, Parsed, parse


def every_cut(text: str) -> Parsed:
    """The same whole, in any two pieces, and character by character."""
    whole = parse([text])
    for cut in range(1, len(text)):
        assert parse([text[:cut], text[cut:]]) == whole, cut
    assert parse(text) == whole
    return whole


CALLS = {
    "one call": (CALL, [("weather", CITY)]),
    "arguments": (CALL.replace("parameters", "arguments"), [("weather", CITY)]),
    "no arguments": ('{"name": "weather", "parameters": {}}', [("weather", "{}")]),
    "null": ('{"name": "weather", "parameters": null}', [("weather", "{}")]),
    "no space": (CALL.replace(" ", ""), [("weather", CITY.replace(" ", ""))]),
    "pretty": (
        json.dumps(json.loads(CALL), indent=2),
        [("weather", '{\n    "city": "Paris"\n  }')],
    ),
    "arguments first": (
        '{"parameters": {"city": "Paris"}, "name": "weather"}',
        [("weather", CITY)],
    ),
    "with its type": ('{"type": "function", ' + CALL[1:], [("weather", CITY)]),
    "its type last": (CALL[:-1] + ', "type": "function"}', [("weather", CITY)]),
    "with an id": ('{"id": "call_1", ' + CALL[1:], [("weather", CITY)]),
    "the form of a tool": (f'{{"type": "function", "function": {CALL}}}', [("weather", CITY)]),
    "a function's name": (
        '{"type": "function", "function": "weather", "parameters": {"city": "Paris"}}',
        [("weather", CITY)],
    ),
    "as text of JSON": (
        json.dumps({"name": "weather", "parameters": '{"city": "Zürich \\"a\\""}'}),
        [("weather", '{"city": "Zürich \\"a\\""}')],
    ),
    "as an empty text": ('{"name": "weather", "parameters": ""}', [("weather", "{}")]),
    "an escaped name": ('{"na\\u006de": "w\\u0065ather", "parameters": {}}', [("weather", "{}")]),
    "brackets and quotes in text": (
        '{"name": "search", "parameters": {"query": "a {b} [c] \\"d\\" \\\\", "n": {"m": "}}"}}}',
        [("search", '{"query": "a {b} [c] \\"d\\" \\\\", "n": {"m": "}}"}}')],
    ),
    "every type": (
        '{"name": "search", "parameters": {"a": -1.5e+3, "b": true, "c": null, "d": [[], {}], '
        '"e": "\\u00e9 é 中"}}',
        [("search", '{"a": -1.5e+3, "b": true, "c": null, "d": [[], {}], "e": "\\u00e9 é 中"}')],
    ),
    "a call inside of a call": (
        f'{{"name": "search", "parameters": {{"query": {CALL}}}}}',
        [("search", f'{{"query": {CALL}}}')],
    ),
    "semicolon": (f"{CALL}; {OTHER}", [("weather", CITY), ("search", QUERY)]),
    "bare semicolon": (f"{CALL};{OTHER}", [("weather", CITY), ("search", QUERY)]),
    "semicolon with space": (f"{CALL} ; {OTHER}", [("weather", CITY), ("search", QUERY)]),
    "semicolon and line": (f"{CALL};\n{OTHER}", [("weather", CITY), ("search", QUERY)]),
    "lines": (f"{CALL}\n\n{OTHER}", [("weather", CITY), ("search", QUERY)]),
    "comma": (f"{CALL}, {OTHER}", [("weather", CITY), ("search", QUERY)]),
    "nothing between": (f"{CALL}{OTHER}", [("weather", CITY), ("search", QUERY)]),
    "the same function": (f"{CALL}; {CALL}", [("weather", CITY), ("weather", CITY)]),
    "a list": (f"[{CALL}, {OTHER}]", [("weather", CITY), ("search", QUERY)]),
    "a list of one": (f"[ {CALL} ]", [("weather", CITY)]),
    "lists": (f"[{CALL}]\n[{OTHER}]", [("weather", CITY), ("search", QUERY)]),
    "the tag": (f"<|python_tag|>{CALL}", [("weather", CITY)]),
    "the tag and space": (f"<|python_tag|> \n{CALL}", [("weather", CITY)]),
    "the tag before each": (
        f"<|python_tag|>{CALL}<|python_tag|>{OTHER}",
        [("weather", CITY), ("search", QUERY)],
    ),
    "the tag before several": (
        f"<|python_tag|>{CALL};{OTHER}",
        [("weather", CITY), ("search", QUERY)],
    ),
    "the tag before a list": (f"<|python_tag|>[{CALL}]", [("weather", CITY)]),
    "built in": (
        '<|python_tag|>brave_search.call(query="who won, \\"x\\" (2024)")',
        [("brave_search", '{"query": "who won, \\"x\\" (2024)"}')],
    ),
    "built in, several": (
        '<|python_tag|>brave_search.call( query = "x", n=3,\n deep=[true] )',
        [("brave_search", '{"query": "x", "n": 3, "deep": [true]}')],
    ),
    "built in, none": ("<|python_tag|>brave_search.call()", [("brave_search", "{}")]),
    "function": (f"<function=weather>{CITY}</function>", [("weather", CITY)]),
    "function without its end": (f"<function=weather>{CITY}", [("weather", CITY)]),
    "function without a bracket": (f"<function=weather{CITY}</function>", [("weather", CITY)]),
    "function of nothing": ("<function=weather></function>", [("weather", "{}")]),
    "functions": (
        f"<function=weather>\n{CITY}\n</function>\n<function=search>{QUERY}</function>\n",
        [("weather", CITY), ("search", QUERY)],
    ),
    "space around": (f"\n\n {CALL}\n", [("weather", CITY)]),
    "a separator at the end": (f"{CALL};", [("weather", CITY)]),
}
MIXED = {
    "text before": (f"Let me see. {CALL}", [("text", "Let me see. "), ("weather", CITY)]),
    "text after": (f"{CALL} Shall I go on?", [("weather", CITY), ("text", " Shall I go on?")]),
    "text around calls": (
        f"Here: {CALL}; {OTHER} Done.",
        [("text", "Here: "), ("weather", CITY), ("search", QUERY), ("text", " Done.")],
    ),
    "text between": (
        f"{CALL} and then {OTHER}",
        [("weather", CITY), ("text", " and then "), ("search", QUERY)],
    ),
    "a separator before text": (f"{CALL}; so", [("weather", CITY), ("text", "; so")]),
    "text before the tag": (
        f"I check.<|python_tag|>{CALL}",
        [("text", "I check."), ("weather", CITY)],
    ),
    "text after a function": (
        f"<function=weather>{CITY}</function> and",
        [("weather", CITY), ("text", " and")],
    ),
    "a mark after a function": (
        f"<function=weather>{CITY}</fun</b>",
        [("weather", CITY), ("text", "</fun</b>")],
    ),
    "in a fence": (
        f"```json\n{CALL}\n```",
        [("text", "```json\n"), ("weather", CITY), ("text", "\n```")],
    ),
    "braces in text before": (
        f"I use {{search}} <now> [1]: {CALL}",
        [("text", "I use {search} <now> [1]: "), ("weather", CITY)],
    ),
    "braces in text after": (
        f'{CALL} with {{weather}} of {{"city": "Paris"}}',
        [("weather", CITY), ("text", ' with {weather} of {"city": "Paris"}')],
    ),
    "JSON before": (f'{{"a": 1}} {CALL}', [("text", '{"a": 1} '), ("weather", CITY)]),
    "an empty object before the tag": (
        f"{{}}<|python_tag|>{CALL}",
        [("text", "{}"), ("weather", CITY)],
    ),
    "two braces": (f"{{{CALL}", [("text", "{"), ("weather", CITY)]),
    "a list that goes on with data": (
        f'[{CALL}, {{"x": {OTHER}}}, 3]',
        [("weather", CITY), ("text", f', {{"x": {OTHER}}}, 3]')],
    ),
    "an unknown function after a call": (
        f'{CALL}; {{"name": "zip", "parameters": {{}}}}',
        [("weather", CITY), ("text", '; {"name": "zip", "parameters": {}}')],
    ),
    "a broken call after a call": (
        f'{CALL}; {{"name": "weather", "parameters": {{"city": }}}}',
        [("weather", CITY), ("text", '; {"name": "weather", "parameters": {"city": }}')],
    ),
    "a call after a broken call": (
        f'{{"name": "weather", "parameters": {{"city": oops; {OTHER}',
        [("text", '{"name": "weather", "parameters": {"city": oops; '), ("search", QUERY)],
    ),
}
TEXTS = {
    "words": "The weather in Paris is fine.",
    "white space": " \n ",
    "signs": "if a < b and c[0] > {d}: x = [y] <b>z</b>",
    "JSON": '{"city": "Paris", "degrees": [1, 2]}',
    "JSON with words after it": '{"a": 1} is an object',
    "an empty object": "{}",
    "an empty list": "[]",
    "a list": '[1, "a", {"name": "weather"}]',
    "no name": '{"parameters": {"city": "Paris"}}',
    "no arguments": '{"name": "weather"}',
    "a name that is no function's": '{"name": "zip", "parameters": {"city": "Paris"}}',
    "another case": CALL.replace("weather", "Weather"),
    "an empty name": '{"name": "", "parameters": {}}',
    "a name that is no text": '{"name": 1, "parameters": {}}',
    "arguments that are a list": '{"name": "weather", "parameters": ["Paris"]}',
    "arguments that are a number": '{"name": "weather", "parameters": 5}',
    "arguments that are words": '{"name": "weather", "parameters": "Paris"}',
    "arguments with half a character": (
        '{"name": "weather", "parameters": "{\\"a\\": \\"\\ud800\\"}"}'
    ),
    "another type": '{"type": "object", "name": "weather", "parameters": {}}',
    "another member": '{"name": "weather", "description": "x", "parameters": {}}',
    "a call inside of JSON": f'{{"calls": [{CALL}], "more": {CALL}}}',
    "a call inside of a list": f"[1, {CALL}]",
    "a list in a list": f"[[{CALL}]]",
    "a call of an unknown function with a call in it": (f'{{"name": "zip", "parameters": {CALL}}}'),
    "a tool": '{"type": "function", "function": {"name": "weather", "description": "x"}}',
    "functions in functions": '{"function": {"function": ' + CALL + "}}",
    "Python": "{'name': 'weather', 'parameters': {'city': 'Paris'}}",
    "code": "<|python_tag|>print(weather())",
    "the tag alone": "<|python_tag|>",
    "the tag and JSON": '<|python_tag|>{"a": {"b": ' + CALL + "}}",
    "half a tag": "<|python_",
    "half a function": "<function=wea",
    "an unknown function": '<function=zip>{"a": 1}</function>',
    "a function's end": "</function>",
    "built in without the tag": 'brave_search.call(query="x")',
    "built in, unknown": '<|python_tag|>zip.call(query="x")',
    "built in, no call": "<|python_tag|>brave_search.query(1)",
}
BROKEN = {
    "invalid JSON": '{"name": "weather", "parameters": {city: "Paris"}}',
    "a comma too many": '{"name": "weather", "parameters": {"city": "Paris",}}',
    "a bracket missing": '{"name": "weather", "parameters": {"city": ["Paris"}}',
    "a wrong bracket": '{"name": "weather", "parameters": {"city": "Paris"]}',
    "a number that is none": '{"name": "weather", "parameters": {"city": 01}}',
    "not a number": '{"name": "weather", "parameters": {"city": NaN}}',
    "a literal of Python": '{"name": "weather", "parameters": {"city": None}}',
    "a wrong escape": '{"name": "weather", "parameters": {"city": "\\x"}}',
    "a line in a text": '{"name": "weather", "parameters": {"city": "Pa\nris"}}',
    "another member after": '{"name": "weather", "parameters": {}, "x": ' + CALL + "}",
    "both": '{"name": "weather", "parameters": {}, "arguments": {}}',
    "two names": '{"name": "weather", "parameters": {}, "name": "search"}',
    "no colon": '{"name": "weather", "parameters": {"city" "Paris"}}',
    "no comma": '{"name": "weather", "parameters": {"city": "Paris"} "type": "function"}',
    "another type after": '{"name": "weather", "parameters": {}, "type": "x"}',
    "built in without a value": "<|python_tag|>brave_search.call(query=)",
    "built in without a name": '<|python_tag|>brave_search.call("x")',
    "built in without an end": '<|python_tag|>brave_search.call(query="x"',
    "too deep": '{"name": "weather", "parameters": {"a": '
    + "[" * MAX_DEPTH
    + "]" * MAX_DEPTH
    + "}}",
}


@pytest.mark.parametrize("name", CALLS)
def test_each_form_of_a_call(name: str) -> None:
    """Nothing of it is text, and its arguments are what the model wrote."""
    text, expected = CALLS[name]
    assert every_cut(text) == expected


@pytest.mark.parametrize("name", MIXED)
def test_text_around_calls_is_kept(name: str) -> None:
    """Before, between and after them, whatever it looks like."""
    text, expected = MIXED[name]
    assert every_cut(text) == expected


@pytest.mark.parametrize("name", TEXTS)
def test_what_only_looks_like_a_call_is_text(name: str) -> None:
    """Unchanged, to the character."""
    assert every_cut(TEXTS[name]) == [("text", TEXTS[name])]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_call_is_text(name: str) -> None:
    """All of it, though its name and some arguments went out before."""
    assert every_cut(BROKEN[name]) == [("text", BROKEN[name])]


@pytest.mark.parametrize("text", [CALL, f"[{CALL}]", *(text for text, _ in CALLS.values())])
def test_a_call_that_max_tokens_cuts_off_is_text(text: str) -> None:
    """At whatever character: the calls before it stay calls."""
    whole = parse([text])
    for end in range(len(text)):
        parsed = parse([text[:end]])
        calls = [item for item in parsed if item[0] != "text"]
        assert calls == whole[: len(calls)]
        words = "".join(item[1] for item in parsed if item[0] == "text")
        assert text[:end].endswith(words)
        if not calls:
            assert words == text[:end]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{CALL}; {OTHER}", [("weather", CITY), ("text", f"; {OTHER}")]),
        (f"[{CALL}, {OTHER}]", [("weather", CITY), ("text", f", {OTHER}]")]),
        (f"[{CALL}]", [("weather", CITY)]),
        (f"<function=weather>{CITY}</function>", [("weather", CITY)]),
        (f"{CALL}\n", [("weather", CITY)]),
    ],
)
def test_without_parallel_calls_the_first_is_the_only_one(text: str, expected: Parsed) -> None:
    for pieces in ([text], list(text)):
        assert parse(pieces, parallel=False) == expected


def test_without_functions_all_is_text() -> None:
    """As `tool_choice` "none" asks."""
    parser = ToolCallParser(())
    assert [*parser.feed(CALL), *parser.finish()] == [TextDelta(CALL)]


def test_text_and_arguments_go_out_as_they_come() -> None:
    """Nothing waits that is known already."""
    parser = ToolCallParser(NAMES)
    assert parser.feed("Let me ") == [TextDelta("Let me ")]
    assert parser.feed('see. {"name": "search", ') == [TextDelta("see. ")]
    begin, *rest = parser.feed('"parameters": {"que')
    assert isinstance(begin, CallBegin)
    assert (begin.index, begin.name) == (0, "search")
    assert re.fullmatch("call_[0-9a-f]{24}", begin.id)
    assert rest == [ArgumentsDelta(0, '{"que')]
    assert parser.feed('ry": "wea') == [ArgumentsDelta(0, 'ry": "wea')]
    assert not parser.made_calls
    assert parser.feed('ther"}}') == [ArgumentsDelta(0, 'ther"}'), CallEnd(0)]
    assert parser.made_calls
    assert parser.feed(' {"city": [') == [TextDelta(' {"city": [')]
    assert parser.feed('"Par') == [TextDelta('"Par')]
    assert parser.feed("]}. ") == [TextDelta("]}. ")]
    long = '{"name": "' + "x" * 600
    assert parser.feed(long) == [TextDelta(long)]
    assert parser.finish() == []


def test_a_broken_call_gives_its_whole_text() -> None:
    """Beside the arguments that went out before, which are no JSON."""
    parser = ToolCallParser(NAMES)
    begin, delta = parser.feed('{"name": "search", "parameters": {"query": "we')
    assert isinstance(begin, CallBegin)
    assert delta == ArgumentsDelta(0, '{"query": "we')
    text = '{"name": "search", "parameters": {"query": "we'
    assert parser.finish() == [CallBroken(0, text)]
    assert not parser.made_calls


def test_what_waits_is_bounded() -> None:
    """White space, a call without an end, and arguments whose name does not come."""
    for begin, filling in (
        ('{"name": "search", "parameters": {"query": "', "x"),
        ('{"parameters": {"query": "', "x"),
        ('{"name":', " "),
        ('{"name": "', "x"),
        ("", " "),
    ):
        parser = ToolCallParser(NAMES)
        events = parser.feed(begin)
        piece = filling * 4096
        for _ in range(MAX_HELD // 4096 + 2):
            events += parser.feed(piece)
        words = "".join(e.text for e in events if isinstance(e, TextDelta | CallBroken))
        assert words == begin + piece * (MAX_HELD // 4096 + 2)
        assert not parser.made_calls


def test_the_cost_is_linear() -> None:
    """Nothing is read twice: counted in steps of the interpreter, at two lengths."""

    def steps(text: str) -> int:
        count = 0

        def counted(frame: Any, event: str, argument: Any) -> Any:
            nonlocal count
            count += 1
            return counted

        parser = ToolCallParser(NAMES)
        sys.settrace(counted)
        try:
            parser.feed(text)
            parser.finish()
        finally:
            sys.settrace(None)
        return count

    hostile = ("{", "[", "<", '{"name":', '{"parameters":', f"{CALL};", "<|python_tag|>", '{"a":')
    for unit in hostile:
        assert steps(unit * 400) < 3 * steps(unit * 200)
