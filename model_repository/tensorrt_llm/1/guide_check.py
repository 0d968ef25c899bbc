"""Whether a guide can be served, as far as that can be told at once. Knows no engine.

The rest is told by the runtime: whether the guide is decided by one character where it recurs, and
whether it can be compiled within its limits.
"""

from __future__ import annotations

from guide_language.grammar import GuideError
from guide_language.guides import KINDS, read_guide


def check_guide(kind: str, text: str) -> None:
    """Raise `ValueError` with one sentence that names the input, its value and what is allowed.

    `kind` and `text` are guided_decoding_guide_type and guided_decoding_guide. Takes milliseconds.
    """
    if kind not in KINDS:
        said = repr(kind[:40]) if kind else "missing"
        raise ValueError(
            f"guided_decoding_guide_type is {said}, allowed is one of {', '.join(KINDS)}"
        )
    try:
        read_guide(kind, text)
    except GuideError as error:
        raise ValueError(f"guided_decoding_guide {error}") from None
