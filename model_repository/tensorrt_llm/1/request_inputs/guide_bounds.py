"""The bounds of a guide for every runtime: its kind, its size, how deep it nests.

The runtime's own library decides whether it can honour a guide. But libraries read guides
recursively, and a guide that nests deeply overflows their stack (xgrammar's before 0.1.32), which
ends the engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NoReturn, get_args

from token_engine.choices import read_choices
from token_engine.interface import Guide, GuideKind

KINDS = get_args(GuideKind)
MAX_BYTES = 64 * 1024
# Of brackets. Each level of a JSON schema's properties is two.
MAX_DEPTHS = {"json_schema": 128, "regex": 64, "ebnf_grammar": 64, "choice": 64}
MAX_DIGITS = 4300  # Python's own limit
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
# All text but brackets. Strings, classes and comments hide theirs. Where one does not end, it
# reaches to the end of the text, or in a grammar of the line, so nothing is tried twice.
_STRING = r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)'
_CLASS = r"\[(?:[^\]\\]|\\.)*(?:\]|\\?\Z)"
_LINE_STRING = r'"(?:[^"\\\n]|\\.)*(?:"|\\?$)'
_LINE_CLASS = r"\[(?:[^\]\\\n]|\\.)*(?:\]|\\?$)"
_JSON = re.compile(rf'{_STRING}|[^"\[\]{{}}]+', re.DOTALL)
_BESIDE = {
    "json_schema": _JSON,
    "choice": _JSON,
    "regex": re.compile(rf"\\.|\\\Z|{_CLASS}|[^()\[\\]+", re.DOTALL),
    "ebnf_grammar": re.compile(rf'{_LINE_STRING}|{_LINE_CLASS}|#[^\n]*|[^()\["#]+', re.MULTILINE),
}
_STEPS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def check_bounds(guide: Guide) -> None:
    """Raise `ValueError` with one sentence that names the input, its value and what it must be."""
    kind, text = guide.kind, guide.text
    if kind not in KINDS:
        said = repr(kind[:40]) if kind else "missing"
        raise ValueError(
            f"guided_decoding_guide_type is {said} and must be one of {', '.join(KINDS)}"
        )
    if kind == "json":
        if text:
            raise _wrong(f"has {len(text)} characters; it must be empty with the type json")
        return
    if not text:
        raise _wrong(f"is empty; it must be a string with the type {kind}")
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise _wrong(f"has {size} bytes; it must have at most {MAX_BYTES}")
    wrong = _NO_CHARACTER.search(text)
    if wrong:
        raise _wrong(
            f"has U+{ord(wrong.group()):04X} at character {wrong.start()}; "
            "it must hold Unicode characters from U+0001 on"
        )
    _check_depth(kind, text)
    if kind == "json_schema":
        for pattern in _patterns(_json(text)):
            _check_depth("regex", pattern)
    elif kind == "choice":
        _check_choices(text)


def _wrong(said: str) -> ValueError:
    return ValueError(f"guided_decoding_guide {said}")


def _check_choices(text: str) -> None:
    try:
        read_choices(text)
    except ValueError as error:
        raise _wrong(str(error)) from None


def _check_depth(kind: str, text: str) -> None:
    brackets = _BESIDE[kind].sub("", text)
    steps = map(_STEPS.__getitem__, brackets)
    # Never below 0: what closes too much opens nothing.
    deepest = max(accumulate(steps, lambda depth, step: max(depth + step, 0), initial=0))
    if deepest > MAX_DEPTHS[kind]:
        raise _wrong(f"nests {deepest} deep; it must nest at most {MAX_DEPTHS[kind]} deep")


def _json(text: str) -> Any:
    """The document with each object as a list of pairs, which keeps a name's every value."""
    try:
        document = json.loads(
            text, parse_constant=_refuse_constant, parse_int=_integer, object_pairs_hook=list
        )
        json.dumps(document, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except UnicodeEncodeError:
        raise _wrong("has half a surrogate pair; it must hold whole characters") from None
    except json.JSONDecodeError as error:
        raise _wrong(f"is not JSON ({error}); it must be a JSON schema") from None
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise _wrong(f"is not JSON ({name} is not a JSON number); it must be a JSON schema")


def _integer(digits: str) -> int:
    count = len(digits.lstrip("-"))
    if count > MAX_DIGITS:
        raise _wrong(f"has a number of {count} digits; it must have at most {MAX_DIGITS}")
    return 0  # its value is not needed here


def _patterns(document: Any) -> Iterator[str]:
    """The regexes of a schema. A part that looks like data may be a schema too, through $ref."""
    parts = [document]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += part
        elif isinstance(part, tuple):
            name, value = part
            parts.append(value)
            if name == "pattern" and isinstance(value, str):
                yield value
            elif name == "patternProperties" and isinstance(value, list):
                yield from (pair[0] for pair in value if isinstance(pair, tuple))
