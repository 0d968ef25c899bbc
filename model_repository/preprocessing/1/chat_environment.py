"""Jinja as transformers sets it up for chat templates, with text that knows its author.

Jinja makes text in four places: output of a template, the operator `~`, filters and calls. This
file keeps track of users' words through each of them, user_words.py through the methods of `str`.
Text of unknown origin counts as a user's.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from types import BuiltinMethodType
from typing import Any

from jinja2 import Environment, TemplateError, nodes, pass_environment
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import FilterArgumentError, SecurityError
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner, Namespace
from user_words import (
    FORM_SYNTAX,
    Words,
    concatenated,
    followed,
    holds_words,
    joined,
    shadow_of,
    text_of,
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
