"""A guide of any kind: its text, checked and read, or as a grammar for the library."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, NoReturn

from token_engine.openvino_runtime.guide_grammar.automaton import make_deterministic
from token_engine.openvino_runtime.guide_grammar.ebnf import parse_ebnf
from token_engine.openvino_runtime.guide_grammar.grammar import ROOT, Grammar, GuideError
from token_engine.openvino_runtime.guide_grammar.json_schema import any_json, read_json_schema
from token_engine.openvino_runtime.guide_grammar.printer import print_ebnf
from token_engine.openvino_runtime.guide_grammar.regex import parse_regex

KINDS = ("json", "json_schema", "regex", "ebnf_grammar")
MAX_BYTES = 64 * 1024
MAX_JSON_DEPTH = 64
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
# All that is no bracket. A string matches wherever it begins, at the latest up to the text's end:
# nothing is tried twice.
_BESIDE_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[^"\[\]{}]+', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def read_guide(kind: str, text: str) -> Grammar:
    """The grammar that a guide is, in steps in proportion to its length; raises `GuideError`.

    What would be much longer than the text is left to a network (`grammar.Later`).
    """
    _check_text(kind, text)
    if kind == "json":
        return any_json()
    if kind == "json_schema":
        return read_json_schema(_json(text))
    if kind == "regex":
        return Grammar({ROOT: parse_regex(text).node})
    return parse_ebnf(text)


def guide_to_ebnf(kind: str, text: str) -> str:
    """A deterministic grammar in EBNF; raises `GuideError`. May take seconds if it is hostile."""
    return print_ebnf(make_deterministic(read_guide(kind, text)))


def _check_text(kind: str, text: str) -> None:
    if kind == "json":
        if text:
            raise GuideError(f"has {len(text)} characters, allowed is none with the type json")
        return
    if not text:
        raise GuideError(f"is empty, allowed with the type {kind} is a text")
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise GuideError(f"has {size} bytes, allowed are {MAX_BYTES}")
    wrong = _NO_CHARACTER.search(text)
    if wrong:
        raise GuideError(
            f"has U+{ord(wrong.group()):04X} at character {wrong.start()}, "
            "allowed are Unicode characters from U+0001 on"
        )


def _json(text: str) -> Any:
    brackets = _BESIDE_BRACKETS.sub("", text)
    deepest = max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)
    if deepest > MAX_JSON_DEPTH:
        raise GuideError(f"nests {deepest} deep, allowed is {MAX_JSON_DEPTH}")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(document, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except UnicodeEncodeError:
        raise GuideError("has half a surrogate pair, allowed are whole characters") from None
    except ValueError as error:
        raise GuideError(f"is no JSON ({str(error)[:80]}), allowed is a JSON schema") from None
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
