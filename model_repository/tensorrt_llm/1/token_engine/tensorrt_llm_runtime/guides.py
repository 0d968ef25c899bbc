"""Reads a guide with the package that TensorRT-LLM compiles it with, before the library gets it.

The library compiles a guide in its executor's loop. Up to 1.1 a guide that cannot be read ends
that loop, and so everybody's requests (_torch/pyexecutor/guided_decoder.py); from 1.2 on it ends
its own request alone.
"""

from __future__ import annotations

import importlib

from token_engine.interface import Guide
from token_engine.library_results import RefusedRequest, one_line


def check_guide(guide: Guide, backend: str) -> None:
    """Raise `RefusedRequest` if the backend, "xgrammar" or "llguidance", cannot read the guide."""
    if guide.kind == "json":
        return
    try:
        error = _xgrammar_error(guide) if backend == "xgrammar" else _llguidance_error(guide)
    except ImportError:  # then the library compiles with something else, and decides alone
        return
    if error:
        raise RefusedRequest(f"guided_decoding_guide is refused by {backend}: {error}")


def _xgrammar_error(guide: Guide) -> str:
    grammar = importlib.import_module("xgrammar").Grammar
    read = {
        "json_schema": grammar.from_json_schema,
        "regex": grammar.from_regex,
        "ebnf_grammar": grammar.from_ebnf,
    }[guide.kind]
    try:
        read(guide.text)
    except Exception as error:  # RuntimeError and others, of C++ and pydantic
        return one_line(error)
    return ""


def _llguidance_error(guide: Guide) -> str:
    matcher = importlib.import_module("llguidance").LLMatcher
    write = {
        "json_schema": matcher.grammar_from_json_schema,
        "regex": matcher.grammar_from_regex,
    }[guide.kind]
    try:
        return str(matcher.validate_grammar(write(guide.text)))
    except Exception as error:  # ValueError, and panics of Rust that are caught there
        return one_line(error)
