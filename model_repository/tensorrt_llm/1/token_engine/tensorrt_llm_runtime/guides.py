"""Checks a guide with the package that TensorRT-LLM compiles it with, before the library gets it.

The library compiles a guide in its executor's loop. Up to 1.1 a guide that cannot be read ends
that loop, and with it all requests (_torch/pyexecutor/guided_decoder.py). From 1.2 on it only ends
its own request.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from token_engine.choices import choice_as_regex
from token_engine.interface import Guide
from token_engine.library_results import RefusedRequest, one_line


def check_guide(guide: Guide, backend: str) -> None:
    """Raise `RefusedRequest` if the backend, "xgrammar" or "llguidance", cannot read the guide."""
    if guide.kind == "json":
        return
    guide = choice_as_regex(guide)
    try:
        read = _xgrammar_reader(guide) if backend == "xgrammar" else _llguidance_reader(guide)
    except (ImportError, AttributeError, OSError):  # not installed, too old or too new, or broken
        return  # TensorRT-LLM decides alone
    try:
        error = read()
    except Exception as raised:  # of C++, pydantic or Rust
        error = one_line(raised)
    if error:
        raise RefusedRequest(f"guided_decoding_guide is refused by {backend}: {error}")


def _xgrammar_reader(guide: Guide) -> Callable[[], str]:
    grammar = importlib.import_module("xgrammar").Grammar
    name = {"json_schema": "json_schema", "regex": "regex", "ebnf_grammar": "ebnf"}[guide.kind]
    from_text = getattr(grammar, f"from_{name}")

    def read() -> str:
        from_text(guide.text)
        return ""

    return read


def _llguidance_reader(guide: Guide) -> Callable[[], str]:
    matcher = importlib.import_module("llguidance").LLMatcher
    write = getattr(matcher, f"grammar_from_{guide.kind}")
    validate = matcher.validate_grammar
    return lambda: str(validate(write(guide.text)))
