"""`tools` and `tool_choice` of a request: refusals, and guides under which an answer is a call."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llama_fp4.gateway.tool_calls import (
    ArgumentsDelta,
    CallBegin,
    CallEnd,
    ToolCallParser,
    ToolError,
    ToolUse,
    guides_for,
    read_tool_use,
    refusal_of,
)

from tests.support.guide_matching import check_guide, compiled, matches, write

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city"],
    "additionalProperties": False,
}
# As pydantic writes a model that holds another one, and itself.
TRIP = {
    "$defs": {
        "Stop": {
            "properties": {
                "city": {"type": "string"},
                "then": {"anyOf": [{"$ref": "#/$defs/Stop"}, {"type": "null"}]},
            },
            "required": ["city", "then"],
            "title": "Stop",
            "type": "object",
            "additionalProperties": False,
        }
    },
    "properties": {"first": {"$ref": "#/$defs/Stop"}, "$ref": {"enum": [{"$ref": "#/x"}]}},
    "required": ["first"],
    "title": "Trip",
    "type": "object",
    "additionalProperties": False,
}
REFUSED = {
    "type": "object",
    "properties": {"x": {"$ref": "https://example.org/x"}},
    "required": ["x"],
}


def tool(name: Any = "weather", parameters: Any = WEATHER, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def read(*tools: dict[str, Any], **fields: Any) -> ToolUse:
    return read_tool_use({"tools": list(tools), **fields})


NAMED = {"type": "function", "function": {"name": "weather"}}
WRONG_TOOLS: list[tuple[Any, str, str]] = [
    ({}, "tools", "tools is {} and must be a list"),
    ("x", "tools", "tools is 'x' and must be a list"),
    ([tool()] * 129, "tools", "tools is a list of 129 and must hold at most 128"),
    ([tool()] * 10_000, "tools", "tools is a list of 10000"),
    ([None], "tools[0]", "tools[0] is missing and must be an object"),
    ([5], "tools[0]", "tools[0] is 5 and must be an object"),
    ([{}], "tools[0].type", "tools[0].type is missing and must be 'function'"),
    ([{**tool(), "type": "custom"}], "tools[0].type", "is 'custom' and must be 'function'"),
    ([{**tool(), "strict": True}], "tools[0].strict", "must have only type, function"),
    ([{"type": "function"}], "tools[0].function", "is missing and must be an object"),
    ([tool(None)], "tools[0].function.name", "is missing and must be 1 to 64 of the characters"),
    ([tool("")], "tools[0].function.name", "is '' and must be"),
    ([tool("a b")], "tools[0].function.name", "is 'a b' and must be"),
    ([tool("é")], "tools[0].function.name", "and must be 1 to 64"),
    ([tool("a\n")], "tools[0].function.name", "and must be 1 to 64"),
    ([tool("a" * 65)], "tools[0].function.name", "and must be 1 to 64"),
    ([tool(["a"])], "tools[0].function.name", "is ['a'] and must be"),
    ([tool(), tool("b"), tool()], "tools[2].function.name", "the name of tools[0].function too"),
    ([tool(parameters="{}")], "tools[0].function.parameters", "is '{}' and must be an object"),
    ([tool(parameters=[])], "tools[0].function.parameters", "is [] and must be an object"),
    (
        [tool(parameters={"type": "string"})],
        "tools[0].function.parameters.type",
        "must be 'object'",
    ),
    ([tool(parameters={"type": ["object"]})], "tools[0].function.parameters.type", "'object'"),
    ([tool(parameters={"properties": []})], "tools[0].function.parameters.properties", "an object"),
    ([tool(parameters={"required": "city"})], "tools[0].function.parameters.required", "a list"),
    ([tool(description=1)], "tools[0].function.description", "is 1 and must be a string"),
    ([tool(strict="yes")], "tools[0].function.strict", "is 'yes' and must be true or false"),
    ([tool(stict=True)], "tools[0].function.stict", "has the key 'stict' and must have only name"),
]
WRONG_CHOICES: list[tuple[Any, str, str]] = [
    ("any", "tool_choice", "is 'any' and must be one of none, auto, required or an object"),
    (5, "tool_choice", "is 5 and must be an object"),
    ({}, "tool_choice.type", "is missing and must be 'function' or 'allowed_tools'"),
    ({"type": "function"}, "tool_choice.function", "is missing and must be an object"),
    ({"type": "function", "name": "weather"}, "tool_choice.function", "must be an object"),
    (
        {"type": "function", "function": {"name": "zip"}},
        "tool_choice.function.name",
        "is 'zip' and must be the name of one of the tools",
    ),
    ({"type": "allowed_tools"}, "tool_choice.allowed_tools", "must be an object"),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": [NAMED]}},
        "tool_choice.allowed_tools.mode",
        "is 'none' and must be 'auto' or 'required'",
    ),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        "tool_choice.allowed_tools.tools",
        "is [] and must be a list of tools",
    ),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED, {}]}},
        "tool_choice.allowed_tools.tools[1].type",
        "is missing and must be 'function'",
    ),
]


@pytest.mark.parametrize(("tools", "param", "said"), WRONG_TOOLS)
def test_wrong_tools_are_refused(tools: Any, param: str, said: str) -> None:
    """By the path of the field that is wrong."""
    with pytest.raises(ToolError) as caught:
        read_tool_use({"tools": tools})
    assert caught.value.param == param
    assert said in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(("choice", "param", "said"), WRONG_CHOICES)
def test_wrong_choices_are_refused(choice: Any, param: str, said: str) -> None:
    """By the path of the field that is wrong."""
    with pytest.raises(ToolError) as caught:
        read(tool(), tool_choice=choice)
    assert caught.value.param == param
    assert said in caught.value.message


def test_a_choice_needs_tools() -> None:
    """A call cannot be asked for without them; the other choices say nothing then."""
    nothing: list[Any] = [None, []]
    for tools in nothing:
        with pytest.raises(ToolError, match="tool_choice asks for a call and tools is empty"):
            read_tool_use({"tools": tools, "tool_choice": "required"})
    harmless: list[dict[str, Any]] = [
        {},
        {"tools": None, "tool_choice": "auto"},
        {"tools": [], "tool_choice": "none"},
    ]
    for fields in harmless:
        use = read_tool_use(fields)
        assert not use.prompt_tools
        assert not use.names
    with pytest.raises(ToolError, match="parallel_tool_calls is 1 and must be true or false"):
        read(tool(), parallel_tool_calls=1)


def test_what_each_choice_allows() -> None:
    """The functions that an answer may call, and the tools that the model is shown."""
    tools = (tool(), tool("b", None, description="x", strict=True))
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "b"}}]}
    for choice, names, shown, guided in (
        (None, {"weather", "b"}, 2, True),  # as b is strict
        ("auto", {"weather", "b"}, 2, True),
        ("none", set(), 0, False),
        ("required", {"weather", "b"}, 2, True),
        (NAMED, {"weather"}, 2, True),
        ({"type": "allowed_tools", "allowed_tools": allowed}, {"b"}, 2, True),
    ):
        use = read(*tools, tool_choice=choice)
        assert use.names == names
        assert len(use.prompt_tools) == shown
        assert bool(guides_for(use)) == guided
    assert read(*tools).prompt_tools == [
        {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
        {
            "type": "function",
            "function": {
                "name": "b",
                "description": "x",
                "parameters": {"type": "object", "properties": {}},
            },
        },
    ]


def test_the_responses_api_writes_a_function_flat() -> None:
    """The same tools and choices, with other paths."""
    flat = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    body: dict[str, Any] = {"tools": [flat], "tool_choice": {"type": "function", "name": "weather"}}
    use = read_tool_use(body, flat=True)
    assert use.tools[0].strict
    assert use.is_named
    assert use.prompt_tools == read(tool()).prompt_tools
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [body["tool_choice"]]}
    assert read_tool_use({**body, "tool_choice": allowed}, flat=True).mode == "required"
    with pytest.raises(ToolError) as caught:
        read_tool_use({"tools": [{**flat, "name": 1}]}, flat=True)
    assert caught.value.param == "tools[0].name"
    with pytest.raises(ToolError, match="is 'web_search' and must be 'function'"):
        read_tool_use({"tools": [{"type": "web_search"}]}, flat=True)


def answers_of(use: ToolUse, count: int) -> list[str]:
    """Random texts that the OpenVINO runtime would let a model write under the first guide."""
    guide = guides_for(use)[0]
    check_guide(guide.kind, guide.text)
    return [write(compiled(guide.kind, guide.text), Random(seed)) for seed in range(count)]


def calls_in(use: ToolUse, text: str) -> list[tuple[str, Any]]:
    """The calls of an answer that must be nothing but calls."""
    parser = ToolCallParser(use.names, use.parallel)
    names, arguments = list[str](), dict[int, str]()
    for event in [*parser.feed(text), *parser.finish()]:
        if isinstance(event, CallBegin):
            names.append(event.name)
            continue
        assert isinstance(event, ArgumentsDelta | CallEnd), (event, text)
        if isinstance(event, ArgumentsDelta):
            arguments[event.index] = arguments.get(event.index, "") + event.text
    assert parser.made_calls
    return [(name, json.loads(arguments[index])) for index, name in enumerate(names)]


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": "required", "parallel_tool_calls": False},
        {"tool_choice": NAMED},
    ],
)
def test_whatever_a_guide_lets_through_is_a_valid_call(fields: dict[str, Any]) -> None:
    """jsonschema takes all arguments, and no text is left."""
    schemas = {
        "weather": WEATHER,
        "trip": TRIP,
        "now": {"type": "object", "properties": {}, "additionalProperties": False},
        "find": {"properties": {"query": {"type": "string"}}, "required": ["query"]},
    }
    given = [tool(name, None if name == "now" else schema) for name, schema in schemas.items()]
    use = read(*given, **fields)
    called, most = set(), 0
    for text in answers_of(use, 60):
        calls = calls_in(use, text)
        most = max(most, len(calls))
        for name, arguments in calls:
            called.add(name)
            Draft202012Validator(schemas[name]).validate(arguments)
    assert called == set(use.names)
    assert (most > 1) == (fields == {"tool_choice": "required"})


def test_a_guide_takes_the_calls_that_a_model_writes() -> None:
    """Llama's own form, and a list of it; no other function, no other arguments."""
    use = read(tool(), tool("trip", TRIP), tool_choice="required")
    grammar = compiled(*guides_for(use)[0])
    good = '{"name": "weather", "parameters": {"city": "Paris", "days": 3}}'
    trip = '{"name": "trip", "parameters": {"first": {"city": "Rome", "then": null}}}'
    for text in (good, trip, f"[{good}, {trip}]", f"[{good}]"):
        assert matches(grammar, text), text
    for text in (
        "Paris",
        "{}",
        "[]",
        good.replace("weather", "zip"),
        good.replace("3", "15"),
        good.replace("city", "town"),
        trip.replace("null", "1"),
        f"{good} {good}",
    ):
        assert not matches(grammar, text), text


def test_without_strict_a_refused_schema_still_gives_a_call() -> None:
    """The last guide holds the form, with any object for arguments; a strict tool has none such."""
    use = read(tool("bad", REFUSED), tool_choice="required")
    first, *_, last = guides_for(use)
    with pytest.raises(ValueError, match="https:"):
        compiled(*first)
    check_guide(last.kind, last.text)
    assert matches(compiled(*last), '{"name": "bad", "parameters": {"x": [1, 1]}}')
    mixed = read(tool("bad", REFUSED), tool(strict=True), tool_choice="required")
    grammar = compiled(*guides_for(mixed)[-1])
    assert matches(grammar, '{"name": "bad", "parameters": {"x": 1}}')
    assert matches(grammar, '{"name": "weather", "parameters": {"city": "Paris"}}')
    assert not matches(grammar, '{"name": "weather", "parameters": {"x": 1}}')


def test_a_refused_strict_schema_is_named() -> None:
    """The tool, the place in its schema and the keyword."""
    use = read(tool(), tool("bad", REFUSED, strict=True), tool_choice="required")
    for guide in guides_for(use):
        with pytest.raises(ValueError, match="https:") as caught:
            compiled(*guide)
    error = refusal_of(str(caught.value), use)
    assert error.param == "tools[1].function.parameters"
    assert "of the tool 'bad' cannot be held" in error.message
    assert "at #/properties/x" in error.message
    assert "$ref 'https://example.org/x'" in error.message
    other = refusal_of("guided_decoding_guide needs more than 10000 states", use)
    assert other.param == "tools"
    assert "10000 states" in other.message


def test_many_tools_with_large_schemas() -> None:
    """128 tools: a guide of bounded size, unless a strict one makes that impossible."""
    wide = {
        "type": "object",
        "properties": {f"property_{n}": {"type": "string"} for n in range(40)},
    }
    tools = [tool(f"tool_{n}", wide) for n in range(128)]
    guides = guides_for(read(*tools, tool_choice="required"))
    assert all(len(guide.text.encode()) <= 64 * 1024 for guide in guides)
    check_guide(*guides[-1])
    strict = [tool(f"tool_{n}", wide, strict=True) for n in range(128)]
    with pytest.raises(ToolError, match="make a guide of more than 65536 bytes"):
        guides_for(read(*strict, tool_choice="required"))


STRICT = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "where"},
        "unit": {"type": ["string", "null"], "enum": ["celsius", 'fahr"e\n', None]},
        "days": {"type": ["integer", "null"]},
        "near": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
        "all": {"type": "array", "items": {"anyOf": [{"type": "boolean"}, {"const": "é"}]}},
    },
    "required": ["city", "unit", "days", "near", "all"],
    "additionalProperties": False,
}
STRICT_TRIP = {**TRIP, "properties": {"first": {"$ref": "#/$defs/Stop"}}}


@pytest.mark.parametrize("parallel", [True, False])
def test_a_free_answer_that_begins_with_a_call_of_a_strict_tool_is_right(parallel: bool) -> None:
    """Words stay free; jsonschema takes the arguments of each call."""
    schemas = {"weather": STRICT, "trip": STRICT_TRIP, "free": {"type": "object"}}
    given = [tool(name, schema, strict=name != "free") for name, schema in schemas.items()]
    use = read(*given, tool("now", None, strict=True), parallel_tool_calls=parallel)
    [guide] = guides_for(use)
    check_guide(*guide)
    grammar = compiled(*guide)
    seen, most = set(), 0
    for seed in range(80):
        text = write(grammar, Random(seed))
        if text.lstrip()[:1] in ("{", "["):
            calls = calls_in(use, text)
            most = max(most, len(calls))
            for name, arguments in calls:
                seen.add(name)
                Draft202012Validator(schemas.get(name, {"maxProperties": 0})).validate(arguments)
    assert seen == {"weather", "trip", "free", "now"}
    assert (most > 1) == parallel
    for text in ("It is 5 < 6 {now}, [a](b).", "", "\n", "<b>x</b>", "<", "```json\n{}\n```"):
        assert matches(grammar, text)
    right = '{"name": "now", "parameters": {}}'
    assert matches(grammar, right)
    assert matches(grammar, f"[{right}]") == parallel
    assert matches(grammar, f"{right}; {right}") == parallel
    for text in (right.replace("now", "zip"), '{"a": 1}', "[1]", "<function=now>{}", right[:-1]):
        assert not matches(grammar, text)


@pytest.mark.parametrize(
    "schema",
    [
        {"city": {"type": "string", "pattern": "x"}},
        {"city": {"type": "integer", "minimum": 1}},
        {"city": {"$ref": "https://example.org"}},
        {"city": {"$ref": "#/$defs/none"}},
        {"city": {"type": "string", "enum": [1]}},
        {"city": {"enum": []}},
        {"city": {"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 2}},
        {"city": {"type": "zip"}},
        {"city": {"type": []}},
        {"city": {"type": [{"a": 1}]}},
        {"city": {"type": "object", "properties": []}},
        {"city": {"type": "object", "properties": {}, "required": 5}},
        {"city": {"type": "object", "properties": {}, "required": [[1]]}},
        {"city": {"type": "array", "items": {"type": "string"}, "minItems": "x"}},
        {"city": {"enum": "ab"}},
        {"city": {"anyOf": []}},
        {"city": {"$ref": 5}},
        {"city": True},
        {"city": {"type": "string"}, "more": {"type": "string"}},
    ],
)
def test_other_strict_schemas_leave_a_free_answer_free(schema: dict[str, Any]) -> None:
    """They hold where a call is asked for, if the server can."""
    parameters = {"type": "object", "properties": schema, "required": ["city"]}
    use = read(tool(parameters=parameters, strict=True))
    assert guides_for(use) == ()
    assert guides_for(read(tool(parameters=parameters, strict=True), tool_choice="required"))


def test_a_free_answer_without_strict_tools_is_free() -> None:
    assert guides_for(read(tool())) == ()
    assert guides_for(read(tool(), tool_choice="none"), answer={"type": "object"}) == ()


def test_an_answer_in_json_or_a_call() -> None:
    """`response_format` beside tools: one or the other, each as its schema says."""
    answer = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "home": {"$ref": "#/$defs/home"}},
        "required": ["name", "home"],
        "additionalProperties": False,
        "$defs": {"home": {"type": "string", "enum": ["Rome", "Bern"]}},
    }
    use = read(tool(), tool("trip", TRIP))
    guide = guides_for(use, answer)[0]
    check_guide(*guide)
    grammar = compiled(*guide)
    call = '{"name": "weather", "parameters": {"city": "Paris"}}'
    for text in ('{"name": "weather", "home": "Rome"}', '{"name":"x","home":"Bern"}', call):
        assert matches(grammar, text), text
    assert matches(grammar, f"[{call}, {call}]")
    for text in ('{"name": "weather", "home": "Oslo"}', "words", call.replace("city", "town")):
        assert not matches(grammar, text)


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | st.sampled_from(
        ["", "object", "string", "array", "#", "#/properties/a", "#/x", "a", "auto", "function"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "required",
                    "a",
                    "items",
                    "enum",
                    "const",
                    "anyOf",
                    "$ref",
                    "$defs",
                    "additionalProperties",
                    "minItems",
                    "maxItems",
                    "name",
                    "function",
                    "tools",
                    "mode",
                    "allowed_tools",
                    "parameters",
                    "strict",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(JSON, JSON, JSON, st.booleans(), st.sampled_from(["auto", "required"]))
def test_any_json_is_read_or_refused(
    schema: Any, tools: Any, choice: Any, strict: bool, mode: str
) -> None:
    """A `ToolError` with a path, or guides; never another exception."""
    inner = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    bodies: list[dict[str, Any]] = [
        {"tools": [tool(parameters=schema, strict=strict)], "tool_choice": mode},
        {"tools": [tool(parameters=inner, strict=strict)], "tool_choice": mode},
        {"tools": tools},
        {"tools": [tools]},
        {"tools": [tool(parameters=tools)], "tool_choice": choice},
    ]
    refusals: list[ToolError] = []
    for body in bodies:
        for flat in (False, True):
            try:
                use = read_tool_use(body, flat)
                guides = guides_for(use, schema if mode == "auto" else None)
            except ToolError as error:
                refusals.append(error)
                continue
            assert all(guide.text for guide in guides)
            assert json.dumps(use.prompt_tools)
    for refusal in refusals:
        assert re.match(r"\w+", refusal.param)[0] in refusal.message  # type: ignore[index]
