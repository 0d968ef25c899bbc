"""The bounds of a guide for every runtime: its kind, its size, how deep it nests.

The runtime's own library decides whether it can honour a guide. But libraries read guides
recursively, and a guide that nests deeply overflows their stack (xgrammar's before 0.1.32), which
ends the engine. The lowest limit of a library is SGLang's: 64 levels of a JSON schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NoReturn, get_args

from token_engine.interface import Guide, GuideKind

KINDS = get_args(GuideKind)
MAX_BYTES = 64 * 1024
MAX_DEPTH = 64
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
# All text but brackets. Strings, classes and comments hide theirs; where one does not end, it
# reaches to the end of the text, so nothing is tried twice.
_STRING = r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)'
_CLASS = r"\[(?:[^\]\\]|\\.)*(?:\]|\\?\Z)"
_BESIDE = {
    "json_schema": re.compile(rf'{_STRING}|[^"\[\]{{}}]+', re.DOTALL),
    "regex": re.compile(rf"\\.|\\\Z|{_CLASS}|[^()\[\\]+", re.DOTALL),
    "ebnf_grammar": re.compile(rf'{_STRING}|{_CLASS}|#[^\n]*|[^()\["#]+', re.DOTALL),
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
    deepest = _depth(kind, text)
    if deepest <= MAX_DEPTH and kind == "json_schema":
        # A pattern is a regex, and may be any string of the schema.
        deepest = max((_depth("regex", one) for one in _strings(_json(text))), default=0)
    if deepest > MAX_DEPTH:
        raise _wrong(f"nests {deepest} deep; it must nest at most {MAX_DEPTH} deep")


def _wrong(said: str) -> ValueError:
    return ValueError(f"guided_decoding_guide {said}")


def _depth(kind: str, text: str) -> int:
    brackets = _BESIDE[kind].sub("", text)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _json(text: str) -> Any:
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(document, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except UnicodeEncodeError:
        raise _wrong("has half a surrogate pair; it must hold whole characters") from None
    except ValueError as error:
        raise _wrong(f"is no JSON ({str(error)[:80]}); it must be a JSON schema") from None
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _strings(document: Any) -> Iterator[str]:
    parts = [document]
    while parts:
        part = parts.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            parts += [*part, *part.values()]
        elif isinstance(part, list):
            parts += part
