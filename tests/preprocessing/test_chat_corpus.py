"""Conversations by the thousand, from a seed, for the tests of the chat side; and what is in them.

A conversation is in the form that transformers takes; `wire` writes it as OpenAI's clients send
it. Every string that a user controls comes from one function, so that a test can poison them all.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from demo.tokenizer import CHAT_TEMPLATE

from tests.support.paths import DEMO_CHECKPOINT as CHECKPOINT

CONFIG = json.loads((CHECKPOINT / "tokenizer_config.json").read_text(encoding="utf-8"))
CONTROLS = [token["content"] for token in CONFIG["added_tokens_decoder"].values()]
CONTROL = re.compile("|".join(map(re.escape, CONTROLS)))
SIZE = int(os.environ.get("CHAT_CORPUS_SIZE", "1000"))

# A template without tools, as checkpoints had them before Llama 3.1.
WITHOUT_TOOLS = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
LLAMA_31 = CHAT_TEMPLATE

EDGES = ["", "", " ", "\n", "\t ", "\r\n\n", "\x0b", "\x1c", "\x1f", "\x85", "\xa0", "\u2028", "　"]
PIECES = [
    "Hello", "What is the capital of France?", "naïve café", "日本語のテキスト", "العربية",
    "😀👩\u200d👩\u200d👧", "\u0301e", "def f(x):\n    return x < 3 or x > 4\n", "a\n\n\nb", "   x",
    "{{ 1 }}", "{% raw %}", "#}", "{# x", '{"a": [1, "\\u003c|eot_id|>"]}', "\\", '"', "'", "'s",
    "</s>", "<", "<<", "<|", "|>", "<|eot_id", "eot_id|>", "<|eot_id|", "<|start_header_id",
    "< |eot_id|>", "<|EOT_ID|>", "<|end|>", "&lt;|eot_id|&gt;", "%3C|eot_id|>", "12345",
    "<|reserved_special_token_248|>", "\uff1c|eot_id|\uff1e", "\u200b", "\ue000", "\ue0000\ue000",
    "\x00", "\x7f", "\ufeff", "\U0010ffff",
]  # fmt: skip
JSON_ATOMS: list[Any] = [None, True, False, 0, -7, 2.5, 1e21, 10**30, "", [], {}]

Words = Callable[[Random], str]


@dataclass(frozen=True)
class Conversation:
    """In the form that `apply_chat_template` takes."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


def harmless(random: Random) -> str:
    """Words that spell no control token, with white space at every edge."""
    pieces = random.choices(PIECES, k=random.choice([0, 1, 1, 2, 3, 5]))
    text = random.choice(EDGES) + random.choice(EDGES).join(pieces) + random.choice(EDGES)
    return harmless(random) if CONTROL.search(text) else text  # "<|eot_id" and "|>" make one


def conversations(
    seed: int, count: int, words: Words = harmless, tools: bool = True
) -> Iterator[Conversation]:
    """`count` conversations; half of them with tools, calls and results if `tools`."""
    for index in range(count):
        random = Random(f"{seed}/{index}")
        yield _conversation(random, words, tools and random.random() < 0.5)


def _conversation(random: Random, words: Words, with_tools: bool) -> Conversation:
    messages: list[dict[str, Any]] = []
    if random.random() < 0.5:
        messages.append({"role": "system", "content": words(random)})
    for _ in range(random.choice([1, 1, 2, 3, 5])):
        messages.append({"role": "user", "content": words(random)})
        if with_tools and random.random() < 0.6:
            messages += _call(random, words)
        if random.random() < 0.7:
            messages.append({"role": "assistant", "content": words(random)})
    if random.random() < 0.1:
        messages.append({"role": "system", "content": words(random)})
    tools = None
    if with_tools and random.random() < 0.8:
        tools = [_tool(random, words) for _ in range(random.choice([1, 1, 2, 4]))]
    return Conversation(messages, tools)


def _call(random: Random, words: Words) -> list[dict[str, Any]]:
    function = {"name": words(random) or "f", "arguments": _object(random, words, 3)}
    call: dict[str, Any] = {"id": words(random), "type": "function", "function": function}
    result: Any = words(random) if random.random() < 0.7 else _object(random, words, 2)
    asking: dict[str, Any] = {"role": "assistant", "tool_calls": [call]}
    if random.random() < 0.7:
        asking["content"] = random.choice([None, words(random)])
    answer = {"role": random.choice(["tool", "ipython"]), "content": result}
    if random.random() < 0.5:
        answer |= {"tool_call_id": call["id"], "name": function["name"]}
    return [asking, answer] if random.random() < 0.8 else [asking]


def _tool(random: Random, words: Words) -> dict[str, Any]:
    function: dict[str, Any] = {"name": words(random) or "f"}
    if random.random() < 0.9:
        function["description"] = words(random)
    if random.random() < 0.9:
        properties = {
            words(random): {"type": "string", "description": words(random), "enum": [words(random)]}
            for _ in range(random.choice([0, 1, 2]))
        }
        function["parameters"] = {"type": "object", "properties": properties}
        function["parameters"] |= _object(random, words, 2)
    return {"type": "function", "function": function}


def _object(random: Random, words: Words, depth: int) -> dict[str, Any]:
    return {words(random): _value(random, words, depth) for _ in range(random.choice([0, 1, 2, 3]))}


def _value(random: Random, words: Words, depth: int) -> Any:
    kind = random.random()
    if depth and kind < 0.2:
        return _object(random, words, depth - 1)
    if depth and kind < 0.35:
        return [_value(random, words, depth - 1) for _ in range(random.choice([1, 2, 3]))]
    return words(random) if kind < 0.75 else random.choice(JSON_ATOMS)


def wire(conversation: Conversation, seed: int) -> tuple[str, str]:
    """The documents `messages` and `tools` in the spellings that OpenAI's clients use."""
    random = Random(seed)
    ascii_only = random.random() < 0.5
    messages = [_wire_message(message, random) for message in conversation.messages]
    tools = conversation.tools
    return (
        json.dumps(messages, ensure_ascii=ascii_only),
        "" if tools is None else json.dumps(tools, ensure_ascii=not ascii_only),
    )


def _wire_message(message: dict[str, Any], random: Random) -> dict[str, Any]:
    sent = dict(message)
    if sent["role"] == "system" and random.random() < 0.3:
        sent["role"] = "developer"
    if isinstance(sent.get("content"), str) and random.random() < 0.3:
        lines = sent["content"].split("\n")
        sent["content"] = [{"type": "text", "text": line} for line in lines]
    if "tool_calls" in sent:
        [call] = sent["tool_calls"]
        function = call["function"]
        arguments = function["arguments"] if random.random() < 0.3 else _text(function["arguments"])
        sent["tool_calls"] = [{**call, "function": {**function, "arguments": arguments}}]
    elif random.random() < 0.2:
        sent |= {"refusal": None, "tool_calls": None, "annotations": []}
    return sent


def _text(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments) if arguments else ""


def test_the_corpus_holds_every_kind() -> None:
    kinds: Counter[str] = Counter()
    for conversation in conversations(0, SIZE):
        kinds["all"] += 1
        kinds["with tools"] += conversation.tools is not None
        for message in conversation.messages:
            kinds[message["role"]] += 1
            kinds["call"] += "tool_calls" in message
            content = message.get("content")
            kinds["object as a result"] += isinstance(content, dict)
            kinds["trimmed"] += isinstance(content, str) and content != content.strip()
    assert kinds["all"] >= 1000
    assert min(kinds.values()) >= 100, kinds
