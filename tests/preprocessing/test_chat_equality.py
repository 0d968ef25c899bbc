"""The ids of a chat prompt are those of transformers' `apply_chat_template`.

`LLAMA_CHAT_TEMPLATE`, the path of Llama 3.1's own chat template or of a tokenizer_config.json that
holds it, adds that template, which is Meta's and not in this repository, to those tested.
`CHAT_CORPUS_SIZE` makes the corpus larger.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import pytest
from chat_messages import parse_messages, parse_tools
from chat_template import ChatTemplate
from prompt_encoder import PromptEncoder
from transformers import PreTrainedTokenizerFast
from transformers.models.llama4 import processing_llama4

from tests.preprocessing.test_chat_corpus import (
    CONFIG,
    LLAMA_31,
    SIZE,
    WITHOUT_TOOLS,
    Conversation,
    conversations,
    wire,
)
from tests.support.paths import DEMO_CHECKPOINT as CHECKPOINT

BOS_ID = json.loads((CHECKPOINT / "config.json").read_text())["bos_token_id"]
ENCODER = PromptEncoder(CHECKPOINT / "tokenizer.json", BOS_ID)
TRANSFORMERS = PreTrainedTokenizerFast.from_pretrained(CHECKPOINT)
# All that a template is given and that Llama 3.1's does not ask for.
ASKING = """{{ bos_token }}{{ strftime_now('%d %b %Y') }}{{ eos_token }}{{ pad_token is defined }}
{{ documents is none }}
    {% if true %}
{% for m in messages %}{{ m | tojson(separators=(',', ':')) }}{% break %}
{% endfor %}{% endif %}"""


def in_llama_31s_tokens(template: str) -> str:
    """A template of Llama 4, whose control tokens have other names."""
    names = {
        "header_start": "start_header_id",
        "header_end": "end_header_id",
        "eot": "eot_id",
        "python_start": "python_tag",
        "python_end": "eom_id",
    }
    for name, ours in names.items():
        template = template.replace(f"<|{name}|>", f"<|{ours}|>")
    return template


def metas_own() -> str | None:
    """Llama 3.1's template, if there is a copy on this machine."""
    path = os.environ.get("LLAMA_CHAT_TEMPLATE")
    text = Path(path).read_text(encoding="utf-8") if path else None
    return json.loads(text)["chat_template"] if text and text.startswith("{\n") else text


TEMPLATES = {
    "without tools": WITHOUT_TOOLS,
    "llama 3.1": LLAMA_31,
    "llama 4": in_llama_31s_tokens(processing_llama4.chat_template),
    "meta's own": metas_own(),
}


@lru_cache
def load(template: str) -> ChatTemplate:
    """The template in the demo's tokenizer_config.json."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer_config.json"
        path.write_text(json.dumps({**CONFIG, "chat_template": template}), encoding="utf-8")
        return ChatTemplate(path)


def ours(template: ChatTemplate, conversation: Conversation, seed: int) -> list[int]:
    """The ids of the conversation as a client sends it."""
    messages, tools = wire(conversation, seed)
    return encode(template, messages, tools)


def encode(template: ChatTemplate, messages: str, tools: str = "") -> list[int]:
    """The ids of the two documents, as the room makes them."""
    rendered = template.render(parse_messages(messages), parse_tools(tools) if tools else None)
    return ENCODER.encode_rendered(rendered)


def theirs(template: str, conversation: Conversation) -> list[int]:
    ids: list[int] = TRANSFORMERS.apply_chat_template(
        conversation.messages,
        tools=conversation.tools,
        chat_template=template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    return ids


def printable(conversation: Conversation, template: str) -> bool:
    """Llama 4's template cannot print a call without content."""
    calls = (message for message in conversation.messages if "tool_calls" in message)
    return template != "llama 4" or all(isinstance(call.get("content"), str) for call in calls)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_ids_are_those_of_transformers(name: str) -> None:
    source = TEMPLATES[name]
    if source is None:
        pytest.skip("LLAMA_CHAT_TEMPLATE does not name Llama 3.1's own template")
    template = load(source)
    compared = 0
    for seed, conversation in enumerate(conversations(1, SIZE, tools=name != "without tools")):
        if printable(conversation, name):
            assert ours(template, conversation, seed) == theirs(source, conversation), conversation
            compared += 1
    assert compared > SIZE // 2


def test_our_template_writes_what_metas_own_does() -> None:
    source = TEMPLATES["meta's own"]
    if source is None:
        pytest.skip("LLAMA_CHAT_TEMPLATE does not name Llama 3.1's own template")
    for conversation in conversations(2, SIZE):
        assert theirs(LLAMA_31, conversation) == theirs(source, conversation), conversation


def test_a_template_that_asks_for_more_gets_what_transformers_gives() -> None:
    conversation = Conversation([{"role": "user", "content": " Hi"}] * 2, None)
    ids = ours(load(ASKING), conversation, 0)
    assert ids == theirs(ASKING, conversation)
    assert datetime.now().strftime("%d %b %Y") in TRANSFORMERS.decode(ids)


def test_a_template_in_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    shutil.copy(CHECKPOINT / "tokenizer_config.json", tmp_path)
    (tmp_path / "chat_template.jinja").write_text("Alone: {{ messages[0].content }}")
    template = ChatTemplate(tmp_path / "tokenizer_config.json")
    assert template.render([{"role": "user", "content": "Hi"}]) == "Alone: Hi"
