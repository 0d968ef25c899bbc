"""Chat messages -> the pieces of a prompt, with the template's words and the user's kept apart.

A checkpoint's chat template is a Jinja program that writes control tokens such as <|eot_id|>
between the messages. Rendered and encoded as one string, a message that contains "<|eot_id|>"
would end its own turn. Meta's reference never lets a message's words become control tokens, and
neither does this: the template is rendered over placeholders, and only what the template itself
wrote is searched for control tokens afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 1024
# A placeholder is EDGE + MARK + index + MARK + EDGE. An edge counts as white space, so that a
# template's `| trim` takes it away: what is missing says what the content is trimmed of.
EDGE, MARK = "\x1f", "\ue000"
PLACEHOLDER = re.compile(f"({EDGE}?){MARK}([0-9]+){MARK}({EDGE}?)")


class InvalidMessages(ValueError):
    """The caller's messages cannot be rendered; the message says what is wrong and allowed."""


Message = dict[str, str]


def parse_messages(document: str) -> list[Message]:
    """Read the JSON list `[{"role": ..., "content": ...}, ...]`; raises `InvalidMessages`."""
    try:
        messages = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidMessages(
            f"messages is not JSON ({error}), allowed is a list of messages"
        ) from None
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidMessages(
            f"messages is {_short(messages)}, allowed is a list of 1 to {MAX_MESSAGES}"
        )
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    return messages


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, dict):
        raise InvalidMessages(f"{where} is {_short(message)}, allowed is an object")
    for key in message:
        if key not in ("role", "content"):
            raise InvalidMessages(
                f"{where} has the key {_short(key)}, allowed are 'role' and 'content'"
            )
    if message.get("role") not in ROLES:
        raise InvalidMessages(
            f"{where}.role is {_short(message.get('role'))}, allowed is one of {', '.join(ROLES)}"
        )
    content = message.get("content")
    if not isinstance(content, str):
        raise InvalidMessages(f"{where}.content is {_short(content)}, allowed is a string")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise InvalidMessages(f"{where}.content holds a lone surrogate, allowed is Unicode text")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class ChatTemplate:
    """A checkpoint's chat template, from its `tokenizer_config.json`."""

    def __init__(self, tokenizer_config: Path) -> None:
        config = json.loads(tokenizer_config.read_text(encoding="utf-8"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise, strftime_now=_strftime_now)
        self._template = environment.from_string(config["chat_template"])
        self._variables = {
            name: _token_text(config.get(name)) for name in ("bos_token", "eos_token", "pad_token")
        }

    def render(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The prompt up to the assistant's answer: pieces (text, whether the template wrote it)."""
        contents = [message["content"] for message in messages]
        stand_ins = [
            {**message, "content": f"{EDGE}{MARK}{index}{MARK}{EDGE}"}
            for index, message in enumerate(messages)
        ]
        try:
            text = self._template.render(
                messages=stand_ins, add_generation_prompt=True, **self._variables
            )
        except TemplateError as error:
            raise InvalidMessages(f"the chat template refuses the messages: {error}") from None
        return list(_pieces(text, contents))


def _pieces(text: str, contents: list[str]) -> Any:
    position = 0
    for match in PLACEHOLDER.finditer(text):
        yield text[position : match.start()], True
        content = contents[int(match[2])]
        content = content if match[1] else content.lstrip()
        yield content if match[3] else content.rstrip(), False
        position = match.end()
    yield text[position:], True


def _token_text(token: str | dict[str, Any] | None) -> str:
    return token["content"] if isinstance(token, dict) else token or ""


def _to_json(value: object, indent: int | None = None) -> str:
    # As transformers renders it: no HTML escapes, no \\u escapes.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
