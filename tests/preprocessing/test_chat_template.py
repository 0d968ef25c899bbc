"""Prompts from messages, against a rendering by hand; and which checkpoints are not served."""

import json
from pathlib import Path

import pytest
from chat_template import ChatTemplate, TemplateFault
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_encoder import PromptEncoder, PromptTooLong, TokenizerFault
from tokenizer_files import TokenizerFilesError
from tokenizers import Tokenizer
from user_words import RenderedPrompt, Words

from tests.support.paths import DEMO_CHECKPOINT as CHECKPOINT

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
    return ENCODER.encode_rendered(TEMPLATE.render(messages))


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


def test_a_raw_prompt_gets_one_begin_of_text() -> None:
    plain = ENCODER.encode_trusted("Hello")
    assert plain == ENCODER.encode_trusted("<|begin_of_text|>Hello")
    assert plain.count(CONFIG["bos_token_id"]) == 1


def test_a_raw_prompts_special_tokens_are_special() -> None:
    assert CONFIG["eos_token_id"][-1] in ENCODER.encode_trusted("Hello<|eot_id|>")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% autoescape true %}{% endautoescape %}", "autoescape, which is for HTML"),
        (["two"], r"chat_template is \['two'\], must be a template or a list of objects"),
        ("{{ messages", "unexpected end of template"),
        ("{% break %}", "is refused"),
    ],
)
def test_a_template_that_cannot_be_used_is_not_loaded(
    template: object, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": template}))
    with pytest.raises((TemplateFault, TokenizerFilesError), match=words):
        ChatTemplate(path)


def test_a_word_that_every_text_may_hold_is_no_control_token(tmp_path: Path) -> None:
    document = json.loads((CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"][-1]["content"] = "a"
    document["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0], ["a", -1]]}
    with pytest.raises(TokenizerFault, match="the control token 'a' is a word of the vocabulary"):
        encoder(document, tmp_path)


def encoder(document: dict[str, object], folder: Path) -> PromptEncoder:
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return PromptEncoder(folder / "tokenizer.json", CONFIG["bos_token_id"])


@pytest.mark.parametrize("character", [" ", "<", "é", "😀"])
def test_a_prompt_too_large_for_its_tokens_is_not_encoded(character: str) -> None:
    text = character * (1600 // len(character.encode()))
    rendered = RenderedPrompt(Words(text))
    assert ENCODER.encode_trusted(text, most=100)
    assert ENCODER.encode_rendered(rendered, most=100)
    with pytest.raises(
        PromptTooLong, match="has 1601 bytes and must have at most 1600: 16 for each"
    ):
        ENCODER.encode_trusted(text + "x", most=100)
    with pytest.raises(PromptTooLong, match="has 1601 bytes and must have at most 1600"):
        ENCODER.encode_rendered(RenderedPrompt(rendered + "x"), most=100)


def test_a_rendered_prompt_cannot_be_taken_for_a_raw_one() -> None:
    with pytest.raises(TypeError, match="a rendered prompt is no raw one"):
        ENCODER.encode_trusted(TEMPLATE.render([{"role": "user", "content": "<"}]))
