"""Checked messages and tools -> the prompt that a checkpoint's chat template makes of them.

The template is rendered as transformers renders it, but over words that remember who wrote them
(user_words.py): the prompt's control tokens are those that the template itself wrote.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chat_environment import ChatEnvironment
from chat_messages import (
    TOOL_ROLES,
    InvalidMessages,
    Message,
    Tool,
    arguments_text,
    parse_messages,
    parse_tools,
)
from jinja2 import Template, TemplateError, meta, nodes
from single_calls import with_single_calls
from tokenizer_files import DEFAULT, read_tokenizer_files
from user_words import RenderedPrompt, shadow_of, text_of, words_of

__all__ = [
    "ChatTemplate",
    "InvalidMessages",
    "Message",
    "TemplateFault",
    "Tool",
    "parse_messages",
    "parse_tools",
]

# What a template may raise over values that it did not expect.
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
SYSTEM, USER, ASSISTANT = (
    {"role": role, "content": "x"} for role in ("system", "user", "assistant")
)
CALL = {"id": "000000000", "type": "function", "function": {"name": "f", "arguments": {"x": "x"}}}
CALLING: Message = {"role": "assistant", "tool_calls": [CALL]}
RESULTS: list[Message] = [
    {"role": role, "content": "x", "tool_call_id": CALL["id"]} for role in TOOL_ROLES
]
KIND_OF_TOOL: Tool = {
    "type": "function",
    "function": {"name": "f", "description": "x", "parameters": {"type": "object"}},
}
# Conversations with messages of every kind, some of which a template may refuse.
KINDS: list[list[Message]] = [
    [USER],
    [SYSTEM, USER],
    [USER, ASSISTANT, USER],
    [USER, {**ASSISTANT, "reasoning_content": "x"}, USER],
    *([USER, CALLING, result] for result in RESULTS),
    *([USER, CALLING, result, ASSISTANT, USER] for result in RESULTS),
]
NEED_A_FILE: tuple[type[nodes.Node], ...] = (
    nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport,
)  # fmt: skip
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
        self._names = list(files.templates)
        self._templates = {
            name: _NamedTemplate(name, source)
            for name, source in files.templates.items()
            if name in (DEFAULT, TOOL_USE)
        }
        # Everything that the templates write: their texts, and what they put together around every
        # kind of message, such as '<|' + message.role + '|>'.
        texts = [template.literals for template in self._templates.values()]
        texts += [text for name, text in files.templates.items() if name not in self._templates]
        self.literals = "\0".join((*texts, *self._built()))

    def _built(self) -> Iterator[str]:
        for messages, tools in itertools.product(KINDS, (None, [KIND_OF_TOOL])):
            with suppress(InvalidMessages):
                yield shadow_of(self.render(messages, tools))

    def _chosen(self, tools: Sequence[Tool] | None) -> _NamedTemplate:
        if tools and TOOL_USE in self._templates:
            return self._templates[TOOL_USE]
        if DEFAULT in self._templates:
            return self._templates[DEFAULT]
        raise InvalidMessages(
            "messages is given, and this checkpoint has no chat template of the name 'default': "
            f"it has {', '.join(map(repr, self._names))}; send the whole prompt as text_input"
        )

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None
    ) -> RenderedPrompt:
        """The prompt up to the assistant's answer; raises `InvalidMessages`."""
        template = self._chosen(tools)
        if template.knows_tools:
            self._check_first_message(template, messages, tools)
        else:
            _check_no_tools(messages, tools, template.knows_calls)
        try:
            return self._rendered(template, messages, tools)
        except TEMPLATE_ERRORS as error:
            refusal = InvalidMessages(_refusal(error))
        for other_form in _other_forms(messages):
            with suppress(*TEMPLATE_ERRORS):
                return self._rendered(template, other_form, tools)
        raise refusal

    def _check_first_message(
        self,
        template: _NamedTemplate,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
    ) -> None:
        """Llama's templates put the tools into the first message's turn and call it the user's,
        whatever its role is."""
        index = 1 if messages[0]["role"] == "system" else 0
        if not tools or index >= len(messages) or messages[index]["role"] == "user":
            return
        prompts: list[str | None] = []
        for role in (messages[index]["role"], "user"):
            in_role = [*messages[:index], {**messages[index], "role": role}, *messages[index + 1 :]]
            prompts.append(None)
            with suppress(*TEMPLATE_ERRORS):
                prompts[-1] = self._rendered(template, in_role, tools)
        if prompts[0] is not None and prompts[0] == prompts[1]:
            raise InvalidMessages(
                f"messages[{index}].role is {messages[index]['role']!r} and must be "
                "'user' with tools: the template puts the tools into the user's first message"
            )

    def _rendered(
        self, template: _NamedTemplate, messages: Sequence[Message], tools: Sequence[Tool] | None
    ) -> RenderedPrompt:
        text = template.jinja.render(
            messages=[_as_words(message) for message in messages],
            tools=words_of(list(tools)) if tools else None,
            documents=None,
            add_generation_prompt=True,
            **self._variables,
        )
        return RenderedPrompt(text)


class _NamedTemplate:
    """A compiled template and facts from its source."""

    def __init__(self, name: str, source: str) -> None:
        environment = ChatEnvironment()
        try:
            parsed = environment.parse(source)
            self.jinja: Template = environment.from_string(source)
        except (TemplateError, RecursionError, ValueError, SyntaxError) as error:
            reason = " ".join(str(error).split())[:MAX_REASON]
            raise TemplateFault(f"the template {name!r} is refused: {reason}") from None
        if any(map(parsed.find, NEED_A_FILE)):
            raise TemplateFault(
                f"the template {name!r} needs another file, which no checkpoint has"
            )
        if parsed.find(nodes.ScopedEvalContextModifier):
            raise TemplateFault(f"the template {name!r} has the tag autoescape, which is for HTML")
        self.knows_tools = "tools" in meta.find_undeclared_variables(parsed)
        texts = [node.data for node in parsed.find_all(nodes.TemplateData)]
        texts += [
            node.value for node in parsed.find_all(nodes.Const) if isinstance(node.value, str)
        ]
        self.literals = "\0".join(texts)
        # DeepSeek's templates print calls and results, and no tools.
        self.knows_calls = "tool_calls" in texts or any(
            node.attr == "tool_calls" for node in parsed.find_all(nodes.Getattr)
        )


def _as_words(message: Message) -> dict[str, Any]:
    """A role counts as the template's text: it is one of a few names."""
    return {key: value if key == "role" else words_of(value) for key, value in message.items()}


def _other_forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Messages with calls in forms that some templates ask for: beside a call the null that
    OpenAI's clients send (transformers leaves it out since its version 5, DeepSeek's templates ask
    for it) or an empty text, arguments as the text of JSON, and one call in a message."""
    if not any("tool_calls" in message for message in messages):
        return
    contents: list[Message] = [{}, {"content": None}, {"content": ""}]
    single = with_single_calls(messages)
    for form in (messages, single) if len(single) > len(messages) else (messages,):
        for as_text, content in itertools.product((False, True), contents):
            if form is single or as_text or content:
                yield [_in_form(message, content, as_text) for message in form]


def _in_form(message: Message, content: Message, as_text: bool) -> Message:
    if "tool_calls" not in message:
        return message
    calls = message["tool_calls"]
    return {**content, **message, "tool_calls": [*map(_with_text, calls)] if as_text else calls}


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": arguments_text(function["arguments"])}}


def _refusal(error: Exception) -> str:
    reason = text_of(" ".join(str(error).split()))[:MAX_REASON] or type(error).__name__
    return f"the chat template refuses the messages: {reason}"


def _check_no_tools(
    messages: Sequence[Message], tools: Sequence[Tool] | None, knows_calls: bool
) -> None:
    if tools:
        raise InvalidMessages(
            f"tools is a list of {len(tools)} and must be left out: "
            "this checkpoint's chat template does not know tools"
        )
    for index, message in enumerate(() if knows_calls else messages):
        if message["role"] in TOOL_ROLES or "tool_calls" in message:
            raise InvalidMessages(
                f"messages[{index}] is a tool's call or result and must be words: "
                "this checkpoint's chat template does not know tools"
            )
