"""A guide of the kind "choice": a JSON list of strings. The output is exactly one of them."""

from __future__ import annotations

import json
import re

from token_engine.interface import Guide

NEEDED = 'it must be a JSON list of strings, such as ["yes", "no"]'
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
# A backslash before any of these means the character itself in every library's regexes.
_SPECIAL = re.compile(r"[\\.^$|?*+()\[\]{}]")
LONGEST_SHOWN = 40  # characters


def read_choices(text: str) -> tuple[str, ...]:
    """The different strings, in their order; raises `ValueError` with two clauses."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error}); {NEEDED}") from None
    if not isinstance(document, list):
        raise ValueError(f"is {_shown(document)}; {NEEDED}")
    for number, choice in enumerate(document):
        if not isinstance(choice, str):
            raise ValueError(f"has {_shown(choice)} at place {number} of the list; {NEEDED}")
        wrong = _NO_CHARACTER.search(choice)
        if wrong:
            raise ValueError(
                f"has U+{ord(wrong.group()):04X} in the string at place {number} of the list; "
                "it must hold Unicode characters from U+0001 on"
            )
    if not any(document):  # nothing could be generated but the end
        raise ValueError("has no string but empty ones; it must have at least one")
    return tuple(dict.fromkeys(document))


def choice_as_regex(guide: Guide) -> Guide:
    """The same guide as a regex, for a library that has no choices; other kinds as they are.

    Every library reads it alike: only the usual special characters stand behind a backslash, and
    the empty string makes the rest optional instead of being an empty alternative.
    """
    if guide.kind != "choice":
        return guide
    choices = read_choices(guide.text)
    longer = "|".join(_SPECIAL.sub(r"\\\g<0>", choice) for choice in choices if choice)
    return Guide("regex", f"({longer}){'?' if '' in choices else ''}")


def _shown(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + "..."
