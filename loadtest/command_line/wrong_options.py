"""A wrong command line gets one sentence that names the option and what it must be."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence

NOT_KNOWN = re.compile(r"unrecognized arguments: (\S+)")
WRONG_VALUE = re.compile(r"argument (.+?): invalid (\w+) value: (.+)")
NO_VALUE = re.compile(r"argument (.+?): expected (?:one|at least one) argument")
ABOUT_ONE = re.compile(r"argument (.+?): (.+)")
KINDS = {
    "float": "a number",
    "GivenRate": "a number",
    "int": "a whole number",
    "positive_integer": "a whole number",
}
HELP = "python loadtest/locustfile.py --help"


def refuse_plainly(parser: argparse.ArgumentParser, refuse: Callable[[str], object]) -> None:
    """Have the parser call `refuse(sentence)` for an error; that must end the process."""

    def error(message: str) -> None:
        refuse(sentence(message, _options(parser), sys.argv[1:]))

    parser.error = error  # type: ignore[method-assign, assignment]
    for action in parser._actions:
        if action.dest == "user_classes":  # for Locust every word without a dash is a user class
            action.type = _user_class


def sentence(message: str, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
    """argparse's `message` in plain words; `options` are all known ones.

    An unknown option in `arguments` comes first, because argparse may name its value instead.
    """
    names = [each.partition("=")[0] for each in arguments if each.startswith("--")]
    unknown = [name for name in names if not any(each.startswith(name) for each in options)]
    if (match := NOT_KNOWN.search(message)) or unknown:
        name = unknown[0] if unknown or match is None else match[1].partition("=")[0]
        close = difflib.get_close_matches(name, options, n=1)
        told = f"did you mean {close[0]}?" if close else f"{HELP} lists them"
        return f"there is no option {name}; {told}"
    if match := WRONG_VALUE.fullmatch(message):
        return f"{_last(match[1])} must be {KINDS.get(match[2], match[2])}, not {match[3]}"
    if match := NO_VALUE.fullmatch(message):
        return f"{_last(match[1])} needs a value; {HELP} says which"
    if match := ABOUT_ONE.fullmatch(message):
        of = f"{_last(match[1])}: " if match[1].startswith("-") else ""
        return f"{of}{match[2]}"
    return message


def _last(names: str) -> str:
    return names.rpartition("/")[2]


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings]


def _user_class(name: str) -> str:
    if name != "LlamaUser":
        raise argparse.ArgumentTypeError(f"{name!r} is not an option; their names begin with --")
    return name
