"""A guide of any kind: read and checked, or as a grammar for the library."""

from __future__ import annotations

import json
from typing import Any

from token_engine.choices import read_choices
from token_engine.interface import Guide
from token_engine.openvino_runtime.guide_grammar.automaton import (
    Deterministic,
    make_deterministic,
    wide_states,
)
from token_engine.openvino_runtime.guide_grammar.ebnf import parse_ebnf
from token_engine.openvino_runtime.guide_grammar.grammar import ROOT, Grammar, GuideError, shown
from token_engine.openvino_runtime.guide_grammar.json_reader.reader import (
    EFFORTS,
    any_json,
    read_json_schema,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.work import WORK
from token_engine.openvino_runtime.guide_grammar.printer import print_ebnf
from token_engine.openvino_runtime.guide_grammar.regex import parse_regex
from token_engine.openvino_runtime.guide_grammar.regular.choices import one_of_strings

MAX_WIDE_STATES = 400  # of a JSON schema, where less of what is valid takes fewer


def check_guide(guide: Guide) -> None:
    """Raise `ValueError` with one sentence if a guide within the shared bounds cannot be served.

    Takes about a microsecond a byte: at most 70 ms were measured, for 64 KiB of nothing but
    parentheses. Only the prover can tell the rest: what a JSON schema means, whether one character
    decides the guide where it recurs, and whether it compiles within its limits.
    """
    try:
        if guide.kind == "json_schema":
            _json(guide.text)
        elif guide.kind != "choice":  # the bounds that all runtimes share are enough
            read_guide(guide.kind, guide.text)
    except GuideError as error:
        raise ValueError(f"guided_decoding_guide {_on_one_line(str(error))}") from None


def read_guide(kind: str, text: str) -> Grammar:
    """The grammar that a guide is; raises `GuideError`.

    In steps in proportion to its length, but for a JSON schema, which may take many times as many.
    """
    if kind == "json":
        return any_json()
    if kind == "json_schema":
        return read_json_schema(_json(text))
    if kind == "regex":
        return Grammar({ROOT: parse_regex(text).node})
    return parse_ebnf(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise GuideError(f"is not JSON ({str(error)[:80]}); it must be a JSON schema") from None


def guide_to_ebnf(kind: str, text: str) -> str:
    """A deterministic grammar in EBNF; raises `GuideError`. May take seconds if it is hostile."""
    try:
        if kind == "choice":
            return print_ebnf(one_of_strings(read_choices(text)))
        if kind == "json_schema":
            return print_ebnf(_schema_automata(_json(text)))
        return print_ebnf(make_deterministic(read_guide(kind, text)))
    except GuideError as error:
        raise GuideError(_on_one_line(str(error))) from None
    except RecursionError:
        raise GuideError("nests too deep when it is written out; it must be simpler") from None


def _schema_automata(schema: Any) -> Deterministic:
    """Of a JSON schema, with as much of what is valid as leaves the grammar small enough."""
    WORK.begin()
    refusal: GuideError | None = None
    tried: Grammar | None = None
    automata: Deterministic | None = None  # the least that was small enough for any
    for effort in EFFORTS:
        try:
            grammar = read_json_schema(schema, effort)
            if grammar == tried:
                continue
            tried = grammar
            automata = make_deterministic(grammar)
        except GuideError as error:
            refusal = refusal or error
            continue
        if wide_states(automata) <= MAX_WIDE_STATES:
            break
    if automata is None:
        assert refusal is not None
        raise refusal
    return automata


def _on_one_line(text: str) -> str:
    """The names and values of a guide may hold anything."""
    return "".join(c if c.isprintable() else shown(ord(c)) for c in text)
