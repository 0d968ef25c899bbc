"""Whether a guide can be served, as far as that can be told at once. Knows no engine.

The rest is told by the runtime: whether the guide is decided by one character where it recurs, and
whether it can be compiled within its limits.
"""

from __future__ import annotations

from token_engine.openvino_runtime.guide_grammar.grammar import GuideError, shown
from token_engine.openvino_runtime.guide_grammar.guides import KINDS, read_guide


def check_guide(kind: str, text: str) -> None:
    """Raise `ValueError` with one sentence that names the input, its value and what is allowed.

    `kind` and `text` are guided_decoding_guide_type and guided_decoding_guide. Takes a microsecond
    or so for each byte: up to 70 ms were measured, for 64 KiB of nothing but parentheses.
    """
    if kind not in KINDS:
        said = repr(kind[:40]) if kind else "missing"
        raise ValueError(
            f"guided_decoding_guide_type is {said}, allowed is one of {', '.join(KINDS)}"
        )
    try:
        read_guide(kind, text)
    except GuideError as error:
        raise ValueError(f"guided_decoding_guide {_on_one_line(str(error))}") from None


def _on_one_line(text: str) -> str:
    """The names and values of a guide may hold anything."""
    return "".join(c if c.isprintable() else shown(ord(c)) for c in text)
