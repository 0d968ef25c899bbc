"""Checked messages and tools -> the prompt that a checkpoint's chat template makes of them.

The template is rendered as transformers renders it, but over words that remember who wrote them
(user_words.py): the prompt's control tokens are those that the template itself wrote.

Jinja makes text in four places: output of a template, the operator `~`, filters and calls.
`ChatEnvironment` keeps track of users' words through each of them, user_words.py through the
methods of `str`. Text of unknown origin counts as a user's.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import BuiltinMethodType
from typing import Any

from chat_messages import TOOL_ROLES, InvalidMessages, Message, Tool, arguments_text
from jinja2 import Environment, Template, TemplateError, meta, nodes, pass_environment
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import FilterArgumentError, SecurityError
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner, Namespace
from single_calls import with_single_calls
from tokenizer_files import DEFAULT, read_tokenizer_files
from user_words import (
    FORM_SYNTAX,
    RenderedPrompt,
    Words,
    concatenated,
    followed,
    holds_words,
    joined,
    shadow_of,
    text_of,
    words_of,
)

# Filters that return parts of their arguments and make no text.
PASSING = frozenset((
    "attr", "batch", "d", "default", "dictsort", "first", "groupby", "items", "last", "list",
    "map", "max", "min", "random", "reject", "rejectattr", "select", "selectattr", "slice", "sort",
    "sum", "unique",
))  # fmt: skip
# Filters that only call methods of `Words`.
FOLLOWING = frozenset(("capitalize", "center", "lower", "reverse", "trim", "truncate", "upper"))
# These, and methods of these, already keep track of their text or return parts of it.
TRUSTED = (
    BlockReference, Cycler, Extension, Joiner, LoopContext, Macro, Namespace, Words, dict, list,
    tuple,
)  # fmt: skip
# Formats that turn numbers, perhaps a user's, into characters: "%c", "{:c}" and "{:{kind}}".
FROM_NUMBERS = re.compile(r"%(\([^)]*\))?[-#+ *.\dhlL]*c|:[^{}]*(c\}|\{)")
CALLED_IN_LOOPS = ("_loop_vars", "_block_vars")  # Jinja's own arguments
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
EMPTY_TURN: Message = {"role": "user", "content": ""}
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
            messages = self._begun_by_user(template, messages, tools)
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

    def _begun_by_user(
        self,
        template: _NamedTemplate,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
    ) -> Sequence[Message]:
        """Llama's templates put the tools into the first message's turn and call it the user's,
        whatever its role is, and refuse tools without such a message. There the tools get a turn of
        the user's of their own."""
        index = 1 if messages[0]["role"] == "system" else 0
        if not tools or (index < len(messages) and messages[index]["role"] == "user"):
            return messages
        begun = [*messages[:index], EMPTY_TURN, *messages[index:]]
        prompt = self._prompt(template, messages, tools)
        if index == len(messages):
            return begun if prompt is None else messages
        in_role = [*messages[:index], {**messages[index], "role": "user"}, *messages[index + 1 :]]
        is_misnamed = prompt is not None and prompt == self._prompt(template, in_role, tools)
        return begun if is_misnamed else messages

    def _prompt(
        self, template: _NamedTemplate, messages: Sequence[Message], tools: Sequence[Tool] | None
    ) -> str | None:
        with suppress(*TEMPLATE_ERRORS):
            return self._rendered(template, messages, tools)
        return None

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


def as_text(value: Any) -> str:
    """The text that a template writes for any value."""
    if isinstance(value, str):
        return value
    return Words(str(value)) if holds_words(value) else str(value)


def str_join(values: Iterable[Any]) -> str:
    """The operator `~`."""
    return concatenated(map(as_text, values))


def filled(make: Callable[..., str], form: str, *values: Any) -> str:
    """Fill a format such as "%s" or "{}" with values, by calling `make`."""
    if FROM_NUMBERS.search(text_of(form).replace("%%", "")):
        return Words(make(form, *values))
    if holds_words((form, values)):
        return followed(make, form, *values, syntax=FORM_SYNTAX)
    return make(form, *values)


class _Generator(CodeGenerator):
    """Makes a compiled template call our functions for `str` and joined text."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        super().visit_Template(node, frame)
        self.writeline("str = environment.as_text")
        self.writeline("str_join = environment.str_join")


class _Generation(Extension):
    """`{% generation %}`: transformers marks the assistant's words for training with it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Macro) -> str:
        text: str = caller()
        return text


class _Namespace(Namespace):
    """Refuses the names through which a template could reach Python's internals."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates with `from_string`.

    They render to `Words`, or to a plain `str` if it has no user's words.
    """

    code_generator_class = _Generator
    concat = staticmethod(concatenated)
    intercepted_binops = frozenset("%")

    as_text = staticmethod(as_text)
    str_join = staticmethod(str_join)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        for name, function in self.filters.items():
            if name not in PASSING:
                self.filters[name] = _origin_kept(function, name in FOLLOWING)
        self.filters |= OUR_FILTERS
        self.globals.update(
            raise_exception=_raise, strftime_now=_strftime_now, namespace=_Namespace
        )

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operator `%`: a format filled with users' words gives `Words`."""
        if isinstance(left, str):
            return filled(self.binop_table[operator], left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`format` and `format_map` of a text."""
        if super().wrap_str_format(value) is None:
            return None
        form, name = value.__self__, value.__name__
        make = SandboxedFormatter(self).vformat

        def formatted(*arguments: Any, **named: Any) -> str:
            if name == "format_map":
                (named,), arguments = arguments, ()
            return filled(make, form, arguments, named)

        return formatted

    def call(
        __self,
        __context: Context,
        __function: Any,
        *arguments: Any,
        **named: Any,
    ) -> Any:
        """Every call of a template."""
        owner = getattr(__function, "__self__", None)
        given = (arguments, {k: v for k, v in named.items() if k not in CALLED_IN_LOOPS})
        if isinstance(__function, BuiltinMethodType) and isinstance(owner, str):
            if __function.__name__ == "join" and len(arguments) == 1:
                return joined(owner, arguments[0])
            if holds_words(given):  # the method of the same name, which keeps track
                owner = Words(owner, shadow_of(owner))
                __function = getattr(owner, __function.__name__)
        result = super().call(__context, __function, *arguments, **named)
        if isinstance(result, str) and getattr(__function, "__name__", "") == "translate":
            return Words(result)  # its table has numbers, perhaps of users' characters
        if type(result) is not str or isinstance(__function, TRUSTED) or isinstance(owner, TRUSTED):
            return result
        return Words(result) if isinstance(owner, bytes) or holds_words(given) else result


def _origin_kept(function: Callable[..., Any], follows: bool) -> Callable[..., Any]:
    """A filter whose result is a user's if an argument is; HTML's safe text becomes plain."""

    @functools.wraps(function)
    def filtered(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        if not isinstance(result, str) or (follows and isinstance(result, Words)):
            return result
        given = [a for a in arguments if not isinstance(a, Context | Environment | EvalContext)]
        return Words(text_of(result)) if holds_words((given, named)) else text_of(result)

    return filtered


@pass_environment
def _join(
    environment: Environment, value: Any, d: str = "", attribute: str | int | None = None
) -> str:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return joined(as_text(d), map(as_text, items))


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = as_text(value), as_text(old), as_text(new)
    times = -1 if count is None else count
    if not holds_words((text, new)):
        return text.replace(old, new, times)
    return Words(text, shadow_of(text)).replace(old, new, times)


def _format(value: Any, *arguments: Any, **named: Any) -> str:
    if arguments and named:
        raise FilterArgumentError("format takes positional or named arguments, and not both")
    return filled(operator.mod, as_text(value), named or arguments)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    indention = width if isinstance(width, str) else " " * width
    lines = (as_text(value) + "\n").splitlines()
    rest = [indention + line if line or blank else line for line in lines[1:]]
    return joined("\n", [indention + lines[0] if first else lines[0], *rest])


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # As transformers renders it: no HTML escapes, and no \\u escapes unless a template wants them.
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    return Words(text) if holds_words((value, indent, separators)) else text


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


OUR_FILTERS: dict[str, Callable[..., Any]] = {
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "safe": as_text,
    "string": as_text,
    "tojson": _to_json,
}
