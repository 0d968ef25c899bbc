"""Checked messages and tools -> the prompt that a checkpoint's chat template makes of them.

The template is rendered as transformers renders it, but over words in disguise (user_words.py):
the prompt's control tokens are those that the template itself wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from chat_json import InvalidMessages, short
from chat_messages import TOOL_ROLES, Message, Tool, parse_messages, parse_tools
from jinja2 import Environment, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from user_words import HIDDEN, RenderedPrompt, hide, reveal

__all__ = [
    "ChatTemplate",
    "InvalidMessages",
    "Message",
    "Tool",
    "parse_messages",
    "parse_tools",
]

# What a template may fail with over values that it did not expect.
TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
MAX_REASON = 200
TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


class ChatTemplate:
    """A checkpoint's chat template: `chat_template.jinja` or what `tokenizer_config.json` holds."""

    def __init__(self, tokenizer_config: Path) -> None:
        """Raises ValueError for a template whose control tokens cannot be told from words."""
        config = json.loads(tokenizer_config.read_text(encoding="utf-8"))
        beside = tokenizer_config.with_name("chat_template.jinja")
        source = beside.read_text("utf-8") if beside.exists() else config["chat_template"]
        if not isinstance(source, str):
            raise ValueError(f"chat_template is {short(source)}, allowed is one template")
        environment = _environment()
        parsed = environment.parse(source)
        _check_literals(parsed)
        self._knows_tools = "tools" in meta.find_undeclared_variables(parsed)
        self._template = environment.from_string(source)
        self._variables = {
            name: _token_text(config[name]) for name in TOKEN_NAMES if config.get(name)
        }

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None
    ) -> RenderedPrompt:
        """The prompt up to the assistant's answer; raises `InvalidMessages`."""
        if self._knows_tools:
            _check_first_message(messages, tools)
        else:
            _check_no_tools(messages, tools)
        try:
            text = self._template.render(
                messages=hide(list(messages)),
                tools=hide(list(tools)) if tools else None,
                documents=None,
                add_generation_prompt=True,
                **self._variables,
            )
        except TEMPLATE_ERRORS as error:
            reason = reveal(" ".join(str(error).split()))[:MAX_REASON]
            raise InvalidMessages(f"the chat template refuses the messages: {reason}") from None
        return RenderedPrompt(text)


def _check_first_message(messages: Sequence[Message], tools: Sequence[Tool] | None) -> None:
    """Llama's templates put the tools into the first message's turn, and make it the user's."""
    index = 1 if messages[0]["role"] == "system" else 0
    if tools and index < len(messages) and messages[index]["role"] != "user":
        raise InvalidMessages(
            f"messages[{index}].role is {messages[index]['role']!r}, allowed with tools is 'user': "
            "the template puts the tools into the user's first message"
        )


def _check_no_tools(messages: Sequence[Message], tools: Sequence[Tool] | None) -> None:
    if tools:
        raise InvalidMessages(
            f"tools is a list of {len(tools)}, allowed is none: "
            "this checkpoint's chat template does not know tools"
        )
    for index, message in enumerate(messages):
        if message["role"] in TOOL_ROLES or "tool_calls" in message:
            raise InvalidMessages(
                f"messages[{index}] is a tool's call or result, allowed are words: "
                "this checkpoint's chat template does not know tools"
            )


def _environment() -> Environment:
    """Jinja as transformers sets it up."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise, strftime_now=_strftime_now)
    return environment


def _check_literals(parsed: nodes.Template) -> None:
    """A control token that a template begins, it must end in the same breath: else words of a
    user could stand between."""
    texts = [node.data for node in parsed.find_all(nodes.TemplateData)]
    texts += [str(node.value) for node in parsed.find_all(nodes.Const)]
    for text in texts:
        begun = re.search(rf"{HIDDEN}[^\s>]*$", text)
        if begun:
            raise ValueError(
                f"the chat template writes {begun[0]!r}, the beginning of a control token, "
                "apart from its end"
            )


def _token_text(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token


def _to_json(
    value: object, indent: int | None = None, separators: tuple[str, str] | None = None
) -> str:
    # As transformers renders it: no HTML escapes, no \\u escapes.
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
