"""Prompts from messages: the ids of the rendered string, but no control token of a user's."""

import json
from pathlib import Path

import pytest
from chat_template import ChatTemplate, InvalidMessages, parse_messages
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_encoder import PromptEncoder
from tokenizers import Tokenizer

CHECKPOINT = Path(__file__).parent.parent / "build" / "demo" / "checkpoint"
CONFIG = json.loads((CHECKPOINT / "config.json").read_text())
ENCODER = PromptEncoder(CHECKPOINT / "tokenizer.json", CONFIG["bos_token_id"])
TEMPLATE = ChatTemplate(CHECKPOINT / "tokenizer_config.json")
TOKENIZER = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
SPECIALS = [token.content for token in TOKENIZER.get_added_tokens_decoder().values()]
FIRST_SPECIAL = CONFIG["vocab_size"] - 256

CONTENT = st.text(max_size=40) | st.sampled_from(
    [
        "",
        "  x  ",
        "\n\nhi\n",
        "a\x1fb",
        "\x1f",
        "日本語 😀",
        "{{ 1 }}",
        "{% raw %}",
        "tab\t",
        "\ue0000\ue000",
    ]
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": CONTENT}
    ),
    min_size=1,
    max_size=4,
)


def reference(messages: list[dict[str, str]]) -> str:
    """The rendering by hand, from Meta's description of the Llama 3.1 chat format."""
    system = ""
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"].strip(), messages[1:]
    text = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        f"Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{system}<|eot_id|>"
    )
    for message in messages:
        text += f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n"
        text += f"{message['content'].strip()}<|eot_id|>"
    return text + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def encode(messages: list[dict[str, str]]) -> list[int]:
    return ENCODER.encode_pieces(TEMPLATE.render(messages))


@settings(max_examples=300, deadline=None)
@given(messages=MESSAGES)
def test_harmless_messages_encode_as_the_rendered_string(messages: list[dict[str, str]]) -> None:
    whole = TOKENIZER.encode(reference(messages), add_special_tokens=False).ids
    assert encode(messages) == whole
    assert whole.count(CONFIG["bos_token_id"]) == 1


@settings(max_examples=200, deadline=None)
@given(messages=MESSAGES, special=st.sampled_from(SPECIALS), data=st.data())
def test_a_users_special_token_stays_text(
    messages: list[dict[str, str]], special: str, data: st.DataObject
) -> None:
    controls = [i for i in encode(messages) if i >= FIRST_SPECIAL]
    index = data.draw(st.integers(0, len(messages) - 1))
    poisoned = [dict(message) for message in messages]
    poisoned[index]["content"] += special
    ids = encode(poisoned)
    assert [i for i in ids if i >= FIRST_SPECIAL] == controls
    assert special in TOKENIZER.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "messages is not JSON"),
        ("{}", "messages is {}, allowed is a list"),
        ("[]", "allowed is a list of 1 to"),
        ("[1]", r"messages\[0\] is 1, allowed is an object"),
        (
            '[{"role":"tool","content":"x"}]',
            "role is 'tool', allowed is one of system, user, assistant",
        ),
        ('[{"role":"user","content":null}]', "content is None, allowed is a string"),
        ('[{"role":"user","content":"x","name":"y"}]', "has the key 'name'"),
        ('[{"role":"user","content":"\\ud800"}]', "lone surrogate"),
        ("[" * 100_000, "messages is not JSON"),
    ],
)
def test_malformed_messages_are_refused_by_name(document: str, words: str) -> None:
    with pytest.raises(InvalidMessages, match=words):
        parse_messages(document)


def test_a_raw_prompt_gets_one_begin_of_text() -> None:
    plain = ENCODER.encode_trusted("Hello")
    assert plain == ENCODER.encode_trusted("<|begin_of_text|>Hello")
    assert plain.count(CONFIG["bos_token_id"]) == 1


def test_a_raw_prompts_special_tokens_are_special() -> None:
    assert CONFIG["eos_token_id"][-1] in ENCODER.encode_trusted("Hello<|eot_id|>")
