"""Checks an answer's flags, lengths and text.

A greedy answer must equal the unloaded server's answer to the same prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CUT = "the text has U+FFFD: half a character, or the model's own, which --no-text-check allows"
FINISH_REASONS = ("stop", "length")


@dataclass(slots=True)
class Answer:
    """The answer to one request so far."""

    text: str = ""
    finals: int = 0  # responses with the final flag
    after_final: int = 0  # responses that came after it
    finish_reason: str = ""
    num_output_tokens: int = 0
    num_input_tokens: int = 0


def digest(text: str) -> str:
    """A text's hash, short enough to send to every worker."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_greedy(options: Mapping[str, Any]) -> bool:
    """Whether the same prompt must get the same text, by upstream's rule for these options."""
    if options.get("temperature") == 0 or options.get("top_k") == 1:
        return True
    return not any(options.get(name) for name in ("temperature", "top_k", "top_p", "min_p"))


def wrong(
    answer: Answer, max_tokens: int, options: Mapping[str, Any], reference: str | None
) -> str:
    """What is wrong with a completed answer, one sentence, or "".

    `reference` is the `digest` of its unloaded text, or "" if there is none. None: do not check the
    text.
    """
    if answer.finals != 1 or answer.after_final:
        return (
            f"there must be one final flag and no response after it, not {answer.finals} and "
            f"{answer.after_final}"
        )
    if answer.finish_reason not in FINISH_REASONS:
        return f"finish_reason must be stop or length, not {answer.finish_reason!r}"
    if answer.num_output_tokens > max_tokens:
        return f"output tokens must be at most {max_tokens}, not {answer.num_output_tokens}"
    if options.get("ignore_eos") and answer.num_output_tokens != max_tokens:
        return f"output tokens must be exactly {max_tokens}, not {answer.num_output_tokens}"
    if reference is None:
        return ""
    if not reference:
        # A model may write U+FFFD, as only the unloaded text knows.
        return CUT if REPLACEMENT in answer.text else ""
    if digest(answer.text) != reference:
        return f"the text differs from the unloaded one: {answer.text[:60]!r}"
    return ""
