"""Tool calls in answers of any kind, in pieces of any kind; JSON of any kind."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from llama_fp4.gateway.tool_calls.json_scanner import JsonScanner

from tests.support.parsed_calls import CALL, NAMES, Parsed, parse

ARGUMENTS = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=12)
        | st.sampled_from([CALL, "{", '"}}', "<|python_tag|>", "\\"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=3,
)
WORDS = st.from_regex(r"\A[A-Za-zé.!?'`*]([A-Za-zé .!?'`*\n]{0,30}[A-Za-zé.!?])?\Z")


@st.composite
def call_texts(draw: st.DrawFn) -> tuple[str, tuple[str, str]]:
    """A call in some form, and what it is."""
    name = draw(st.sampled_from(NAMES))
    arguments = json.dumps(
        draw(ARGUMENTS),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1, "\t"])),
    )
    key = draw(st.sampled_from(["parameters", "arguments"]))
    forms = (
        f'{{"name": "{name}", "{key}": {arguments}}}',
        f'{{ "type":"function",\n"name":"{name}" ,"{key}":{arguments} }}',
        f'{{"{key}": {arguments}, "name": "{name}"}}',
        f'<|python_tag|>{{"name": "{name}", "{key}": {arguments}}}',
        f"<function={name}>{arguments}</function>",
        f'{{"name": "{name}", "{key}": {json.dumps(arguments)}}}',
        f'[{{"name": "{name}", "{key}": {arguments}}}]',
    )
    return draw(st.sampled_from(forms)), (name, arguments)


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, Parsed]:
    """Words and calls in any order, and what they are."""
    written, expected = "", Parsed()
    for is_call in draw(st.lists(st.booleans(), min_size=1, max_size=5)):
        if is_call:
            text, call = draw(call_texts())
            if expected and expected[-1][0] != "text":
                written += draw(st.sampled_from(["; ", ";", "\n", "", " ", ", "]))
            written += text
            expected.append(call)
        else:
            text = " " + draw(WORDS) + " "
            written += text
            if expected and expected[-1][0] == "text":
                text = expected.pop()[1] + text
            expected.append(("text", text))
    return written, expected


@settings(max_examples=150)
@given(answers(), st.data())
def test_any_answer_in_any_pieces(answer: tuple[str, Parsed], data: st.DataObject) -> None:
    """Calls in every form with any arguments, among words: read as they were written."""
    text, expected = answer
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(pieces) == expected
    assert parse(text) == expected


FRAGMENTS = (
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    ";",
    '"',
    "\\",
    '"name"',
    '"weather"',
    '"parameters"',
    '"type"',
    '"function"',
    '{"name": "weather", "parameters": ',
    CALL,
    "<|python_tag|>",
    "<function=weather>",
    "</function>",
    "brave_search.call(",
    ")",
    "=",
    '{"x": 9}',
    "9",
    "X",
    "true",
    "tru",
    "null",
    "<",
    '"X9"',
    "\n",
    '\\"',
)


@settings(max_examples=400)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join), st.data())
def test_nothing_is_lost_or_doubled(text: str, data: st.DataObject) -> None:
    """Any mixture of the forms' parts: characters that no form has are in what comes out as often
    as in what the model wrote; and how the text is cut does not matter."""
    parsed = parse([text])
    came = Counter("".join(item[-1] for item in parsed))
    for character in "X9P":
        assert came[character] == text.count(character)
    words = "".join(item[1] for item in parsed if item[0] == "text")
    assert len(words) <= len(text)
    if all(kind == "text" for kind, *_ in parsed):
        assert words == text
    cut = data.draw(st.integers(0, len(text)))
    assert parse([text[:cut], text[cut:]]) == parsed
    assert parse(text) == parsed


def strict_json(text: str) -> bool:
    """The library's reader, without what it takes beyond JSON."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


JSON_PARTS = (
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"a"',
    '"',
    "\\",
    "\\u00e9",
    "u12",
    "1",
    "0",
    "-",
    ".",
    "e",
    "E+",
    "true",
    "null",
    "fals",
    " ",
    "\n",
    "é",
    "\x01",
    "NaN",
)
JSON_TEXTS = (
    st.lists(st.sampled_from(JSON_PARTS), max_size=10).map("".join)
    | ARGUMENTS.map(json.dumps)
    | st.tuples(ARGUMENTS.map(json.dumps), st.integers(0, 60), st.sampled_from(JSON_PARTS)).map(
        lambda given: given[0][: given[1]] + given[2] + given[0][given[1] :]
    )
)


@settings(max_examples=500)
@given(JSON_TEXTS)
def test_the_scanner_reads_json_as_the_library_does(text: str) -> None:
    """A text in brackets is a whole value exactly if the library takes it."""
    wrapped = f"[{text}]"
    scanner = JsonScanner()
    for character in wrapped:
        if not (scanner.done or scanner.broken):
            assert scanner.feed(character) == (0 if scanner.broken else 1)
            end = scanner.done
    at_once = JsonScanner()
    stopped = at_once.feed(wrapped)
    assert (at_once.done, at_once.broken) == (scanner.done, scanner.broken)
    assert (at_once.done and stopped == len(wrapped)) == strict_json(wrapped)
    assert end == scanner.done
