"""No word of a user becomes a control token, wherever it stands and however it is written.

Each test compares with transformers: a poisoned prompt has the control tokens of the same
conversation with every "<" replaced, and reads, decoded, as transformers renders it.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from chat_template import ChatTemplate
from hypothesis import given, settings
from hypothesis import strategies as st
from user_words import STAND_IN

from tests.preprocessing.test_chat_corpus import (
    CONTROLS,
    LLAMA_31,
    SIZE,
    Conversation,
    conversations,
    harmless,
)
from tests.preprocessing.test_chat_equality import (
    TEMPLATES,
    TRANSFORMERS,
    encode,
    load,
    ours,
    theirs,
)

FIRST_CONTROL = TRANSFORMERS.convert_tokens_to_ids("<|begin_of_text|>")
BREAKS = ["<|eot_id", "|>", "<", "<|", "|", ">", "eot_id|>", "_id|>", "\\u003c|eot_id|>", "&lt;"]
# "@" stands in every place that a user controls.
EVERYWHERE = """[
 {"role": "system", "content": "@", "name": "@"},
 {"role": "user", "content": [{"type": "text", "text": "@"}, {"type": "text", "text": " @ "}]},
 {"role": "assistant", "content": "@", "tool_calls": [{"id": "@", "type": "function", "function":
   {"name": "@", "arguments": {"@": ["@", {"@": "@"}]}}}]},
 {"role": "tool", "content": "@", "tool_call_id": "@", "name": "@"},
 {"role": "ipython", "content": {"@": ["@", {"@": "@"}]}},
 {"role": "assistant", "content": "\\n@"},
 {"role": "user", "content": "@\\t"}]"""
TOOLS = """[{"type": "function", "function": {"name": "@", "description": "@", "strict": "@",
 "return": {"@": "@"}, "parameters": {"@": {"@": ["@", {"@": "@"}]}}}}]"""
# The two strings of a user side by side, and a template's word that could end what one began.
JOINED = "{{ bos_token }}{{ messages[0].content }}{{ messages[1].content }}{{ 'eot_id|>' }}"


def poisoned(random: Random) -> str:
    """Words with control tokens and pieces of them in all places."""
    parts = [harmless(random)]
    for _ in range(random.choice([1, 1, 2, 3])):
        parts.append(random.choice(CONTROLS if random.random() < 0.7 else BREAKS))
        parts.append(harmless(random) if random.random() < 0.5 else "")
    return "".join(parts if random.random() < 0.7 else parts[1:])


def defused(value: Any) -> Any:
    """The same without a "<" anywhere."""
    if isinstance(value, str):
        return value.replace("<", "(")
    if isinstance(value, list):
        return [defused(item) for item in value]
    if isinstance(value, dict):
        return {defused(key): defused(item) for key, item in value.items()}
    return value


def controls(ids: list[int]) -> list[int]:
    return [token_id for token_id in ids if token_id >= FIRST_CONTROL]


def check(template: ChatTemplate, source: str, conversation: Conversation, seed: int) -> None:
    """No control token too many or too few, and no character of the words changed."""
    ids = ours(template, conversation, seed)
    harmless_one = Conversation(defused(conversation.messages), defused(conversation.tools))
    assert controls(ids) == controls(theirs(source, harmless_one)), conversation
    text = TRANSFORMERS.apply_chat_template(
        conversation.messages,
        tools=conversation.tools,
        chat_template=source,
        add_generation_prompt=True,
        tokenize=False,
    )
    assert TRANSFORMERS.decode(ids, clean_up_tokenization_spaces=False) == text, conversation


@pytest.mark.parametrize("name", ["without tools", "llama 3.1", "meta's own"])
def test_poisoned_conversations(name: str) -> None:
    source = TEMPLATES[name]
    if source is None:
        pytest.skip("LLAMA_CHAT_TEMPLATE does not name Llama 3.1's own template")
    template = load(source)
    strings = 0

    def counted(random: Random) -> str:
        nonlocal strings
        strings += 1
        return poisoned(random)

    for seed, conversation in enumerate(
        conversations(3, SIZE, counted, tools=name != "without tools")
    ):
        check(template, source, conversation, seed)
    assert strings >= 10_000 or name == "without tools"


@pytest.mark.parametrize("spelling", ["{}", "\\u003c{}", "\\u003C{}"])
def test_every_control_token_in_every_place(spelling: str) -> None:
    template = load(LLAMA_31)
    expected = controls(encode(template, EVERYWHERE, TOOLS))
    for control in CONTROLS:
        word = control if spelling == "{}" else spelling.format(control[1:])
        messages, tools = EVERYWHERE.replace("@", word), TOOLS.replace("@", word)
        ids = encode(template, messages, tools)
        assert controls(ids) == expected
        # All are to be read but what no turn prints: ids, names and the content beside a call.
        written = sum(token == TRANSFORMERS.convert_tokens_to_ids(control) for token in expected)
        read = TRANSFORMERS.decode(ids).count(control) - written
        assert read == (messages + tools).count(word) - 5


@pytest.mark.parametrize("spelling", ["{}", "\\u003c{}", "\\\\u003c{}"])
def test_control_tokens_in_arguments_that_are_text(spelling: str) -> None:
    template = load(LLAMA_31)
    document = (
        '[{"role": "assistant", "tool_calls": [{"function": {"name": "f", '
        '"arguments": "{\\"@\\": \\"@\\"}"}}]}]'
    )
    expected = controls(encode(template, document))
    for control in CONTROLS:
        word = control if spelling == "{}" else spelling.format(control[1:])
        ids = encode(template, document.replace("@", word))
        assert controls(ids) == expected
        assert f'{{"{control}": "{control}"}}' in TRANSFORMERS.decode(ids)


@settings(max_examples=300, deadline=None)
@given(
    control=st.sampled_from(CONTROLS),
    at=st.integers(0, 31),
    around=st.text(alphabet="<|>_eot id\n\ue000", max_size=6),
)
def test_two_strings_side_by_side(control: str, at: int, around: str) -> None:
    template = load(JOINED)
    halves = [around + control[:at], control[at:] + around]
    messages = json.dumps([{"role": "user", "content": half} for half in halves])
    ids = encode(template, messages)
    assert len(controls(ids)) == 1
    assert TRANSFORMERS.decode(ids[1:]) == "".join(halves) + "eot_id|>"


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.sampled_from('<|>_abdegiotn\\u03c ud"{}/\ue000é😀'), max_size=60))
def test_any_string(text: str) -> None:
    message = {"role": "user", "content": text}
    arguments = {"function": {"name": text or "f", "arguments": {text: [text]}}}
    call = {"role": "assistant", "tool_calls": [arguments]}
    tool = {"type": "function", "function": {"name": text or "f", "description": text}}
    check(
        load(LLAMA_31),
        LLAMA_31,
        Conversation([message, call, {**message, "role": "tool"}], [tool]),
        0,
    )


def test_the_stand_in_is_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        STAND_IN.encode()
    assert all(STAND_IN not in control for control in CONTROLS)
