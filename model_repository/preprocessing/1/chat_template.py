"""Checked messages and tools -> the prompt that a checkpoint's chat template makes of them.

The template is rendered as transformers renders it, but over words that remember who wrote them
(user_words.py): the prompt's control tokens are those that the template itself wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chat_environment import ChatEnvironment
from chat_json import InvalidMessages
from chat_messages import TOOL_ROLES, Message, Tool, parse_messages, parse_tools
from jinja2 import Template, TemplateError, meta, nodes
from tokenizer_files import DEFAULT, read_tokenizer_files
from user_words import RenderedPrompt, text_of, words_of

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
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # a recursion without end is one
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
        self._variables = files.variables
        self._templates = {
            name: _NamedTemplate(name, source) for name, source in files.templates.items()
        }
        # All that the templates themselves can write, apart from what they make of its pieces.
        self.literals = "\0".join(template.literals for template in self._templates.values())

    def _chosen(self, tools: Sequence[Tool] | None) -> _NamedTemplate:
        if tools and TOOL_USE in self._templates:
            return self._templates[TOOL_USE]
        if DEFAULT in self._templates:
            return self._templates[DEFAULT]
        raise InvalidMessages(
            "messages is given, and this checkpoint has no chat template of the name 'default': "
            f"it has {', '.join(map(repr, self._templates))}; send the whole prompt as text_input"
        )

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None
    ) -> RenderedPrompt:
        """The prompt up to the assistant's answer; raises `InvalidMessages`."""
        template = self._chosen(tools)
        if template.knows_tools:
            _check_first_message(messages, tools)
        else:
            _check_no_tools(messages, tools)
        try:
            text = template.jinja.render(
                messages=[_as_words(message) for message in messages],
                tools=words_of(list(tools)) if tools else None,
                documents=None,
                add_generation_prompt=True,
                **self._variables,
            )
        except TEMPLATE_ERRORS as error:
            raise InvalidMessages(_refusal(messages, error)) from None
        return RenderedPrompt(text)


class _NamedTemplate:
    """A compiled template and what is known of its source."""

    def __init__(self, name: str, source: str) -> None:
        environment = ChatEnvironment()
        try:
            parsed = environment.parse(source)
            self.jinja: Template = environment.from_string(source)
        except (TemplateError, RecursionError, ValueError, SyntaxError) as error:
            reason = " ".join(str(error).split())[:MAX_REASON]
            raise TemplateFault(f"the template {name!r} is refused: {reason}") from None
        if parsed.find(nodes.ScopedEvalContextModifier):
            raise TemplateFault(f"the template {name!r} has the tag autoescape, which is for HTML")
        self.knows_tools = "tools" in meta.find_undeclared_variables(parsed)
        texts = [node.data for node in parsed.find_all(nodes.TemplateData)]
        texts += [
            node.value for node in parsed.find_all(nodes.Const) if isinstance(node.value, str)
        ]
        self.literals = "\0".join(texts)


def _as_words(message: Message) -> dict[str, Any]:
    """A role is one of a few names, with which a template may build a control token."""
    return {key: value if key == "role" else words_of(value) for key, value in message.items()}


def _refusal(messages: Sequence[Message], error: Exception) -> str:
    reason = text_of(" ".join(str(error).split()))[:MAX_REASON] or type(error).__name__
    for index, message in enumerate(messages):
        calls = message.get("tool_calls", ())
        if len(calls) > 1:  # Llama 3.1's template takes one
            return (
                f"messages[{index}].tool_calls is a list of {len(calls)} calls, which the chat "
                f"template may not take: {reason}"
            )
    return f"the chat template refuses the messages: {reason}"


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
