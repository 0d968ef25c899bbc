"""Templates of every family give transformers' ids, also for words that the templates look for.

`CHAT_TEMPLATES`, a folder of *.jinja, adds templates that are not in this repository.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
from chat_messages import InvalidMessages, parse_messages, parse_tools
from checkpoint_text import CheckpointText, load_checkpoint_text
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from tests.preprocessing.test_chat_corpus import CONFIG, SIZE, harmless
from tests.support.chat_families import FAMILIES, TOKENS
from tests.support.paths import DEMO_CHECKPOINT as CHECKPOINT

IDS = json.loads((CHECKPOINT / "config.json").read_text())
BOS, END = IDS["bos_token_id"], IDS["eos_token_id"]
FOLDER = os.environ.get("CHAT_TEMPLATES")
OTHERS = {path.name: path.read_text() for path in sorted(Path(FOLDER or "none").glob("*.jinja"))}
TEMPLATES = FAMILIES | OTHERS
COUNT = max(20, SIZE // 40)
# Words that templates look for, and control tokens of other families, which are text here.
SOUGHT = [
    "<think>\nlet me see\n</think>\n\n", "</think>", "<think>", "/no_think", "/think",
    "<tool_response>", "</tool_response>", "SYSTEM: be brief", "<tools>", "[img]", "<", "|>",
    "\n\n", " ", "%s", "{}",
]  # fmt: skip
MARK = "\u03be"  # follows every control token that a user writes, and nothing else


@lru_cache
def folder(name: str, with_tokens: bool) -> Path:
    """The demo's tokenizer with the template; optionally with the families' tokens, in reserved
    places."""
    path = Path(mkdtemp())
    document = json.loads((CHECKPOINT / "tokenizer.json").read_text())
    config = {**CONFIG, "chat_template": TEMPLATES[name]}
    del config["added_tokens_decoder"]
    if with_tokens:
        reserved = [t for t in document["added_tokens"] if "reserved" in t["content"]]
        for token, (content, special) in zip(reserved, TOKENS.items(), strict=False):
            token |= {"content": content, "special": special}
    (path / "tokenizer.json").write_text(json.dumps(document))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@lru_cache
def both(name: str, with_tokens: bool) -> tuple[CheckpointText, Any]:
    path = folder(name, with_tokens)
    return load_checkpoint_text(path, BOS, END), PreTrainedTokenizerFast.from_pretrained(path)


def searched(random: Random) -> str:
    """Words with everything that templates look for, without control tokens."""
    text = "".join(
        random.choice(SOUGHT) if random.random() < 0.5 else harmless(random)
        for _ in range(random.choice([1, 1, 2, 4]))
    )
    return searched(random) if any(token in text for token in TOKENS) else text


def poisoned(random: Random) -> str:
    """Words with control tokens, a mark after each."""
    parts = [random.choice([searched, poison])(random) for _ in range(random.choice([1, 2, 3]))]
    return "".join(parts)


def poison(random: Random) -> str:
    return random.choice([*TOKENS, "<|eot_id|>", "<|end_of_text|>"]) + MARK


def conversations(seed: int, words: Any) -> Iterator[tuple[list[Any], list[Any] | None]]:
    """Turns in the order that all templates take, as a client sends them."""
    for index in range(COUNT):
        random = Random(f"{seed}/{index}")
        tools = [tool(random, words)] if random.random() < 0.4 else None
        messages: list[dict[str, Any]] = []
        if random.random() < 0.5:
            messages.append({"role": "system", "content": words(random)})
        for _ in range(random.choice([1, 2, 3])):
            messages.append({"role": "user", "content": words(random)})
            if tools and random.random() < 0.5:
                messages += called(random, words)
            answer = {"role": "assistant", "content": words(random)}
            if random.random() < 0.3:
                answer["reasoning_content"] = words(random)
            messages.append(answer)
        yield messages[: None if random.random() < 0.2 else -1] or messages, tools


def called(random: Random, words: Any) -> list[dict[str, Any]]:
    arguments = {"city": words(random), "n": 3, "deep": [{"x": words(random)}]}
    function = {"name": "weather", "arguments": json.dumps(arguments)}
    call = {"id": "call00001", "type": "function", "function": function}
    return [
        {"role": "assistant", "content": words(random), "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": words(random)},
    ]


def tool(random: Random, words: Any) -> dict[str, Any]:
    city = {"type": "string", "description": words(random), "enum": [words(random), "b"]}
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    function = {"name": "weather", "description": words(random), "parameters": parameters}
    return {"type": "function", "function": function}


def with_objects(messages: list[Any]) -> list[Any]:
    """The arguments as transformers takes them."""
    read: list[Any] = json.loads(json.dumps(messages))
    for message in read:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return read


def rendered(name: str, tokens: bool, messages: list[Any], tools: Any) -> tuple[Any, Any]:
    """Our ids and transformers' text; None for what is refused."""
    text, transformers = both(name, tokens)
    assert text.template is not None
    try:
        theirs = transformers.apply_chat_template(
            with_objects(messages), tools=tools, add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, TypeError):
        theirs = None
    try:
        prompt = text.template.render(
            parse_messages(json.dumps(messages)), parse_tools(json.dumps(tools)) if tools else None
        )
        ours = text.encoder.encode_rendered(prompt)
    except InvalidMessages as error:
        known = "does not know tools" in str(error)  # we refuse what would vanish
        return None, None if known else theirs
    return ours, theirs


def with_bos(ids: list[int]) -> list[int]:
    return ids if ids[:1] == [BOS] else [BOS, *ids]


@pytest.mark.parametrize("with_tokens", [False, True], ids=["as text", "as tokens"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_ids_are_those_of_transformers(name: str, with_tokens: bool) -> None:
    transformers = both(name, with_tokens)[1]
    compared = 0
    for messages, tools in conversations(1, searched):
        ours, theirs = rendered(name, with_tokens, messages, tools)
        if theirs is None:
            assert ours is None, messages
            continue
        assert ours is not None, messages
        expected = transformers(theirs, add_special_tokens=False)["input_ids"]
        if name == "everything":  # its casefold() makes "<|eot_id|>" of "<|EOT_ID|>"
            ours, expected = (
                transformers.encode(transformers.decode(ids)) for ids in (ours, expected)
            )
        assert ours == with_bos(expected), (messages, tools)
        compared += 1
    assert compared > COUNT // 4 or name in OTHERS


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_word_becomes_a_control_token(name: str) -> None:
    """Neither a token marked as special nor one that only the template distinguishes from words."""
    text, transformers = both(name, True)
    assert text.template is not None
    added = transformers.added_tokens_decoder
    ids_of = {token.content: token_id for token_id, token in added.items()}
    literal = {t for t in TOKENS if TOKENS[t] or t in text.template.literals}
    control = re.compile("|".join(map(re.escape, literal | {"<|eot_id|>", "<|end_of_text|>"})))
    watched = {ids_of[content] for content in literal} | set(END)
    for messages, tools in conversations(2, poisoned):
        ours, theirs = rendered(name, True, messages, tools)
        if ours is None:
            continue
        found = [m for m in control.finditer(theirs) if theirs[m.end() : m.end() + 1] != MARK]
        ids = [token_id for token_id in ours if token_id in watched]
        if name == "everything":  # it cuts and turns the marks away
            assert len(ids) <= theirs.count("<|user|>") + theirs.count("<|end|>")
        else:
            assert ids == [ids_of[m[0]] for m in found], (messages, tools)
        decoded = transformers.decode(with_bos(ours)[1:], clean_up_tokenization_spaces=False)
        assert decoded == theirs.removeprefix("<|begin_of_text|>"), (messages, tools)
