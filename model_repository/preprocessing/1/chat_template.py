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

from chat_json import InvalidMessages
from chat_messages import TOOL_ROLES, Message, Tool, parse_messages, parse_tools
from jinja2 import Environment, Template, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizer_files import DEFAULT, read_tokenizer_files
from user_words import HIDDEN, RenderedPrompt, hide, reveal

__all__ = [
    "ChatTemplate",
    "InvalidMessages",
    "Message",
    "TemplateFault",
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
TOOL_USE = "tool_use"  # the template's name for requests with tools


class TemplateFault(ValueError):
    """A chat template cannot be used; one sentence says why."""


class ChatTemplate:
    """A checkpoint's chat templates: one, or several by name as transformers chooses among them."""

    def __init__(self, tokenizer_config: Path) -> None:
        """Read the templates of the folder that `tokenizer_config` lies in.

        Raises `TemplateFault`, for a folder without a template too, and `TokenizerFilesError`.
        """
        files = read_tokenizer_files(tokenizer_config.parent)
        if not files.templates:
            raise TemplateFault(f"{tokenizer_config.parent} has no chat template")
        self._environment = _environment()
        self._variables = files.variables
        self._templates = {
            name: self._compiled(name, source) for name, source in files.templates.items()
        }
        self._tools_known = {
            name: "tools" in meta.find_undeclared_variables(self._environment.parse(source))
            for name, source in files.templates.items()
        }

    def _compiled(self, name: str, source: str) -> Template:
        try:
            _check_literals(self._environment.parse(source))
            return self._environment.from_string(source)
        except (TemplateError, RecursionError, ValueError) as error:
            reason = " ".join(str(error).split())[:MAX_REASON]
            raise TemplateFault(f"the template {name!r} is refused: {reason}") from None

    def _chosen(self, tools: Sequence[Tool] | None) -> str:
        if tools and TOOL_USE in self._templates:
            return TOOL_USE
        if DEFAULT in self._templates:
            return DEFAULT
        raise InvalidMessages(
            "messages is given, and this checkpoint has no chat template of the name 'default': "
            f"it has {', '.join(map(repr, self._templates))}; send the whole prompt as text_input"
        )

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None
    ) -> RenderedPrompt:
        """The prompt up to the assistant's answer; raises `InvalidMessages`."""
        name = self._chosen(tools)
        if self._tools_known[name]:
            _check_first_message(messages, tools)
        else:
            _check_no_tools(messages, tools)
        try:
            text = self._templates[name].render(
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


def _to_json(
    value: object, indent: int | None = None, separators: tuple[str, str] | None = None
) -> str:
    # As transformers renders it: no HTML escapes, no \\u escapes.
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
